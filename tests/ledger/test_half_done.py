"""kill −9 of commands that replace the ledger or delete from it, all along: there is always one whole ledger."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tenantd.config import BillingConfig
from tenantd.domain import Tenant
from tenantd.errors import ConfigError
from tenantd.ledger.copies import back_up
from tenantd.ledger.inspection import inspect_file
from tenantd.ledger.ledger import Ledger
from tenantd.ledger.restoring import compare, restore
from tenantd.tenancy.tenants import add_tenant
from tests.ledger.books import BILLING, admission, count_rows, settlement
from tests.ledger.kill_points import COMMANDS, NOW_MICROS, STEP
from tests.ledger.trails import entry

ROOT = Path(__file__).parents[2]
EURO = BillingConfig(currency="EUR")
MONTH_MICROS = 30 * 86_400_000_000


def open_ledger(path: Path, billing: BillingConfig = BILLING) -> Ledger:
    return Ledger.open(path, billing, lambda: NOW_MICROS)


async def add(ledger: Ledger, *names: str, created_micros: int = NOW_MICROS - MONTH_MICROS) -> None:
    for name in names:
        entered = entry("entered", request_id=name, at_micros=created_micros)
        await ledger.admit(admission(name, created_micros=created_micros), lambda entered=entered: entered)  # type: ignore[misc]
        await ledger.settle(settlement(name))


def make_base(folder: Path) -> None:
    """A ledger of four requests whose log is not empty, a backup of two of them, and one of three."""

    async def main() -> None:
        ledger = open_ledger(folder / "made" / "ledger.db")
        await ledger.write(lambda conn: add_tenant(conn, Tenant(name="acme")))
        await add(ledger, "r1", "r2")
        await asyncio.to_thread(back_up, ledger.path, folder / "base" / "backup.db", 1000)
        await add(ledger, "r3")
        await asyncio.to_thread(back_up, ledger.path, folder / "base" / "other.db", 1000)
        await add(ledger, "r4", created_micros=NOW_MICROS - 1_000_000)
        for name in ("ledger.db", "ledger.db-wal"):
            shutil.copy(ledger.path.with_name(name), folder / "base" / name)
        await ledger.close()

    (folder / "made").mkdir()
    (folder / "base").mkdir()
    asyncio.run(main())


def kill_in_between(command: str, folder: Path) -> list[Path]:
    """The folders that are left, of those that look alike one."""
    arguments = [sys.executable, "-m", "tests.ledger.kill_points", command, str(folder)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    return list(
        {look(one): one for one in (folder / str(point) for point in range(1, int(done.stdout), STEP))}.values()
    )


def look(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and links of its files."""
    found = ((path.name, path.stat()) for path in folder.iterdir())
    return tuple(sorted((name, info.st_size, info.st_nlink) for name, info in found))


def rows(path: Path) -> tuple[str, ...]:
    with closing(sqlite3.connect(path)) as conn:
        return tuple(name for (name,) in conn.execute("SELECT id FROM requests ORDER BY number"))


def issued(path: Path) -> list[int]:
    """The numbers of its invoices."""
    with closing(sqlite3.connect(path)) as conn:
        return [number for (number,) in conn.execute("SELECT number FROM invoices ORDER BY number")]


def start(path: Path) -> None:
    """As the daemon starts, in either currency."""

    async def main() -> int:
        try:
            ledger = open_ledger(path)
        except ConfigError:
            ledger = open_ledger(path, EURO)
        count = await count_rows(ledger)
        await ledger.close()
        return count

    assert asyncio.run(main()) == len(rows(path))


@pytest.mark.parametrize(
    ("command", "before_and_after"),
    [
        ("restore", {("r1", "r2", "r3", "r4"), ("r1", "r2")}),
        ("renew", {("r1", "r2", "r3", "r4"), ()}),
        ("prune", {("r1", "r2", "r3", "r4"), ("r4",)}),
        ("finalise", {("r1", "r2", "r3", "r4")}),
    ],
)
def test_wherever_it_is_killed_the_ledger_is_whole_and_the_command_can_be_repeated(
    tmp_path: Path, command: str, before_and_after: set[tuple[str, ...]]
) -> None:
    make_base(tmp_path)
    folders = kill_in_between(command, tmp_path)
    assert len(folders) > 2
    seen = set()
    for folder in folders:
        ledger = folder / "ledger.db"
        start(ledger)
        assert ledger.stat().st_nlink == 1, "nobody can open it under another name"
        assert inspect_file(ledger).breaches == [], folder
        seen.add(found := rows(ledger))
        if command != "renew" or found:
            COMMANDS[command](folder)
        assert inspect_file(ledger).breaches == [], folder
        assert rows(ledger) in before_and_after
        assert command != "finalise" or issued(ledger) == [1]
        assert not {path.name for path in folder.iterdir()} & {"ledger.db.restored", "ledger.db.new"}
    assert seen <= before_and_after
    assert len(seen) == 2 or command in ("prune", "finalise"), "some were killed before it was done, and some after"


def test_after_a_restore_that_was_killed_another_backup_can_be_restored(tmp_path: Path) -> None:
    make_base(tmp_path)
    left = [one for one in kill_in_between("restore", tmp_path) if (one / "ledger.db.restored-wal").exists()]
    assert left
    for folder in left:
        ledger = folder / "ledger.db"
        restore(folder / "other.db", ledger, compare(folder / "other.db", ledger), NOW_MICROS)
        start(ledger)
        assert rows(ledger) == ("r1", "r2", "r3")
        assert inspect_file(ledger).breaches == [], folder


def test_a_log_that_is_found_only_beside_the_second_name_is_taken_back(tmp_path: Path) -> None:
    make_base(tmp_path)
    ledger, log_path = tmp_path / "base" / "ledger.db", tmp_path / "base" / "ledger.db-wal"
    kept = ledger.with_name("ledger.db.replaced-20261205-120000")
    os.link(ledger, kept)
    os.rename(log_path, kept.with_name(kept.name + "-wal"))
    start(ledger)
    assert rows(ledger) == ("r1", "r2", "r3", "r4")
    assert sorted(path.name for path in ledger.parent.glob("*replaced*")) == []


def test_a_backup_restored_twice_in_one_second_keeps_both_ledgers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.strftime", lambda layout: layout.replace("%Y%m%d-%H%M%S", "20261205-120000"))
    make_base(tmp_path)
    backup, ledger = tmp_path / "base" / "backup.db", tmp_path / "base" / "ledger.db"
    kept = [restore(backup, ledger, compare(backup, ledger), NOW_MICROS) for _ in range(3)]
    assert [path and path.name for path in kept] == [
        "ledger.db.replaced-20261205-120000",
        "ledger.db.replaced-20261205-120000-2",
        "ledger.db.replaced-20261205-120000-3",
    ]
    assert [rows(path) for path in kept if path] == [("r1", "r2", "r3", "r4"), ("r1", "r2"), ("r1", "r2")]
