"""Tables on terminals of usual widths: no line is wider than the terminal, and no cell is folded."""

from __future__ import annotations

from typing import Any

import pytest

from tenantctl.commands.usage import By
from tenantctl.main import app
from tenantctl.render import message
from tests.cli import fake_daemon
from tests.cli.fake_daemon import FakeDaemon
from tests.cli.fake_figures import BUSY, listed, stats
from tests.cli.fake_generation import queued
from tests.cli.test_render import on_terminal, plain

ID = "req_" + "0123456789abcdef" * 2
LONG = "a-tenant-with-a-name-as-long-as-a-name-can-be-which-is-63-chars"
TABLES: list[list[str]] = [
    ["tenant", "list"],
    ["key", "list", "acme"],
    ["status"],
    ["requests"],
    ["stats"],
    ["stats", "--tenant", "acme"],
    ["compare"],
    ["anomalies"],
    ["budget", "list"],
    ["price", "list", "--past"],
    ["invoice", "list"],
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
    daemon.answers |= {
        ("GET", "budgets"): {"currency": "USD", "timezone": "UTC", "budgets": [budget(key_id="key_0123456789ab")]},
        ("GET", "prices"): {
            "currency": "USD",
            "timezone": "UTC",
            "prices": [price(state) for state in ("past", "future")],
        },
        ("GET", "invoices"): {"invoices": [issued("INV-2026-000107"), issued("INV-2026-000108", "INV-2026-000107")]},
    }
    return daemon


def budget(**more: Any) -> dict[str, Any]:
    """With long amounts."""
    amounts = {"amount": 10**15 + 1, "used": 123_456_789_012_345, "left": 876_543_210_987_656, "reserved": 1_000_001}
    names = {"id": 1, "tenant": LONG, "tenant_id": 1, "key_id": None, "period": "monthly", "unit": "money"}
    return {**names, **amounts, "topped_up": 0, "resets_micros": 2 * 10**15, "topups": [], **more}


def price(state: str) -> dict[str, Any]:
    """With nine decimals."""
    names = ("input_nanos_per_million", "cached_nanos_per_million", "output_nanos_per_million", "engine_hour_nanos")
    amounts = dict.fromkeys((*names, "minimum_nanos"), 123_456_789)
    free = {"free_prompt_tokens": 1_234_567_891, "free_completion_tokens": 10**9}
    return {
        "tenant": LONG,
        "effective_micros": 1_795_000_000_000_000,
        "state": state,
        "like_all": False,
        **amounts,
        **free,
    }


def issued(number: str, credits: str | None = None) -> dict[str, Any]:
    """An invoice or credit note in a list."""
    amounts = {"total_nanos": 12_345_678_901_234, "payable_nanos": 14_691_360_000_000, "credited_nanos": 1_000_000_001}
    names = {"month": "2026-11", "tenant": LONG, "currency": "USD", "issued_micros": 1_795_000_000_000_000}
    return {"number": number, "credits": credits, **names, **amounts}


@pytest.mark.parametrize("columns", [80, 100, 120, 160])
def test_the_audit_trail_is_wrapped_between_words_in_its_last_column_only(
    columns: int, busy: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    by = {"uid": 1000, "pid": 1, "key_id": None, "part": None}
    detail = {
        "action": "tenant_changed",
        "by": by,
        "before": {"weight": 1, "note": "x"},
        "after": {"weight": 2, "note": "y"},
    }
    entry = {
        "at_micros": 1_795_000_000_000_000,
        "event": "administered",
        "tenant": "acme-research",
        "request_id": None,
    }
    entries = [{"number": 10**6 + n, **entry, "detail": detail} for n in range(2)]
    busy.answers["GET", "audit"] = {"entries": entries, "head": 10**9 + 2, "next": None}
    shown = lines(["audit", "log"], columns, monkeypatch)
    assert max(map(len, shown)) <= columns
    words = {"tenant_changed:", "weight", "1", "→", "2,", "note", "x", "y,", "by", "uid", "1000"}
    assert words <= {word for line in shown[1:] for word in line.split()}, "no word is split"
    numbered = [line for line in shown if line.lstrip().startswith("100000")]
    assert len(numbered) == 2 and all("acme-research" in line for line in numbered)


@pytest.mark.parametrize("columns", [80, 100, 120, 160])
def test_an_invoice_fits_whatever_the_number_of_the_newest_audit_entry(
    columns: int, busy: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = lines(["invoice"], columns, monkeypatch)
    assert max(map(len, shown)) <= columns
    assert fake_daemon.INVOICE.audit_head is not None and fake_daemon.INVOICE.audit_head.number > 1000
    assert fake_daemon.INVOICE.audit_head.hash in shown[-1].split()


def test_top_ups_and_messages_are_wrapped_between_words(
    busy: FakeDaemon, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    topup = {"amount": 10**9, "reason": "paid in advance, " * 8, "actor": "uid 0", "at_micros": 1_795_000_000_000_000}
    busy.answers["GET", "budgets"] = {"currency": "USD", "budgets": [budget(topups=[topup])]}
    shown = lines(["budget", "list"], 80, monkeypatch)
    assert max(map(len, shown)) <= 80 and sum(line.count("advance") for line in shown) == 8
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    path = "/a/folder-with-a-long-name/" * 4
    command = "  run tenantctl ledger check --state-dir /elsewhere, or free space"
    message(f"cannot open {path}: no space left on device\n{command}")
    said = capsys.readouterr().err.splitlines()[-4:]
    assert said == ["cannot open", path + ":", "no space left on device", command]
    message("word " * 20 + "--an-option")
    assert capsys.readouterr().err.splitlines() == [("word " * 16)[:-1], "word " * 4 + "--an-option"]


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
