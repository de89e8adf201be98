"""Anchors are written whatever happens to their file, and tell a rewritten history from other things."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tenantd.config import SecurityConfig
from tenantd.ledger import anchor as anchoring
from tenantd.ledger.anchor import Anchor
from tenantd.ledger.anchored import Anchors
from tenantd.ledger.audit import append
from tenantd.ledger.ledger import Ledger
from tenantd.ledger.verify import verify_file
from tests.ledger.books import NOW_MICROS, ledger_in, open_ledger, until
from tests.ledger.trails import entry, tamper


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchoring, "LOOK_INTERVAL_S", 0.01)
    monkeypatch.setattr(anchoring, "RETRY_S", 0.01)


def security(anchor: Path | str, every_s: float = 3600) -> SecurityConfig:
    return SecurityConfig(anchor=str(anchor), anchor_every_s=every_s)


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{") and line.endswith("}")]


@asynccontextmanager
async def anchored(folder: Path, config: Callable[[], SecurityConfig]) -> AsyncIterator[Ledger]:
    async with ledger_in(folder) as ledger:
        ledger.anchor(config)
        yield ledger


async def add(ledger: Ledger, count: int = 1) -> None:
    await ledger.write(lambda conn: append(conn, [entry("e")] * count))


def status(ledger: Ledger) -> dict[str, Any]:
    found = ledger.anchor_status
    assert found is not None
    return found


def test_the_head_is_anchored_at_the_start_and_at_the_end_and_verifies(tmp_path: Path) -> None:
    path = tmp_path / "anchor"

    async def main() -> None:
        async with anchored(tmp_path, lambda: security(path)) as ledger:
            await until(lambda: status(ledger)["age_s"] is not None)
            assert [line["number"] for line in lines(path)] == [1]
            await add(ledger, 3)
        assert [line["number"] for line in lines(path)] == [1, 4]
        assert lines(path)[0]["at"] == "2026-09-21T14:13:20Z"
        assert os.stat(path).st_mode & 0o777 == 0o600
        verdict = verify_file(ledger.path, Anchors.read(path))
        assert (verdict.finding, verdict.anchors) == (None, 2)

    asyncio.run(main())


def test_without_an_anchor_nothing_is_said(tmp_path: Path) -> None:
    async def main() -> None:
        async with anchored(tmp_path, lambda: security("")) as ledger:
            assert ledger.anchor_status is None
            await add(ledger)

    asyncio.run(main())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ledger.db", "unsettled.reserve"]


def test_a_reload_changes_where_and_how_often(tmp_path: Path) -> None:
    configs = [security(tmp_path / "a")]

    async def main() -> None:
        async with anchored(tmp_path, lambda: configs[-1]) as ledger:
            await until(lambda: status(ledger)["age_s"] is not None)
            configs.append(SecurityConfig.model_construct(anchor=str(tmp_path / "b"), anchor_every_s=0.01))
            await until(lambda: (tmp_path / "b").exists() and len(lines(tmp_path / "b")) > 2)
            configs.append(security(tmp_path / "b"))

    asyncio.run(main())
    assert len(lines(tmp_path / "a")) == 1


def test_a_missing_folder_is_a_warning_and_it_goes_on_when_it_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "disk" / "anchor"

    async def main() -> None:
        async with anchored(tmp_path, lambda: security(path)) as ledger:
            await until(lambda: status(ledger)["failures"] > 3)
            assert status(ledger)["trouble"] == f"{path}: No such file or directory"
            assert ledger.healthy
            path.parent.mkdir()
            await until(lambda: not status(ledger)["trouble"])
            assert len(lines(path)) == 1

    asyncio.run(main())
    assert caplog.text.count("cannot anchor the audit trail") == 1, "once, not each time"
    assert "is anchored again" in caplog.text


def test_what_nobody_foresaw_is_logged_and_it_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, usual = tmp_path / "anchor", anchoring.read_head

    def broken(conn: Any) -> Any:
        monkeypatch.setattr(anchoring, "read_head", usual)
        raise TypeError("somebody has put text into a number")

    async def scene() -> None:
        monkeypatch.setattr(anchoring, "read_head", broken)
        async with anchored(tmp_path, lambda: security(path)) as ledger:
            await until(path.exists)
            assert status(ledger)["failures"] == 1

    asyncio.run(scene())
    assert "somebody has put text into a number" in caplog.text and "Traceback" in caplog.text


def test_a_full_disk_leaves_a_cut_off_line_and_the_next_begins_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, write, room = tmp_path / "anchor", os.write, [20]

    def limited(fd: int, data: bytes) -> int:
        if not room:
            return write(fd, data)
        if (left := room[0]) == 0:
            raise OSError(28, "No space left on device")
        room[0] = 0
        return write(fd, data[:left])

    monkeypatch.setattr(anchoring.os, "write", limited)

    async def main() -> None:
        async with anchored(tmp_path, lambda: security(path)) as ledger:
            await until(lambda: status(ledger)["failures"] > 1)
            assert "No space left" in status(ledger)["trouble"]
            room.clear()
            await until(lambda: status(ledger)["age_s"] is not None)

    asyncio.run(main())
    assert [line["number"] for line in lines(path)] == [1, 1]
    verdict = verify_file(tmp_path / "ledger.db", Anchors.read(path))
    assert (verdict.finding, verdict.notes) == (None, ["1 line is not an anchor and was ignored"])


@pytest.mark.parametrize("kind", ["fifo", "folder", "ledger", "link"])
def test_what_is_no_file_for_anchors_is_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("ledger.db" if kind == "ledger" else "anchor")
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(tmp_path / "other")

    async def main() -> None:
        async with anchored(tmp_path, lambda: security(path)) as ledger:
            await until(lambda: status(ledger)["failures"] > 0)
            assert str(path) in status(ledger)["trouble"]
            await add(ledger)
        assert verify_file(tmp_path / "ledger.db").finding is None
        assert not (tmp_path / "other").exists()

    asyncio.run(main())


async def once_anchored(folder: Path, path: Path) -> dict[str, Any]:
    async with anchored(folder, lambda: security(path)) as ledger:
        await until(lambda: status(ledger)["age_s"] is not None)
        return status(ledger)


def test_a_rewritten_or_older_ledger_is_noticed_by_the_next_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "anchor"

    async def fill(count: int) -> None:
        async with ledger_in(tmp_path) as ledger:
            await add(ledger, count)

    asyncio.run(fill(5))
    backup = (tmp_path / "ledger.db").read_bytes()
    asyncio.run(fill(5))
    assert asyncio.run(once_anchored(tmp_path, path))["mismatches"] == 0
    assert asyncio.run(once_anchored(tmp_path, path))["mismatches"] == 0
    (tmp_path / "ledger.db").write_bytes(backup)
    assert asyncio.run(once_anchored(tmp_path, path))["mismatches"] == 1
    assert "ends at entry 6, but entry 11 was anchored" in caplog.text
    tamper(tmp_path / "ledger.db", "UPDATE audit SET hash = zeroblob(32)", "UPDATE audit_head SET hash = zeroblob(32)")
    assert asyncio.run(once_anchored(tmp_path, path))["mismatches"] == 1
    assert "entry 6 of the audit trail is not the one that was anchored" in caplog.text


def test_a_file_that_was_truncated_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "anchor"
    every = [3600.0]

    async def main() -> None:
        async with anchored(
            tmp_path, lambda: SecurityConfig.model_construct(anchor=str(path), anchor_every_s=every[0])
        ) as ledger:
            await until(lambda: status(ledger)["age_s"] is not None)
            os.truncate(path, 30)
            every[0] = 0.01
            await until(lambda: status(ledger)["mismatches"] == 1)
            every[0] = 3600.0

    asyncio.run(main())
    assert "has lost" in caplog.text


def test_the_journal_gets_a_line_that_verification_can_read(tmp_path: Path) -> None:
    address = str(tmp_path / "journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(address)
        journal.settimeout(120)

        async def main() -> None:
            await open_ledger(tmp_path / "ledger.db").close()

        asyncio.run(main())
        anchor = Anchor(tmp_path / "ledger.db", lambda: security("journal"), lambda: NOW_MICROS, journal_socket=address)
        message = journal.recv(4096).decode()
        anchor.close(10)
    fields = dict(line.split("=", 1) for line in message.splitlines())
    assert fields["TENANTD_AUDIT_NUMBER"] == "1"
    assert fields["MESSAGE"].startswith("tenantd-audit-head {")
    (tmp_path / "log").write_text(f"Nov 29 15:00:00 host tenantd[1]: {fields['MESSAGE']}\n")
    assert verify_file(tmp_path / "ledger.db", Anchors.read(tmp_path / "log")).anchors == 1


def test_without_a_journal_the_log_gets_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        await open_ledger(tmp_path / "ledger.db").close()

    asyncio.run(main())
    anchor = Anchor(
        tmp_path / "ledger.db", lambda: security("journal"), lambda: NOW_MICROS, journal_socket=str(tmp_path / "none")
    )
    anchor.close(10)
    assert 'tenantd-audit-head {"at": "2026-09-21T14:13:20Z", "number": 1, "hash": "' in caplog.text


@pytest.mark.parametrize("value", ["anchor", "./anchor", "Journal"])
def test_where_the_anchor_goes_must_be_clear(value: str) -> None:
    with pytest.raises(ValueError, match="absolute path"):
        SecurityConfig(anchor=value)
