"""The ledger's files are deleted, moved, replaced or damaged: it is noticed, said, and no bill is lost in silence."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, wait_until
from tests.support.program import command_environment

NEW_LEDGER = "started a new ledger"


def ledger_of(daemon: Daemon) -> Path:
    return daemon.folder / "state" / "ledger.db"


def log_of(daemon: Daemon) -> Path:
    return ledger_of(daemon).with_name("ledger.db-wal")


def requests(daemon: Daemon, count: int) -> list[str]:
    """Whole requests: the ids of those that were answered."""
    ids = []
    for _ in range(count):
        answer = daemon.complete("acme", max_tokens=2)
        if answer.status_code == 200:
            ids.append(answer.headers["x-request-id"])
        else:
            assert answer.status_code == 503, answer.text
    return ids


def settled(path: Path) -> set[str]:
    """Ids of the settled requests in a file that nobody has open."""
    with closing(sqlite3.connect(path)) as conn:
        return {row[0] for row in conn.execute("SELECT id FROM requests WHERE state = 'length'")}


def trouble(daemon: Daemon) -> str:
    return str(daemon.status()["ledger"]["trouble"])


def is_refused_with(daemon: Daemon, words: str) -> bool:
    answer = daemon.complete("acme", max_tokens=2)
    if answer.status_code == 200:
        return False
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "ledger_unavailable")
    return words in answer.json()["error"]["message"]


def serve(daemon: Daemon) -> subprocess.CompletedProcess[str]:
    """A daemon that is not expected to serve."""
    return subprocess.run(
        [sys.executable, "-m", "tenantd", "--config", str(daemon.config)],
        capture_output=True,
        text=True,
        timeout=120,
        env=command_environment(daemon),
        check=False,
    )


@pytest.mark.parametrize("with_index", [False, True])
def test_no_answered_request_is_lost_when_the_log_is_deleted_and_the_daemon_killed(
    tmp_path: Path, with_index: bool
) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.add_tenant("acme")
        answered = requests(daemon, 20)
        if with_index:
            log_of(daemon).with_name("ledger.db-shm").unlink()
        log_of(daemon).unlink()
        wait_until(lambda: "a new log was started" in daemon.log.read_text(), "a new log")
        answered += requests(daemon, 20)
        wait_until(lambda: daemon.status()["ledger"]["healthy"], "a healthy ledger")
        answered += requests(daemon, 5)
        assert len(answered) >= 25
        daemon.kill()
        assert settled(ledger_of(daemon)) == set(answered)
        assert "was moved or deleted while tenantd is running" in daemon.log.read_text()
        daemon.start()
        assert daemon.complete("acme", max_tokens=2).status_code == 200


def test_a_ledger_that_is_moved_away_is_trouble_until_it_is_back(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.add_tenant("acme")
        answered = requests(daemon, 3)
        away = ledger_of(daemon).with_name("elsewhere")
        ledger_of(daemon).rename(away)
        wait_until(lambda: "move the same file back" in trouble(daemon), "trouble")
        assert is_refused_with(daemon, "move the same file back")
        assert "tenantd_ledger_healthy 0.0" in daemon.get("/metrics").text
        assert daemon.get("/admin/v1/usage").status_code == 503  # what another file says is not shown as this one's
        assert settled(away) == set(answered), "what was in the log is saved"
        away.rename(ledger_of(daemon))
        wait_until(lambda: daemon.status()["ledger"]["healthy"], "a healthy ledger")
        answered += requests(daemon, 3)
        assert len(answered) == 6
        daemon.kill()
        assert settled(ledger_of(daemon)) == set(answered)


def test_a_ledger_that_is_replaced_is_trouble_until_a_restart_which_goes_on_with_the_new_one(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.add_tenant("acme")
        first = requests(daemon, 3)
        with closing(sqlite3.connect(ledger_of(daemon))) as conn:
            conn.execute("VACUUM INTO ?", (str(tmp_path / "copy.db"),))
        second = requests(daemon, 3)
        (tmp_path / "copy.db").replace(ledger_of(daemon))
        wait_until(lambda: "deleted" in trouble(daemon), "trouble")
        assert is_refused_with(daemon, "deleted")
        assert daemon.get("/admin/v1/usage").status_code == 503
        assert daemon.stop() == 0
        [rescued] = ledger_of(daemon).parent.glob("ledger-rescued-*.db")
        assert settled(rescued) == {*first, *second}
        assert str(rescued) in daemon.log.read_text()
        daemon.start()
        assert {row["id"] for row in daemon.rows()} == set(first)
        assert daemon.complete("acme", max_tokens=2).status_code == 200


def test_a_ledger_that_was_deleted_is_written_again_as_the_daemon_stops(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.add_tenant("acme")
        answered = requests(daemon, 5)
        for path in ledger_of(daemon).parent.glob("ledger.db*"):
            path.unlink()
        wait_until(lambda: "was deleted while tenantd is running" in trouble(daemon), "trouble")
        assert is_refused_with(daemon, "which then writes the file again")
        assert daemon.stop() == 0
        assert settled(ledger_of(daemon)) == set(answered)
        assert ledger_of(daemon).stat().st_mode & 0o777 == 0o600
        daemon.start()
        assert NEW_LEDGER not in daemon.log.read_text()
        assert daemon.complete("acme", max_tokens=2).status_code == 200


def test_a_new_ledger_where_tenantd_has_run_before_is_warned_of(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        assert NEW_LEDGER not in daemon.log.read_text()
        assert daemon.stop() == 0
        daemon.start()
        assert NEW_LEDGER not in daemon.log.read_text()
        assert daemon.stop() == 0
        ledger_of(daemon).unlink()
        daemon.start()
        assert NEW_LEDGER in daemon.log.read_text()


def test_a_first_start_that_fails_for_its_model_does_not_make_the_next_one_warn(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, engine={"backend": "llama"}, model={"path": str(tmp_path / "none.gguf")})
    assert serve(daemon).returncode == 78
    daemon.configure()
    with daemon:
        assert NEW_LEDGER not in daemon.log.read_text()


def test_a_log_without_its_ledger_is_not_thrown_away(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.add_tenant("acme")
        with closing(sqlite3.connect(f"file:{ledger_of(daemon)}?mode=ro", uri=True)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM tenants").fetchall()  # from here on the log cannot be emptied
            answered = requests(daemon, 3)
            daemon.kill()
        assert log_of(daemon).stat().st_size
        away = ledger_of(daemon).with_name("elsewhere")
        ledger_of(daemon).rename(away)
        done = serve(daemon)
        assert done.returncode == 78 and "is missing; put it back" in done.stderr
        assert not ledger_of(daemon).exists() and log_of(daemon).stat().st_size
        away.rename(ledger_of(daemon))
        daemon.start()
        assert {row["id"] for row in daemon.rows()} == set(answered)


def test_soon_after_a_request_everything_is_in_the_ledger_itself(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.add_tenant("acme")
        answered = requests(daemon, 3)
        wait_until(lambda: daemon.status()["ledger"]["wal_bytes"] == 0, "an empty log")
        copy = shutil.copy(ledger_of(daemon), tmp_path / "copy.db")
        with closing(sqlite3.connect(copy)) as conn:
            assert conn.execute("SELECT name FROM tenants").fetchall() == [("acme",)]
        assert settled(Path(copy)) == set(answered)


def damage(path: Path) -> None:
    """Overwrite the first page of the table of requests."""
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page_bytes,) = conn.execute("PRAGMA page_size").fetchone()
        (page,) = conn.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'requests_by_tenant'").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * page_bytes)
        file.write(b"\xa5" * page_bytes)


def test_damage_ends_the_start_with_78_and_the_advice_to_restore_a_backup(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.add_tenant("acme")
        requests(daemon, 3)
        assert daemon.stop() == 0
        damage(ledger_of(daemon))
        before = ledger_of(daemon).read_bytes()
        done = serve(daemon)
        assert done.returncode == 78
        assert "is damaged" in done.stderr and "restore a backup" in done.stderr
        assert "move it" not in done.stderr and "Traceback" not in done.stderr
        assert ledger_of(daemon).read_bytes() == before


def test_damage_in_a_large_ledger_is_found_while_it_serves_and_nothing_new_begins(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.add_tenant("acme")
        requests(daemon, 3)
        assert daemon.stop() == 0
        with closing(sqlite3.connect(ledger_of(daemon), isolation_level=None)) as conn:
            conn.execute("CREATE TABLE filler (value BLOB)")  # too large to be checked before it is used
            conn.execute("INSERT INTO filler VALUES (zeroblob(70000000))")
        damage(ledger_of(daemon))
        daemon.start()
        wait_until(lambda: "is damaged" in trouble(daemon), "the damage to be found")
        assert is_refused_with(daemon, "restore a backup")
        assert "tenantd_ledger_healthy 0.0" in daemon.get("/metrics").text
        assert daemon.stop() == 0
