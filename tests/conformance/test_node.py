"""The official client for JavaScript, on the socket and over TCP."""

from __future__ import annotations

from tests.conformance.conftest import Tiny
from tests.conformance.test_ways_in import CHECKED
from tests.support.client_packages import node_packages, run


def test_what_programs_do_works(tiny: Tiny, way: str) -> None:
    environment = {**tiny.environment(way), "NODE_PACKAGES": str(node_packages())}
    assert run("node", "tests/clients/openai_node.mjs", **environment) == f"{CHECKED}at once\n"
