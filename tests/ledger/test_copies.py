"""Backups while the ledger is in use, and the way back."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
import sqlite3
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tenantd.errors import ConfigError, LedgerDamaged, TenantdError, UnusableFile
from tenantd.ledger.audit import RESTORED
from tenantd.ledger.copies import back_up
from tenantd.ledger.inspection import inspect_file
from tenantd.ledger.ledger import Ledger
from tenantd.ledger.long_reads import is_read_at_length, long_read
from tenantd.ledger.restoring import Comparison, compare, restore
from tenantd.ledger.verify import verify_file
from tests.ledger.books import BILLING, NOW_MICROS, admission, count_rows, ledger_in, settlement
from tests.ledger.old.kit import ledger_of
from tests.ledger.trails import entry


async def requests(ledger: Ledger, *names: str) -> None:
    for name in names:
        await ledger.admit(admission(name), lambda name=name: entry("entered", request_id=name))  # type: ignore[misc]
        await ledger.settle(settlement(name))


def filled(folder: Path, *names: str) -> Path:
    async def main() -> None:
        async with ledger_in(folder) as ledger:
            await requests(ledger, *names)

    asyncio.run(main())
    return folder / "ledger.db"


def rows_in(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as conn:
        return {row[0] for row in conn.execute("SELECT id FROM requests")}


def test_a_backup_made_while_rows_are_written_is_one_whole_state_that_only_its_owner_can_read(tmp_path: Path) -> None:
    target = tmp_path / "copy.db"

    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await requests(ledger, *(f"r{n}" for n in range(50)))
            copying = asyncio.create_task(asyncio.to_thread(back_up, ledger.path, target, 1000))
            number = 50
            while not copying.done():
                await requests(ledger, f"r{number}")
                number += 1
            await copying
            assert await count_rows(ledger) == number

    asyncio.run(main())
    assert {f"r{n}" for n in range(50)} <= rows_in(target)
    assert inspect_file(target).breaches == []
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name or "journal" in path.name] == []


def test_a_backup_never_overwrites_and_says_what_is_missing(tmp_path: Path) -> None:
    path = filled(tmp_path, "r1")
    (tmp_path / "there").write_text("something")
    for name, words in (
        ("there", "exists"),
        ("no/copy.db", "no such folder"),
        ("there/copy.db", "is a file, not a folder"),
        ("unmounted", r"create it first, or name a file that ends in \.db"),
    ):
        target = tmp_path / name
        with pytest.raises(UnusableFile, match=words):
            back_up(path, target, 1000)
    assert (tmp_path / "there").read_text() == "something"
    with pytest.raises(ConfigError, match="no such file"):
        back_up(tmp_path / "other.db", tmp_path / "copy.db", 1000)


def no_links(*_: object, **__: object) -> None:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))  # as FAT says


@pytest.mark.parametrize("has_links", [True, False])
def test_of_backups_to_one_name_at_once_one_is_made_and_none_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    path, target = filled(tmp_path, "r1"), tmp_path / "copy.db"
    if not has_links:
        monkeypatch.setattr(os, "link", no_links)
    all_begun = threading.Barrier(4)
    begun = threading.local()

    def back_up_once(_: int) -> bool:
        def on_progress(done: int, of: int) -> None:
            if not getattr(begun, "is_set", False):
                begun.is_set = True
                all_begun.wait(20)

        try:
            back_up(path, target, 1000, on_progress)
        except TenantdError as e:
            assert "is not overwritten" in e.message
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(back_up_once, range(4))) == [False, False, False, True]
    assert rows_in(target) == {"r1"}
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.glob("copy*")] == ["copy.db"]


def test_where_there_are_no_links_nothing_is_left_of_a_backup_that_cannot_get_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = filled(tmp_path, "r1")
    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(os, "replace", no_links)
    with pytest.raises(ConfigError, match="cannot write"):
        back_up(path, tmp_path / "copy.db", 1000)
    assert not list(tmp_path.glob("copy*"))


def test_a_full_disk_is_noticed_before_a_byte_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = filled(tmp_path, "r1")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("tenantd.ledger.copies.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(ConfigError, match=r"no room for a copy of .*: free another \d+ MB"):
        back_up(path, tmp_path / "copy.db", 1000)
    assert not list(tmp_path.glob("copy*"))


def test_the_writer_is_told_of_a_long_read_and_of_its_end(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    assert not is_read_at_length(path)
    with long_read(path), long_read(path):
        assert is_read_at_length(path)
    assert not is_read_at_length(path)


def test_what_ran_when_a_backup_was_made_ends_then_and_not_when_it_is_restored(tmp_path: Path) -> None:
    path, backup = filled(tmp_path), tmp_path / "backup.db"
    back_up(path, backup, 0)
    os.utime(backup, (1, 1))
    restored(backup, path)
    assert path.stat().st_mtime == 1


def restored(backup: Path, ledger: Path) -> tuple[Comparison, Path | None]:
    compared = compare(backup, ledger)
    return compared, restore(backup, ledger, compared, NOW_MICROS)


def test_an_older_backup_is_noticed_and_what_it_lacks_is_kept_beside_it(tmp_path: Path) -> None:
    path = filled(tmp_path, "r1", "r2")
    back_up(path, backup := tmp_path / "backup.db", 1000)
    filled(tmp_path, "r3", "r4", "r5")
    compared, kept = restored(backup, path)
    assert (compared.lost_requests, compared.is_other, compared.lost_invoices) == (3, False, [])
    assert compared.lost_entries == 3
    assert kept is not None
    assert (rows_in(path), rows_in(kept)) == ({"r1", "r2"}, {"r1", "r2", "r3", "r4", "r5"})
    with closing(sqlite3.connect(path)) as conn:
        event, detail = conn.execute("SELECT event, detail FROM audit ORDER BY number DESC").fetchone()
    assert event == RESTORED and '"lost_requests":3' in detail
    assert verify_file(path).finding is None
    assert inspect_file(path).breaches == []
    filled(tmp_path, "r6")
    assert rows_in(path) == {"r1", "r2", "r6"}


def test_the_present_one_and_a_copy_of_it_lose_nothing(tmp_path: Path) -> None:
    path = filled(tmp_path, "r1")
    back_up(path, backup := tmp_path / "backup.db", 1000)
    compared, _ = restored(backup, path)
    assert (compared.lost_requests, compared.lost_entries, compared.is_other, compared.trouble) == (0, 0, False, "")


def test_a_backup_of_another_ledger_is_called_that(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    other = filled(tmp_path / "a", "x1")
    present = filled(tmp_path / "b", "y1", "y2")
    for backup, ledger, lost in ((other, present, ["y2", "y1"]), (present, other, ["x1"])):
        compared = compare(backup, ledger)
        assert (compared.is_other, compared.lost_ids, compared.lost_requests) == (True, lost, len(lost))


@pytest.mark.parametrize("change", ["UPDATE requests SET id = 'z1'", "UPDATE tenants SET created_micros = 1"])
def test_another_ledger_is_known_by_its_requests_or_tenants_where_the_trails_agree(tmp_path: Path, change: str) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await ledger.admit(admission("x1"))
            await ledger.settle(settlement("x1"))

    asyncio.run(main())
    one, two = tmp_path / "ledger.db", tmp_path / "two.db"
    with closing(sqlite3.connect(one)) as conn:
        conn.execute(
            "INSERT INTO tenants (name, weight, priority, state, uids, limits, created_micros) "
            "VALUES ('acme', 1, 'normal', 'active', '[]', '{}', 0)"
        )
        conn.commit()
    back_up(one, two, 1000)
    assert not compare(two, one).is_other
    with closing(sqlite3.connect(two)) as conn:
        assert conn.execute(change).rowcount == 1
        conn.commit()
    assert compare(one, two).is_other and compare(two, one).is_other


def test_requests_of_the_present_ledger_are_lost_if_the_backup_went_another_way(tmp_path: Path) -> None:
    path = filled(tmp_path, "r1")
    back_up(path, first := tmp_path / "first.db", 1000)
    filled(tmp_path, "r2", "r3")
    back_up(path, later := tmp_path / "later.db", 1000)
    restored(first, path)
    filled(tmp_path, "r4")
    compared = compare(later, path)
    assert (compared.is_other, compared.lost_ids) == (True, ["r4"])


def test_a_ledger_in_use_is_read_with_its_log_and_a_plain_copy_of_its_file_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    present = filled(tmp_path / "b", "y1")

    async def main() -> None:
        async with ledger_in(tmp_path / "a") as ledger:
            await requests(ledger, "x1", "x2")
            used = compare(ledger.path, present)
            assert used.has_log and not used.is_plain and used.backup.requests == 2
            back_up(ledger.path, backup := tmp_path / "backup.db", 1000)
            made = compare(backup, present)
            assert not made.has_log and not made.is_plain and made.backup.requests == 2

    asyncio.run(main())
    plain = Path(shutil.copy(present, tmp_path / "plain.db"))
    assert compare(plain, tmp_path / "a" / "ledger.db").is_plain
    with pytest.raises(UnusableFile, match="the current ledger itself"):
        compare(present, present)


def test_a_damaged_ledger_can_be_replaced_and_a_damaged_backup_is_refused(tmp_path: Path) -> None:
    path = filled(tmp_path, *(f"r{n}" for n in range(200)))
    back_up(path, backup := tmp_path / "backup.db", 1000)
    content = path.read_bytes()
    path.write_bytes(content[:5000] + bytes(60_000) + content[65_000:])
    compared, kept = restored(backup, path)
    assert compared.present is None or compared.lost_requests == 0
    assert kept is not None and kept.read_bytes()[:65_000] == content[:5000] + bytes(60_000)
    assert len(rows_in(path)) == 200
    with pytest.raises(LedgerDamaged, match="this backup cannot be used"):
        compare(kept, path)


def test_what_is_no_ledger_or_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = filled(tmp_path, "r1")
    back_up(path, newer := tmp_path / "newer.db", 1000)
    with closing(sqlite3.connect(newer)) as conn:
        conn.execute("PRAGMA user_version = 99")
    with closing(sqlite3.connect(other := tmp_path / "other.db")) as conn:
        conn.execute("CREATE TABLE t (x)")
    (text := tmp_path / "config.toml").write_text("[server]\n" * 200)
    with pytest.raises(ConfigError, match="install a newer tenantd"):
        compare(newer, path)
    for file, words in ((other, "not a ledger"), (text, "not a ledger"), (tmp_path / "none", "no such")):
        with pytest.raises(UnusableFile, match=words):
            compare(file, path)
    assert rows_in(path) == {"r1"}


def test_a_ledger_is_copied_before_its_upgrade_and_the_copy_can_be_restored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = ledger_of(7, tmp_path)
    before = path.read_bytes()
    caplog.set_level(logging.INFO)

    async def upgrade() -> None:
        await Ledger.open(path, BILLING, lambda: NOW_MICROS, copies=True).close()

    asyncio.run(upgrade())
    copy = tmp_path / "ledger.db.schema7.bak"
    assert copy.exists() and "tenantctl ledger restore" in caplog.text
    with closing(sqlite3.connect(copy)) as conn:
        assert conn.execute("PRAGMA user_version").fetchone() == (7,)
        assert conn.execute("SELECT count(*) FROM requests").fetchone() == (120,)
    copy_of = copy.read_bytes()
    restored(copy, path)
    assert before[100:] == copy_of[100:], "but for its header"
    with closing(sqlite3.connect(path)) as conn:
        assert conn.execute("PRAGMA user_version").fetchone() == (7,)
    asyncio.run(upgrade())
    assert inspect_file(path).breaches == []


@pytest.mark.parametrize("is_new", [True, False])
def test_nothing_is_copied_without_an_upgrade(tmp_path: Path, is_new: bool) -> None:
    if not is_new:
        filled(tmp_path, "r1")

    async def main() -> None:
        await Ledger.open(tmp_path / "ledger.db", BILLING, lambda: NOW_MICROS, copies=True).close()

    asyncio.run(main())
    assert not list(tmp_path.glob("*.bak"))


def test_without_room_for_a_copy_nothing_is_upgraded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ledger_of(7, tmp_path)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("tenantd.ledger.copies.shutil.disk_usage", lambda folder: usage)

    def upgrade(copies: bool) -> Callable[[], None]:
        async def main() -> None:
            await Ledger.open(path, BILLING, lambda: NOW_MICROS, copies=copies).close()

        return lambda: asyncio.run(main())

    with pytest.raises(ConfigError, match=r"free another \d+ MB.*ledger\.copy_before_upgrade = false"):
        upgrade(True)()
    with closing(sqlite3.connect(path)) as conn:
        assert conn.execute("PRAGMA user_version").fetchone() == (7,)
    upgrade(False)()
