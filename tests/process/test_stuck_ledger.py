"""The ledger's file cannot be written, for a while or from the start: nothing unbilled, nothing lost, clear words."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, Stream, wait_until
from tests.support.program import command_environment, tenantctl, without_power_over_files
from tests.support.troubles import Trouble, disk_full, ledger_of, locked, says


@contextmanager
def taken_away(daemon: Daemon) -> Iterator[None]:
    """Its file has another name for a while."""
    away = ledger_of(daemon).with_name("elsewhere.db")
    ledger_of(daemon).rename(away)
    try:
        yield
    finally:
        away.rename(ledger_of(daemon))


def is_stuck(daemon: Daemon) -> bool:
    return not daemon.status()["ledger"]["healthy"]


def until_stuck(daemon: Daemon) -> None:
    wait_until(lambda: is_stuck(daemon), "trouble with the ledger")


def until_well(daemon: Daemon) -> None:
    wait_until(lambda: not is_stuck(daemon), "a ledger that can be written")
    assert daemon.complete("acme", max_tokens=2).status_code == 200
    assert daemon.status()["engine_restarts"] == 0
    assert "Traceback" not in daemon.log.read_text()


def is_in_the_ledger(daemon: Daemon, stream: Stream) -> bool:
    """Settled, with the tokens the client was told."""
    assert stream.usage is not None
    [row] = [row for row in daemon.rows() if row["id"] == stream.request_id]
    told = (stream.finish_reason, stream.usage["prompt_tokens"], stream.usage["completion_tokens"])
    return (row["state"], row["prompt_tokens"], row["completion_tokens"]) == told


@pytest.mark.parametrize("trouble", [disk_full, locked])
def test_what_runs_waits_for_its_row_what_is_new_is_refused_and_all_is_well_again(
    tmp_path: Path, trouble: Trouble
) -> None:
    with Daemon(tmp_path, engine={"fake_step_micros": 1000}) as daemon:
        daemon.add_tenant("acme")
        running = [daemon.stream("acme", f"prompt {n}", max_tokens=2500, ignore_eos=True) for n in range(3)]
        for stream in running:
            stream.begun(5)
        with trouble(daemon):
            until_stuck(daemon)  # a checkpoint finds it
            assert says(trouble, daemon.status()["ledger"]["trouble"])
            new = tenantctl(daemon, "run", "--tenant", "acme", "hello")
            assert (new.returncode, new.stdout) == (75, "")
            assert "cannot write the ledger" in new.stderr and says(trouble, new.stderr)
            tenant = tenantctl(daemon, "tenant", "add", "globex")
            assert (tenant.returncode, tenant.stdout) == (75, "")
            assert tenantctl(daemon, "requests").returncode == 0  # reading goes on
            wait_until(lambda: daemon.status()["running"] == 0, "the engine to be done with them")
            assert not [stream for stream in running if stream.done or stream.error]
            assert {row["state"] for row in daemon.rows()} == {"running"}
        for stream in running:
            stream.join()
            assert (stream.done, stream.error) == (True, None)
            assert is_in_the_ledger(daemon, stream)
        until_well(daemon)
        assert daemon.add_tenant("globex")
        assert [row["state"] for row in daemon.rows()][:3] == ["length"] * 3
        assert len(daemon.rows()) == 4  # nothing of what was refused
        assert daemon.stop() == 0


@pytest.mark.parametrize("trouble", [disk_full, locked])
def test_an_answer_whose_row_does_not_come_in_time_is_not_called_complete_and_is_billed_later(
    tmp_path: Path, trouble: Trouble
) -> None:
    with Daemon(tmp_path, engine={"fake_step_micros": 50_000}, ledger={"settle_timeout_s": 8}) as daemon:
        daemon.add_tenant("acme")
        stream = daemon.stream("acme", max_tokens=60, ignore_eos=True).begun(5)  # three seconds in all
        with trouble(daemon):
            stream.join()
            assert not stream.done
            assert stream.error is not None and stream.error["code"] == "ledger_unavailable"
            assert says(trouble, stream.error["message"])
            until_stuck(daemon)
            assert [row["state"] for row in daemon.rows()] == ["running"]
        wait_until(lambda: [row["state"] for row in daemon.rows()] == ["length"], "its settlement")
        [row] = daemon.rows()
        assert row["completion_tokens"] == stream.tokens == 60
        assert row["output_nanos"] > 0
        until_well(daemon)


def test_a_daemon_killed_with_a_stuck_ledger_has_promised_nothing_it_does_not_keep(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"fake_step_micros": 1000}) as daemon:
        daemon.add_tenant("acme")
        before = daemon.stream("acme", max_tokens=5, ignore_eos=True).join()
        stream = daemon.stream("acme", max_tokens=1500, ignore_eos=True).begun(5)
        with locked(daemon):
            until_stuck(daemon)
            wait_until(lambda: daemon.status()["running"] == 0, "the engine to be done with it")
            daemon.kill()
        stream.join()
        assert not stream.done
        daemon.start()
        assert is_in_the_ledger(daemon, before)
        [row] = [row for row in daemon.rows() if row["id"] == stream.request_id]
        assert row["state"] == "interrupted"
        assert row["completion_tokens"] <= stream.tokens
        until_well(daemon)


def test_a_stop_waits_for_a_ledger_that_gets_well_and_settles_what_it_cancelled(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"fake_step_micros": 10_000}, server={"drain_timeout_s": 0.1}) as daemon:
        daemon.add_tenant("acme")
        stream = daemon.stream("acme", max_tokens=4000, ignore_eos=True).begun(5)
        with locked(daemon):
            until_stuck(daemon)
            daemon.signal(signal.SIGTERM)
            wait_until(lambda: "cancelling" in daemon.log.read_text(), "the end of the drain")
            assert [row["state"] for row in daemon.rows()] == ["running"]
        stream.join()
        assert stream.error is not None and not stream.done
        assert daemon.wait() == 0
        [row] = daemon.rows()
        assert (row["state"], row["completion_tokens"] >= stream.tokens) == ("cancelled", True)


# ---- from the start ------------------------------------------------------------------------------------------------


def start(daemon: Daemon, before: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    """`tenantctl serve`, which is not expected to serve."""
    return subprocess.run(
        [sys.executable, "-m", "tenantctl.main", "serve", "--config", str(daemon.config)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        env=command_environment(daemon),
        preexec_fn=before,
        check=False,
    )


@pytest.fixture(scope="module")
def old_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with one request in its ledger."""
    with Daemon(tmp_path_factory.mktemp("old")) as daemon:
        daemon.add_tenant("acme")
        assert daemon.complete("acme", max_tokens=3).status_code == 200
        assert daemon.stop() == 0
    return daemon.folder / "state"


@pytest.fixture
def daemon(tmp_path: Path, old_state: Path) -> Iterator[Daemon]:
    """Not started yet, with something to lose."""
    daemon = Daemon(tmp_path)
    state = Path(shutil.copytree(old_state, tmp_path / "state"))
    yield daemon
    state.chmod(0o700)
    daemon.kill()


def no_file_may_grow() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def test_a_full_disk_at_the_start_is_said_and_a_later_start_works(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    done = start(daemon, no_file_may_grow)
    assert done.returncode == 75
    last = done.stderr.rstrip().splitlines()[-1]
    assert str(ledger_of(daemon)) in last and says(disk_full, last)
    assert "Traceback" not in done.stderr
    with daemon:
        daemon.add_tenant("acme")
        until_well(daemon)


def test_a_ledger_locked_at_the_start_is_said_and_a_later_start_works(daemon: Daemon) -> None:
    with locked(daemon):
        done = start(daemon)
    assert done.returncode == 75
    assert "another program holds a lock" in done.stderr
    daemon.start()
    until_well(daemon)
    assert len(daemon.rows()) == 2


@pytest.mark.parametrize("what", ["folder", "files"])
def test_a_state_folder_that_may_not_be_written_is_said_and_nothing_in_it_is_touched(daemon: Daemon, what: str) -> None:
    state = ledger_of(daemon).parent
    paths = [state] if what == "folder" else list(state.iterdir())
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in paths}
    for path in paths:
        path.chmod(modes[path] & 0o555)
    before = ledger_of(daemon).read_bytes()
    done = start(daemon, without_power_over_files)
    assert done.returncode in (75, 78)
    last = done.stderr.rstrip().splitlines()[-1]
    assert last.startswith("tenantd: ") and str(state) in last
    assert "permission" in last.lower()
    assert "Traceback" not in done.stderr
    assert ledger_of(daemon).read_bytes() == before
    for path, mode in modes.items():
        path.chmod(mode)
    daemon.start()
    until_well(daemon)
    assert len(daemon.rows()) == 2


def test_a_state_folder_that_becomes_read_only_loses_nothing(daemon: Daemon) -> None:
    """Files that are open stay writable; what the folder alone refuses does not matter to them."""
    daemon.start(before_exec=without_power_over_files)
    state = ledger_of(daemon).parent
    state.chmod(0o500)
    stream = daemon.stream("acme", max_tokens=50, ignore_eos=True).join()
    assert stream.done and is_in_the_ledger(daemon, stream)
    assert daemon.stop() == 0
    assert is_in_the_ledger(daemon, stream)
    state.chmod(0o700)
    daemon.start()
    until_well(daemon)
    assert len(daemon.rows()) == 3


# ---- stuck for longer than answers wait ----------------------------------------------------------------------------

PATIENCE_S = 1.0


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Daemon]:
    """Waits a second for a stuck ledger. An answer of 1000 tokens takes five."""
    settings = {"ledger": {"settle_timeout_s": PATIENCE_S}, "server": {"drain_timeout_s": 0.1}}
    with Daemon(tmp_path, engine={"fake_step_micros": 5000}, **settings) as daemon:
        daemon.add_tenant("acme")
        yield daemon


def until_paused(daemon: Daemon) -> None:
    wait_until(lambda: daemon.status()["ledger"]["requests_paused"], "a pause")


def check_nothing_happens(daemon: Daemon, stream: Stream) -> None:
    """For so long that another two hundred tokens would have come. First comes what was on its way."""

    def seen() -> tuple[int, int]:
        return stream.tokens, daemon.status()["engine_busy_micros"]

    def is_still() -> bool:
        before, end_s = seen(), time.monotonic() + 1.2
        wait_until(lambda: time.monotonic() > end_s, "some time")
        return seen() == before

    wait_until(is_still, "nothing to happen")


@pytest.mark.parametrize("trouble", [disk_full, locked])
def test_what_cannot_be_billed_in_time_is_neither_computed_nor_delivered_until_it_can(
    impatient: Daemon, trouble: Trouble
) -> None:
    stream = impatient.stream("acme", max_tokens=1500, ignore_eos=True).begun(5)
    with trouble(impatient):
        until_paused(impatient)
        check_nothing_happens(impatient, stream)
        assert "tenantd_ledger_paused 1.0" in impatient.get("/metrics").text
        assert not (stream.done or stream.error)
        assert stream.tokens < 1500
    stream.join()
    assert (stream.done, stream.error, stream.tokens) == (True, None, 1500)
    assert is_in_the_ledger(impatient, stream)
    until_well(impatient)


def test_an_engine_that_is_killed_during_the_pause_goes_on_after_it(impatient: Daemon) -> None:
    stream = impatient.stream("acme", max_tokens=1000, ignore_eos=True).begun(5)
    with locked(impatient):
        until_paused(impatient)
        before = impatient.engine_pid()
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: impatient.status()["engine_pid"] not in (None, before), "another engine")
        wait_until(lambda: impatient.status()["state"] == "ready", "its model")
        check_nothing_happens(impatient, stream)
    stream.join()
    assert (stream.done, stream.tokens) == (True, 1000)
    assert is_in_the_ledger(impatient, stream)


def test_a_paused_request_can_be_cancelled_and_is_billed_for_what_came(impatient: Daemon) -> None:
    stream = impatient.stream("acme", max_tokens=1500, ignore_eos=True).begun(5)
    with locked(impatient):
        until_paused(impatient)
        assert impatient.post(f"/admin/v1/requests/{stream.request_id}/cancel").status_code == 200
        stream.join()
        assert stream.error is not None
    wait_until(lambda: [row["state"] for row in impatient.rows()] == ["cancelled"], "its settlement")
    assert impatient.rows()[0]["completion_tokens"] >= stream.tokens


@pytest.mark.parametrize("trouble", [locked, taken_away])
def test_what_a_stop_cannot_settle_the_next_start_settles_as_it_was_delivered(
    impatient: Daemon, trouble: Trouble
) -> None:
    complete = impatient.stream("acme", max_tokens=3, ignore_eos=True).join()
    running = impatient.stream("acme", max_tokens=1500, ignore_eos=True).begun(5)
    with trouble(impatient):
        until_stuck(impatient)
        assert impatient.stop() == 0
        running.join()
        assert running.error is not None and running.tokens > 5
    assert ledger_of(impatient).with_name("unsettled.jsonl").exists()
    impatient.start()
    assert "could not be settled when tenantd stopped" in impatient.log.read_text()
    assert not ledger_of(impatient).with_name("unsettled.jsonl").exists()
    assert is_in_the_ledger(impatient, complete)
    [row] = [row for row in impatient.rows() if row["id"] == running.request_id]
    assert (row["state"], row["completion_tokens"] >= running.tokens) == ("cancelled", True)
    assert row["output_nanos"] == 400 * row["completion_tokens"]
    until_well(impatient)


def test_what_could_only_be_logged_makes_the_stop_fail_and_settles_even_after_a_start_in_between(
    impatient: Daemon,
) -> None:
    running = impatient.stream("acme", max_tokens=1500, ignore_eos=True).begun(5)
    aside = ledger_of(impatient).with_name("unsettled.jsonl")
    with locked(impatient):
        until_stuck(impatient)
        aside.mkdir()  # so that it cannot be written
        assert impatient.stop() == 74
        running.join()
    log = impatient.log.read_text()
    assert "1 requests are settled only in this log" in log
    aside.rmdir()
    impatient.start()
    [row] = impatient.rows()
    assert row["state"] == "interrupted"
    assert impatient.stop() == 0
    aside.write_text("\n".join(line[line.index("{") :] for line in log.splitlines() if '{"settlement"' in line))
    impatient.start()
    [row] = impatient.rows()
    assert (row["state"], row["completion_tokens"] >= running.tokens) == ("cancelled", True)
    assert not aside.exists()
