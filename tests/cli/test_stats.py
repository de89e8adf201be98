from __future__ import annotations

import csv
import json
from typing import Any

import pytest

from tenantctl.commands.compare import share
from tenantctl.commands.usage import By
from tenantctl.main import app
from tenantctl.spreadsheet import safe
from tenantctl.standing import Use, fullest, limits_in_use
from tenantctl.times import bound
from tenantctl.units import count, lasting
from tenantd.ledger.evenness import Evenness
from tenantd.ledger.grouped import Grouping
from tests.cli import fake_figures
from tests.cli.conftest import Cli
from tests.cli.fake_daemon import FakeDaemon
from tests.cli.fake_figures import BUSY, IDLE, listed, stats
from tests.cli.test_render import on_terminal, plain


def cells(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_stats_have_a_row_for_each_tenant(cli: Cli, daemon: FakeDaemon) -> None:
    header, acme, globex, total = cells(cli("stats").stdout)
    assert daemon.seen[0][1] == "stats"
    assert header[:4] == ["tenant", "requests", "errors", "in"] and header[-1] == "USD"
    assert acme[:7] == ["acme", "1.23M", "2.8%", "98.8G", "5", "57", "12.3"]
    assert acme[7:] == ["1.50s", "850µs", "12.3ms", "2m05s", "900µs", "2.00ms", "3.00ms", "1h02m", "0.000123"]
    assert globex[:3] == ["globex", "0", "-"] and globex[8] == "-"
    assert total[:4] == ["TOTAL", "1.23M", "2.8%", "98.8G"] and total[-1] == "0.000123"
    daemon.stats = stats(listed(BUSY))
    assert "TOTAL" not in cli("stats").stdout, "the sum of one row is that row"


def test_stats_of_one_tenant_are_a_page(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.stats = stats(listed(BUSY), is_exact=False)
    shown = cli("stats", "--tenant", "acme", "--window", "24h").stdout
    assert daemon.seen[0][1] == "stats?tenant=acme&window=24h"
    for words in (
        "window       2026-11-18 12:06:40 to 2026-11-18 13:06:40 Europe/Berlin",
        "requests     1,234,567 (1,200,000 completed, 34,567 failed)",
        "now          3 running, 0 paused, 2 waiting",
        "errors       2.8%: 34,000 engine_failure, 567 grammar_budget",
        "tokens in    98,765,432,101 computed, 5 cached",
        "engine time  1h02m (75.0% of all)",
        "cost         USD 0.000123",
        "refused      7 queue_full since the daemon started",
        "time (±2%)     average    p50     p95     p99",
    ):
        assert words in shown
    assert "max concurrent              3        4\n" in shown and "requests per minute         6       60\n" in shown
    assert "monthly money  all    900.00  1000.00  90.0%  1970-01-01 01:00 Europe/Berlin\n" in shown
    assert "daily tokens   key_1       0        0      -" in shown


def test_the_page_of_a_removed_tenant_says_so(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.stats = stats(listed(IDLE, is_removed=True, limits=None, refused={}, requests_last_minute=None))
    shown = cli("stats", "--tenant", "globex").stdout
    assert shown.startswith("globex (removed)\n") and "limit" not in shown and "refused" not in shown


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["--month"], "stats?month=this"),
        (["--since", "2026-11-01", "--until", "2026-11-02"], "stats?since=2026-11-01&until=2026-11-02"),
        (["--since", "2026-11-01T00:00Z"], "stats?since=1793491200000000"),
    ],
)
def test_stats_of_other_periods(cli: Cli, daemon: FakeDaemon, arguments: list[str], asked: str) -> None:
    assert cli("stats", *arguments).exit_code == 0
    assert daemon.seen[0][1] == asked


@pytest.mark.parametrize(
    "arguments",
    [
        ["stats", "--window", "1x"],
        ["stats", "--window", "0"],
        ["stats", "--window", "0h"],
        ["stats", "--window", "1h", "--month", "this"],
        ["stats", "--since", "1h", "--month", "this"],
        ["stats", "--json", "--csv"],
        ["compare", "--json", "--csv"],
        ["compare", "--window", "soon"],
        ["usage", "--json", "--csv"],
        ["usage", "--by", "year"],
        ["usage", "--month", "this", "--since", "1d"],
        ["usage", "--since", "2026-02-31"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_asked_for_is_refused_before_it_is_sent(
    cli: Cli, daemon: FakeDaemon, arguments: list[str]
) -> None:
    if arguments[-1] != "2026-02-31":  # which the daemon refuses: the date is one of its time zone
        assert cli(*arguments).exit_code == 2
        assert not daemon.seen


def test_stats_as_json_and_csv_are_exact(cli: Cli, daemon: FakeDaemon) -> None:
    assert json.loads(cli("stats", "--json").stdout) == json.loads(json.dumps(daemon.stats))
    acme, globex = csv.DictReader(cli("stats", "--csv").stdout.splitlines())
    assert (acme["prompt_tokens"], acme["cost_nanos"], acme["cost"]) == ("98765432101", "123000", "0.000123")
    assert (globex["engine_share"], globex["cost"], globex["currency"]) == ("", "0.00", "USD")


def test_compare_puts_the_largest_share_first(cli: Cli, daemon: FakeDaemon) -> None:
    busier = listed(BUSY, tenant="globex", tenant_id=2, engine_share=0.8)
    daemon.stats = stats(listed(BUSY), busier)
    _, first, second, last = cells(cli("compare").stdout)
    assert daemon.seen[0][1] == "stats?window=24h"
    assert (first[0], second[0]) == ("globex", "acme")
    assert first[2] == "80.0%" and first[-6:] == ["75.0%", "90.0%", "max", "concurrent", "monthly", "money"]
    assert " ".join(last) == "Jain's index: 0.900 (2 busy tenants, 2 h)"
    rows = list(csv.DictReader(cli("compare", "--csv").stdout.splitlines()))
    assert [(row["tenant"], row["limit"], row["limit_used"]) for row in rows] == [
        ("globex", "max_concurrent", "0.75"),
        ("acme", "max_concurrent", "0.75"),
    ]
    assert [(row["budget"], row["budget_used"]) for row in rows] == [("monthly_money", "0.9")] * 2
    assert json.loads(cli("compare", "--json").stdout)["evenness"]["index"] == 0.9


def test_a_budget_lowered_below_what_is_used_is_used_up(cli: Cli, daemon: FakeDaemon) -> None:
    overdrawn = listed(BUSY)
    overdrawn["budgets"][0]["used"] = 33 * overdrawn["budgets"][0]["cap"]
    daemon.stats = stats(overdrawn)
    assert "100.0%" in cli("compare").stdout


def test_compare_says_when_nobody_was_busy(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.stats = stats(listed(IDLE), evenness=Evenness(index=None, shared_micros=0, tenants=0))
    assert "Jain's index: - (no hour had two busy tenants)" in cli("compare").stdout
    daemon.stats = stats()
    assert "no tenants yet" in cli("compare").stderr


@pytest.mark.parametrize("by", list(By))
def test_usage_is_grouped_by_what_is_asked_for(cli: Cli, daemon: FakeDaemon, by: By) -> None:
    shown = cli("usage", "--by", by.value, "--tenant", "acme").stdout
    path = "usage" if by is By.TENANT else f"usage/{by}"
    assert daemon.seen[0][1] == f"{path}?month=this&tenant=acme"
    header, row = cells(shown)
    assert header[0] == by.value and row[-1] == ("0.000123" if by is By.TENANT else "9000000.000000001")


def test_hours_say_how_far_from_utc_they_are(cli: Cli, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = fake_figures.grouped("hour")
    names = ["2026-10-25T02:00+02:00", "2026-10-25T02:00+01:00", "2026-11-29T14:00+00:00"]
    answer["groups"] = [{**answer["groups"][0], "name": name} for name in names]
    monkeypatch.setattr(fake_figures, "grouped", lambda by: answer)
    shown = [line.split("  ")[0] for line in cli("usage", "--by", "hour").stdout.splitlines()]
    assert shown[1:4] == ["2026-10-25 02:00 UTC+02:00", "2026-10-25 02:00 UTC+01:00", "2026-11-29 14:00 UTC"]
    rows = list(csv.DictReader(cli("usage", "--by", "hour", "--csv").stdout.splitlines()))
    assert [row["hour"] for row in rows] == names


def test_what_usage_groups_by_is_what_the_daemon_does() -> None:
    assert [by.value for by in By] == [grouping.value for grouping in Grouping]


def test_usage_as_csv_is_exact_and_runs_no_formula(cli: Cli, daemon: FakeDaemon) -> None:
    [row] = csv.DictReader(cli("usage", "--by", "key", "--csv").stdout.splitlines())
    assert (row["key"], row["tenant"], row["label"]) == ("key_1", "acme", "'=2+3")
    assert (row["prompt_tokens"], row["cost_nanos"], row["cost"]) == (
        str(10**18),
        "9000000000000001",
        "9000000.000000001",
    )
    [row] = csv.DictReader(cli("usage", "--by", "model", "--csv").stdout.splitlines())
    assert row["model"] == "'=cmd|' /C"
    [row] = csv.DictReader(cli("usage", "--csv").stdout.splitlines())
    assert (row["tenant"], row["p99_first_token_micros"], row["cost"]) == ("acme", "", "0.000123")


@pytest.mark.parametrize("text", ["=1", "+1", "-a", "@a", "\t1", "\r1"])
def test_text_that_would_be_a_formula_is_quoted_but_no_number(text: str) -> None:
    assert safe(text).startswith("'") and safe(-1) == -1 and safe("a=1") == "a=1"


@pytest.mark.parametrize("columns", ["80", "120"])
@pytest.mark.parametrize(
    "arguments", [["stats"], ["stats", "--tenant", "acme"], ["compare"], *(["usage", "--by", by.value] for by in By)]
)
def test_a_row_is_a_line(
    arguments: list[str], columns: str, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = [listed(BUSY, tenant=f"{'long-name-' * 6}{n:02}", tenant_id=n, cost_nanos=10**17 + n) for n in range(3)]
    daemon.stats = stats(*long)
    screen = plain(on_terminal(lambda: app(arguments, standalone_mode=False), monkeypatch, COLUMNS=columns))
    lines = [line for line in screen.splitlines() if line.strip(" ─")]
    assert max(len(line.rstrip()) for line in lines) <= int(columns)
    if arguments in (["stats"], ["compare"]):
        assert len([line for line in lines if "long-" in line]) == 3 and "…" in screen
        assert len(lines) == 5


def test_limits_in_use() -> None:
    tenant: dict[str, Any] = listed(BUSY, running=1)
    assert limits_in_use(tenant) == [
        Use("max concurrent", 1, 4),
        Use("max queued", 2, 256),
        Use("requests per minute", 6, 60),
    ]
    assert fullest(limits_in_use(tenant)) == Use("max concurrent", 1, 4)
    assert fullest([]) is None and Use("max queued", 1, 0).fraction == 1


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0"), (99_999, "99999"), (100_000, "100k"), (1_234_567, "1.23M"), (999_500, "1.00M"), (99_950_000, "100M")],
)
def test_counts_are_short(number: int, shown: str) -> None:
    assert count(number) == shown
    assert len(count(2**63)) <= 6


@pytest.mark.parametrize(
    ("micros", "shown"),
    [
        (None, "-"),
        (0, "0µs"),
        (999.6, "1.00ms"),
        (99_960, "100ms"),
        (999_600, "1.00s"),
        (99_960_000, "1m40s"),
        (3_599_600_000, "1h00m"),
        (2**63, "106751991d04h"),
    ],
)
def test_times_are_short(micros: float | None, shown: str) -> None:
    assert lasting(micros) == shown


def test_a_bar_is_as_long_as_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    class Utf8:
        encoding = "utf-8"

    monkeypatch.setattr("sys.stdout", Utf8())
    assert share(0.5, 4) == " 50.0% ██  " and share(1.0, 4) == "100.0% ████" and share(0.0, 4) == "  0.0%     "
    assert share(5 / 32, 4) == " 15.6% ▋   "
    monkeypatch.setattr(Utf8, "encoding", "ascii")
    assert share(0.5, 4) == " 50.0% ##  "
    assert share(None, 4) == "-"


def test_a_date_is_left_to_the_daemon() -> None:
    assert bound("2026-11-01") == "2026-11-01" and bound(None) is None
    assert bound("2026-11-01 14:30") == "2026-11-01 14:30", "in the billing time zone, which the daemon knows"
    assert bound("1970-01-01T00:00:01Z") == "1000000"
