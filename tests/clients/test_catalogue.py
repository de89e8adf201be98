"""What `make clients` tries is there, and told in the documents."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.catalogue import CLIENTS, Client

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_client_has_a_program_that_makes_its_checks_and_a_row_in_the_documents(client: Client) -> None:
    program = (ROOT / "tests" / "clients" / "programs" / client.program).read_text("utf-8")
    assert not [check for check in client.checks if f'"{check}"' not in program and f"echo {check}" not in program]
    assert f"\n| {client.name} |" in (ROOT / "docs" / "clients.md").read_text("utf-8")
