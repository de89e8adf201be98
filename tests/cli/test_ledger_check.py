"""What `tenantctl ledger check` says it looked at, that it holds, and what does not; and that `backup` copies it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tenantctl.check_lines import check_lines, result_line
from tenantd.ledger.inspection import Check, Inspection
from tenantd.ledger.migrations import migrate
from tests.cli.conftest import Cli
from tests.ledger.old.kit import FOLDER, ledger_of

NEWEST = max(int(path.stem.removeprefix("schema_")) for path in FOLDER.glob("schema_*.sql"))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A folder with a sound ledger of 120 requests."""
    with closing(sqlite3.connect(ledger_of(NEWEST, tmp_path), isolation_level=None)) as conn:
        migrate(conn, "ledger.db")
    return tmp_path


def shown(text: str) -> dict[str, str]:
    """The lines, by their names."""
    found = {name: next(line for line in text.splitlines() if line.startswith(name)) for name in (*Check, "result")}
    return {name: line.removeprefix(name).strip() for name, line in found.items()}


def test_every_check_has_a_line_with_what_it_looked_at(cli: Cli, state: Path) -> None:
    done = cli("ledger", "check", "--state-dir", str(state))
    assert (done.exit_code, done.stderr) == (0, "")
    lines = shown(done.stdout)
    assert lines["result"] == f"all {len(Check)} checks passed"
    assert lines["requests"] == "120 requests: states, times, prices and amounts right"
    with closing(sqlite3.connect(state / "ledger.db")) as conn:
        (entries,) = conn.execute("SELECT count(*) FROM audit").fetchone()
    assert lines["audit trail"].startswith(f"{entries} entr")
    assert int(lines["references"].split()[0]) > 5 and not lines["schema"].startswith("0 ")


def test_breaches_are_counted_by_check_named_one_by_one_and_exit_with_1(cli: Cli, state: Path) -> None:
    with closing(sqlite3.connect(state / "ledger.db")) as conn, conn:
        conn.execute("PRAGMA foreign_keys = OFF")
        ended = "SELECT id FROM requests WHERE state = 'stop' ORDER BY number LIMIT 14"
        ids = [row[0] for row in conn.execute(ended)]
        conn.executemany("UPDATE requests SET completion_tokens = completion_tokens + 1000 WHERE id = ?", zip(ids))
    done = cli("ledger", "check", "--state-dir", str(state))
    lines = shown(done.stdout)
    assert done.exit_code == 1
    assert lines["requests"] == f"120 requests: {len(ids)} BREACHES" and lines["file"].endswith("indexes match tables")
    assert "in requests, hours" in lines["result"]
    assert f"requests: request {ids[0]} has the amounts" in done.stderr and "and 4 more" not in lines["result"]
    found = json.loads(cli("ledger", "check", "--state-dir", str(state), "--json").stdout)
    assert found["broken"]["requests"] == len(ids) > 10 > found["broken"].get("file", 0)
    assert sum(found["broken"].values()) == len(found["breaches"]) + found["more"]


def test_lines_fit_a_terminal_of_80_columns_and_count_in_the_singular(state: Path) -> None:
    width = 80 - max(map(len, Check)) - 2
    for count in (1, 10_000_000):
        found = Inspection(checked=dict.fromkeys(Check, count), breaches=[])
        assert max(len(str(line)) for line in check_lines(found).values()) <= width
    one = check_lines(Inspection(checked={"audit trail": 1}, breaches=[], broken={"audit trail": 1}))
    assert one == {"audit trail": "1 entry: 1 BREACH"}
    assert result_line(Inspection(checked={"file": 1}, breaches=[], broken={"file": 2})) == "2 breaches in file"


def test_two_backups_in_one_second_are_two_files(cli: Cli, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.strftime", lambda layout: layout.replace("%Y%m%d-%H%M%S", "20261205-120000"))
    (folder := state / "backups").mkdir()
    done = [cli("ledger", "backup", str(folder), "--state-dir", str(state), "--json") for _ in range(2)]
    assert [one.exit_code for one in done] == [0, 0], done[1].stderr
    names = ["ledger-20261205-120000.db", "ledger-20261205-120000-2.db"]
    assert [json.loads(one.stdout)["backup"] for one in done] == [str(folder / name) for name in names]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
