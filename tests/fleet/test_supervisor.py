"""The supervisor against processes that fail in every way a process can."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import pytest

from tenantd.events import Loss
from tenantd.fleet.supervisor import EngineState, Supervisor, load_command
from tests.fleet.scene import Client, Scene
from tests.fleet.scripted_engine import INFO, POISON
from tests.serving.daemon_kit import config, is_gone, lives, run, until


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_an_undisturbed_request_runs_to_its_end(tmp_path: Path, loop: str) -> None:
    async def scene() -> None:
        async with Scene(tmp_path) as s:
            assert await s.supervisor.wait_ready() == INFO
            assert s.supervisor.state is EngineState.READY
            await until(lambda: s.client.is_finished)
            assert s.client.tokens == s.expected()
        assert s.supervisor.state is EngineState.STOPPED
        assert (s.client.crashes, s.supervisor.restarts, lives(tmp_path)) == ([], 0, 1)

    run(scene(), loop)


REASONS = {
    "sigkill": ("killed by signal 9 from outside", Loss.SIGNAL),
    "abort": ("killed by signal 6", Loss.SIGNAL),
    "sigill": ("killed by signal 4: an instruction that this CPU does not have", Loss.SIGNAL),
    "garbage": ("it sent an invalid message", Loss.KILLED),
    "huge": ("over 67108864", Loss.KILLED),
    "half_frame": ("exited with status 3", Loss.EXITED),
    "hang": ("no sign of life for 3 s", Loss.HUNG),
    "0": ("exited with status 0", Loss.EXITED),
}


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("how", REASONS)
def test_a_request_goes_on_where_a_crash_left_it(tmp_path: Path, loop: str, how: str) -> None:
    async def scene() -> None:
        async with Scene(
            tmp_path, {"after_tokens": 4, "then": how}, {}, hang_timeout_s=3 if how == "hang" else 60
        ) as s:
            await until(lambda: s.client.is_finished)
            assert s.client.tokens == s.expected(), "no token repeated or missing at the seam"
            reason, loss = REASONS[how]
            assert len(s.client.crashes) == 1 and reason in s.client.crashes[0]
            assert s.client.losses == [loss]
            assert s.supervisor.restarts == 1 and s.supervisor.state is EngineState.READY
        assert lives(tmp_path) == 2

    run(scene(), loop)


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("low 0\noom_kill 3\n", "low 0\noom_kill 4\n", "killed by signal 9: probably out of memory"),
        ("low 0\noom_kill 3\n", "low 9\noom_kill 3\n", "killed by signal 9 from outside"),
        ("", "", "killed by signal 9 from outside"),
    ],
)
def test_a_killed_engine_was_out_of_memory_only_when_the_kernel_has_killed_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, after: str, says: str
) -> None:
    events = tmp_path / "ours" / "memory.events"
    events.parent.mkdir()
    events.write_text(before)
    (tmp_path / "cgroup").write_text("4:memory:/other\n0::/ours\n")
    monkeypatch.setattr("tenantd.fleet.oom.CGROUPS", tmp_path)
    monkeypatch.setattr("tenantd.fleet.oom.OWN_CGROUP", tmp_path / "cgroup")

    async def scene() -> None:
        async with Scene(tmp_path, prompt=[]) as s:
            await s.supervisor.wait_ready()
            events.write_text(after)
            assert s.supervisor.pid is not None
            os.kill(s.supervisor.pid, signal.SIGKILL)
            await until(lambda: s.client.crashes)
            assert s.client.crashes == [says]
            assert s.client.losses == [Loss.MEMORY if "out of memory" in says else Loss.SIGNAL]

    run(scene())


def test_the_engine_gets_the_environment_it_was_given_and_what_makes_llama_cpp_fast(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path) as s:
            await s.supervisor.wait_ready()

    run(scene())
    environment = json.loads((tmp_path / "script.environment").read_text())
    assert environment["MARK"] == "original" and environment["GOMP_SPINCOUNT"] == "20000"
    assert environment["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    assert "HOME" not in environment


def test_silence_with_nothing_to_do_is_no_hang(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, prompt=[], hang_timeout_s=2) as s:
            await s.supervisor.wait_ready()
            began_s = s.clock_s()
            s.looks = 0
            await until(lambda: s.looks > 10)  # the watch looks at the clock before and after each pause
            assert s.clock_s() - began_s > 2
            assert s.supervisor.is_ready and lives(tmp_path) == 1

    run(scene())


def test_an_engine_that_takes_steps_is_not_hung_however_long_it_takes(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, hang_timeout_s=5) as s:
            s.client.max_tokens = 1_000_000
            await until(lambda: s.client.tokens)
            began_s = time.monotonic()
            await until(lambda: time.monotonic() - began_s > 6)
            assert s.client.crashes == []

    run(scene())


def test_a_daemon_that_was_stopped_itself_does_not_take_the_engine_for_hung(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, hang_timeout_s=2) as s:
            s.client.max_tokens = 500
            await until(lambda: s.client.tokens)
            pid = s.supervisor.pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            s.jump_s = 100.0  # as when a laptop sleeps: time went by, and nobody was there to say or hear anything
            s.looks = 0
            await until(lambda: s.looks > 3)
            os.kill(pid, signal.SIGCONT)
            await until(lambda: s.client.is_finished)
            assert s.client.crashes == []

    run(scene())


def test_too_many_crashes_in_a_row_give_up_but_go_on_trying(tmp_path: Path) -> None:
    async def scene() -> None:
        crash = {"start": "5"}
        async with Scene(tmp_path, crash, crash, crash, crash, {}) as s:
            await until(lambda: s.client.given_up)
            assert s.supervisor.state is EngineState.FAILED and not s.supervisor.is_hopeless
            assert "3 times in a row: exited with status 5" in s.supervisor.reason
            await s.supervisor.wait_ready()
            assert s.supervisor.state is EngineState.READY and s.supervisor.reason == ""
        assert (lives(tmp_path), len(s.client.crashes), len(s.client.given_up)) == (5, 4, 2)

    run(scene())


def test_progress_in_between_keeps_crashes_from_being_in_a_row(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, {"after_tokens": 1, "then": "sigkill"}) as s:
            await until(lambda: s.client.is_finished)
            assert s.client.tokens == s.expected()
            assert len(s.client.crashes) >= 9 and s.client.given_up == []

    run(scene())


def test_administrators_see_which_assertion_failed_and_tenants_nothing_that_the_engine_wrote(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, prompt=[POISON]) as s:
            await until(lambda: s.client.given_up)
            assert "killed by signal 6: ggml.c:42: GGML_ASSERT(poison) failed" in s.supervisor.explained
            assert s.client.given_up[0] == s.supervisor.reason
            assert s.client.given_up[0] == "the engine crashed 3 times in a row: killed by signal 6"

    run(scene())


def test_a_command_that_cannot_be_started_is_a_crash_with_its_reason(tmp_path: Path) -> None:
    async def scene() -> None:
        client = Client([1])
        settings = config(max_crashes=2)
        supervisor = Supervisor(
            load_command(settings), settings.engine, client, command=[str(tmp_path / "nothing")], slowest_restart_s=0.01
        )
        supervisor.start()
        await until(lambda: client.given_up)
        assert "could not be started" in supervisor.reason and supervisor.state is EngineState.FAILED
        await supervisor.stop()

    run(scene())


def test_an_engine_that_will_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenantd.fleet.supervisor.STOP_TIMEOUT_S", 0.3)

    async def scene() -> None:
        async with Scene(tmp_path, {"after_tokens": 1000, "then": "ignore_stop"}, prompt=[]) as s:
            await s.supervisor.wait_ready()
        assert s.supervisor.state is EngineState.STOPPED

    run(scene())


def test_stopping_during_the_pause_before_a_restart_starts_nothing_more(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, {"start": "4"}, restart_delay_s=30) as s:
            await until(lambda: s.client.crashes)
            async with asyncio.timeout(20):
                await s.supervisor.stop()
        assert lives(tmp_path) == 1

    run(scene())


def test_a_killed_engine_is_replaced(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, prompt=[]) as s:
            await s.supervisor.wait_ready()
            first = s.supervisor.pid
            assert first is not None
            assert os.getpgid(first) != os.getpgrp(), "Ctrl-C in the terminal is for the daemon alone"
            os.kill(first, signal.SIGKILL)
            await until(lambda: s.supervisor.pid not in (None, first) and s.supervisor.is_ready)
            assert is_gone(first) and s.supervisor.restarts == 1

    run(scene())
