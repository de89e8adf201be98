"""llama-server's own tests, with tenantd in its place.

    python -m tests.clients.llama_server [PATTERN ...] [--json FILE]

The tests come from the source package of llama-cpp-python on PyPI, of the version that tenantd uses, and are run as
they are, in an environment of their own in build/clients. What they start is `relay.py`. Their models cannot
be had without a hub, so a model of random weights stands in. `reasons.toml` has why a test does not apply: because of
the model, or because it is about something that tenantd does in another way, or not at all.

Prints the counts of each file, and the failures. Exits with 1 if a test fails that is not in `reasons.toml`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tomllib
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.clients.llama_server.farm import SOCKET, Farm

ROOT = Path(__file__).resolve().parents[3]
BUILD = ROOT / "build" / "clients" / "llama-server"
PACKAGE = "llama-cpp-python"
INSIDE = re.compile(r"[^/]+/vendor/llama\.cpp/((?:tools/server/tests|models/templates)/.+)")
TESTS = BUILD / "tools" / "server" / "tests"
NEEDS = (
    "requests",
    "openai~=2.14",
    "numpy",
    "filelock",
    "wget",
    "aiohttp",
    "prometheus-client",
    "pytest",
    "pytest-timeout",
)
PORT = 18_080
DAEMONS = BUILD / "daemons"
TEST_TIMEOUT_S = 600
OUTCOMES = ("passed", "failed", "not applicable")


def fetch() -> None:
    """The tests and the chat templates that they name, without anything else of the package."""
    if TESTS.exists():
        return
    downloads = BUILD / "download"
    wanted = f"{PACKAGE}=={version(PACKAGE)}"
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", PACKAGE, "-d", str(downloads)]
    subprocess.run([*pip, wanted], check=True)
    [archive] = downloads.glob("*.tar.gz")
    with tarfile.open(archive) as source:
        for member in source:
            if member.isfile() and (found := INSIDE.fullmatch(member.name)):
                member.name = found[1]
                source.extract(member, BUILD, filter="data")
    shutil.rmtree(downloads)


def install() -> Path:
    """A Python with what the tests import."""
    python = BUILD / "environment" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(BUILD / "environment")], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-compile", *NEEDS], check=True)
    return python


def launcher() -> Path:
    """The program that the tests start."""
    path = BUILD / "llama-server"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -S {Path(__file__).parent / "relay.py"} "$@"\n')
    path.chmod(0o755)
    return path


def pytest(python: Path, *arguments: str | Path, timeout_s: float) -> str:
    """What it printed."""
    command = [python, "-m", "pytest", "-p", "no:cacheprovider", "-p", "patience", "-m", "not slow", *arguments]
    environment = {
        **os.environ,
        "LLAMA_SERVER_BIN_PATH": str(BUILD / "llama-server"),
        "FARM": str(DAEMONS / SOCKET),
        "PORT": str(PORT),
        "PYTHONPATH": str(Path(__file__).parent),
    }
    done = subprocess.run(
        [str(part) for part in command], cwd=TESTS, env=environment, capture_output=True, text=True, timeout=timeout_s
    )
    return done.stdout + done.stderr


def collected(python: Path) -> list[str]:
    """The ids of all tests, but for those that need models of gigabytes."""
    found = re.findall(r"^unit/(\S+::.+)$", pytest(python, "--collect-only", "-q", timeout_s=120), re.MULTILINE)
    assert found, "no tests were collected"
    return found


def results(report: Path) -> Iterator[tuple[str, str, str]]:
    """Of each test that was run: its id, whether it "passed", "failed" or was "skipped", and the last line of why."""
    for case in ElementTree.parse(report).iter("testcase"):
        where = case.get("classname", "").removeprefix("unit.").replace(".", "/")
        name = f"{where}.py::{case.get('name')}"
        trouble = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        outcome = "passed" if trouble is None else "skipped" if trouble.tag == "skipped" else "failed"
        yield name, outcome, "" if trouble is None else str(trouble.get("message")).strip().splitlines()[0]


def reason(reasons: dict[str, dict[str, str]], test: str) -> str | None:
    """Why a test does not apply; None if it does."""
    file, _, name = test.partition("::")
    of_file = reasons.get(file, {})
    return of_file.get(name) or of_file.get(name.partition("[")[0]) or of_file.get("*")


def judged(python: Path, patterns: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Each test's outcome, and why if it did not pass."""
    reasons: dict[str, dict[str, str]] = tomllib.loads((Path(__file__).parent / "reasons.toml").read_text("utf-8"))
    tests = [test for test in collected(python) if not patterns or any(pattern in test for pattern in patterns)]
    found = {test: ("not applicable", why) for test in tests if (why := reason(reasons, test)) is not None}
    wanted = [f"unit/{test}" for test in tests if "*" not in reasons.get(test.partition("::")[0], {})]
    print(f"running {len(wanted)} tests", file=sys.stderr, flush=True)
    report = BUILD / "report.xml"
    log = pytest(python, "-q", "--timeout", str(TEST_TIMEOUT_S), f"--junitxml={report}", *wanted, timeout_s=7200)
    (BUILD / "log").write_text(log)
    for test, outcome, why in results(report):
        if outcome == "passed":
            found[test] = (outcome, "")
        elif outcome == "skipped":
            found[test] = ("not applicable", why)
        else:
            found.setdefault(test, (outcome, why))
    return found


def show(found: dict[str, tuple[str, str]]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("file")
    for outcome in OUTCOMES:
        table.add_column(outcome, justify="right")
    for file in [*sorted({test.partition("::")[0] for test in found}), ""]:
        counts = Counter(outcome for test, (outcome, _) in found.items() if test.startswith(file))
        table.add_row(file or "all", *(str(counts[outcome]) for outcome in OUTCOMES))
    console = Console(width=None if sys.stdout.isatty() else 80)
    console.print(table)
    for test, (outcome, why) in found.items():
        if outcome == "failed":
            console.print(f"failed: {test}: {why}", markup=False, highlight=False)


def page(found: dict[str, tuple[str, str]]) -> str:
    """The table of docs/clients.md."""
    lines = ["| file | passed | failed | not applicable | why not |", "|---|---|---|---|---|"]
    for file in sorted({test.partition("::")[0] for test in found}):
        own = {test: each for test, each in found.items() if test.startswith(f"{file}::")}
        counts = Counter(outcome for outcome, _ in own.values())
        reasons = Counter(why for outcome, why in own.values() if outcome == OUTCOMES[2])
        several = len(reasons) > 1
        whys = "; ".join(f"{why} ({count})" if several else why for why, count in reasons.most_common())
        lines.append(f"| `{file}` | {' | '.join(str(counts[outcome]) for outcome in OUTCOMES)} | {whys} |")
    totals = Counter(outcome for outcome, _ in found.values())
    lines.append(f"| all | {' | '.join(str(totals[outcome]) for outcome in OUTCOMES)} | |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.clients.llama_server",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="run only tests whose id contains one of these")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every outcome to FILE")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write the counts to FILE as a table in Markdown")
    arguments = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    fetch()
    python = install()
    launcher()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # as Ctrl-C does: stop the daemons
    shutil.rmtree(DAEMONS, ignore_errors=True)
    DAEMONS.mkdir()
    with Farm(DAEMONS, TESTS):
        found = judged(python, arguments.patterns)
    show(found)
    if arguments.page is not None:
        arguments.page.write_text(page(found))
    if arguments.json is not None:
        outcomes: dict[str, Any] = {test: {"outcome": outcome, "why": why} for test, (outcome, why) in found.items()}
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({PACKAGE: version(PACKAGE), "tests": outcomes}, indent=1) + "\n")
    sys.exit(any(outcome == "failed" for outcome, _ in found.values()))


if __name__ == "__main__":
    main()
