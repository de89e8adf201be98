"""Settings of all tests, and how `pytest -n` shares them among its processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.support.client_packages import NODE

GPU_LAYERS = int(os.environ.get("TENANTD_TEST_GPU_LAYERS", "0"))
"""What tests/support/device.py says, which the environment of the oldest client cannot import."""

with contextlib.suppress(ImportError):  # tests with the oldest client have an environment of their own, without it
    from tests.support import examples

    examples.register()

# A shell starts what it runs in the background with SIGINT ignored, and so would be all programs that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

MOST_PROCESSES = 8
LONGEST = (
    "mutations/test_mutations.py",
    "test_declared_once.py",
    "test_examples.py",
    "conformance/test_versions.py",
    "crashes/test_kills.py",
    "engine/test_backlog.py",
    "engine/test_simulation.py",
    "isolation/test_interleavings.py",
    "model/test_constraints.py",
    "model/test_grammar_costs.py",
    "model/test_load.py",
    "model/test_text.py",
    "process/test_described_requests.py",
    "process/test_doctor.py",
    "process/test_ledger_files.py",
    "process/test_users.py",
    "attacks/test_connections.py",
    "attacks/test_bodies.py",
    "attacks/test_text.py",
)
"""Files that take longest, relative to this folder. They begin first, so that no process has one left in the end."""


def pytest_report_header() -> list[str]:
    """What this machine has no program for."""
    return [] if NODE else ["without the tests of the client for JavaScript: node and npm are not installed"]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` means: two processes for each CPU, because most tests wait for programs that they start."""
    return min(2 * len(os.sched_getaffinity(0)), MOST_PROCESSES)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, and those with tests that need the machine alone last."""
    if GPU_LAYERS:
        items[:] = [item for item in items if not item.get_closest_marker("needs_cpu")]
    early = {Path(__file__).parent / name for name in LONGEST}
    late = {item.path for item in items if item.get_closest_marker("alone")}
    items.sort(key=lambda item: (item.path in late, item.path not in early))


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before the test's timeout begins
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Processes run their tests at the same time, but each test that is marked `alone` by itself."""
    if not hasattr(item.config, "workerinput"):
        return (yield)
    with Path(__file__).open("rb") as machine:
        fcntl.flock(machine, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        return (yield)
