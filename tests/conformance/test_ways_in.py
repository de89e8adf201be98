"""The oldest and the newest official client for Python, on the socket and over TCP: what programs do with them."""

from __future__ import annotations

from tests.conformance.conftest import Tiny
from tests.support.client_packages import ROOT, run

CHECKED = """\
models
chat
chat streamed
completion
parse
stream helper
tools
tools streamed
tool result
errors
retry-after
"""


def test_what_programs_do_works(tiny: Tiny, python: str, way: str) -> None:
    environment = {**tiny.environment(way), "PYTHONPATH": str(ROOT)}
    assert run(python, "tests/clients/openai_python.py", **environment) == f"{CHECKED}async\n"
