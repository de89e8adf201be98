"""Tables on terminals of usual widths: no line is wider than the terminal, and no cell is folded."""

from __future__ import annotations

from typing import Any

import pytest

from tenantctl.commands.usage import By
from tenantctl.main import app
from tests.cli.fake_daemon import FakeDaemon, queued
from tests.cli.fake_figures import BUSY, listed, stats
from tests.cli.test_render import on_terminal, plain

ID = "req_" + "0123456789abcdef" * 2
TABLES: list[list[str]] = [
    ["tenant", "list"],
    ["key", "list", "acme"],
    ["status"],
    ["requests"],
    ["stats"],
    ["stats", "--tenant", "acme"],
    ["compare"],
    ["anomalies"],
    *(["usage", "--by", by.value] for by in By),
]
FAR = 400


def lines(arguments: list[str], columns: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is not empty on a terminal of this width."""
    screen = on_terminal(lambda: app(arguments, standalone_mode=False), monkeypatch, COLUMNS=str(columns))
    return [line.rstrip() for line in plain(screen).splitlines() if line.strip(" ─")]


@pytest.fixture
def busy(daemon: FakeDaemon) -> FakeDaemon:
    """Everything that it lists is long."""
    daemon.add("a-16-char-tenant", throttled_micros=1, uids=[1001, 1002], limits={"tokens_per_minute": 600_000})
    daemon.add("acme")
    long: list[dict[str, Any]] = [listed(BUSY, tenant=f"a-tenant-{n:02}", tenant_id=n) for n in range(3)]
    daemon.stats = stats(*long)
    daemon.request = {"id": ID, "tenant": "initech", "state": "disconnected", "error": "engine_failure"}
    daemon.queue = [queued(ID, "")]
    return daemon


@pytest.mark.parametrize("columns", [80, 100, 120, 160])
@pytest.mark.parametrize("arguments", TABLES, ids=" ".join)
def test_nothing_folds(arguments: list[str], columns: int, busy: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    shown, far = lines(arguments, columns, monkeypatch), lines(arguments, FAR, monkeypatch)
    tables = [line for line in shown if "  " in line]  # not sentences, which may be of any length
    assert len(shown) == len(far), "a line of a table is a line on the screen"
    assert max(map(len, tables)) <= columns


@pytest.mark.parametrize("columns", [80, 100, 120, 160])
def test_requests_keep_what_matters_and_show_all_if_wanted(
    columns: int, busy: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    header, row = lines(["requests"], columns, monkeypatch)
    assert {"request", "tenant", "state", "prompt", "output", "cost"} <= set(header.split())
    assert row.split()[:2] == [ID[-8:], "initech"]
    header, row = lines(["requests", "--wide"], columns, monkeypatch)
    assert row.split()[0] == ID and {"kind", "error", "engine", "took"} <= set(header.split())
