"""The supervisor against processes that fail in every way a process can."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tenantd.domain import Sampling
from tenantd.errors import ModelError
from tenantd.events import Loss
from tenantd.fleet.process import Ending, EngineProcess
from tenantd.fleet.supervisor import EngineState, Supervisor, load_command
from tenantd.wire.messages import Command, SetSampling, Step, Submit, TenantPolicy
from tests.fleet.scripted_engine import INFO, POISON, token_at
from tests.serving.daemon_kit import config, is_gone, lives, run, scripted, until


class Client:
    """Has one request that generates up to `max_tokens`, and remembers everything it is told."""

    def __init__(self, prompt: list[int], max_tokens: int = 10) -> None:
        self.prompt = prompt
        self.max_tokens = max_tokens
        self.tokens: list[int] = []
        self.crashes: list[str] = []
        self.losses: list[Loss] = []
        self.given_up: list[str] = []
        self.is_finished = False
        self.steps = 0

    @property
    def has_live(self) -> bool:
        return bool(self.prompt) and not self.is_finished and not self.given_up

    def on_ready(self) -> list[Command]:
        if not self.has_live:
            return []
        return [
            TenantPolicy(tenant="acme", weight=2.0, max_concurrent=3),
            SetSampling(1, Sampling()),
            Submit(
                request=1,
                tenant="acme",
                prompt=self.prompt,
                generated=list(self.tokens),
                max_tokens=self.max_tokens,
                sampling=1,
                billed_prompt_tokens=len(self.prompt) if self.tokens else 0,
            ),
        ]

    def on_room(self) -> None:
        pass

    def on_step(self, step: Step) -> None:
        self.steps += 1
        self.tokens += [p.token for p in step.progress]
        self.is_finished = self.is_finished or bool(step.finishes)

    def on_crash(self, ending: Ending) -> bool:
        self.crashes.append(ending.reason)
        self.losses.append(ending.loss)
        return False

    def on_given_up(self, reason: str) -> None:
        self.given_up.append(reason)


class Scene:
    """A supervisor with a client, stopped on the way out; no process is left."""

    def __init__(self, folder: Path, *script: dict[str, Any], prompt: list[int] | None = None, **engine: Any) -> None:
        self.client = Client([1, 2, 3] if prompt is None else prompt)
        settings = config(**engine)
        self.supervisor = Supervisor(
            load_command(settings),
            settings.engine,
            self.client,
            command=scripted(folder, *script),
            environment={k: v for k, v in os.environ.items() if k in ("PATH", "PYTHONPATH")} | {"MARK": "original"},
            slowest_restart_s=0.05,
            clock_s=self.clock_s,
        )
        self.looks = 0
        self.jump_s = 0.0
        self.pids: set[int] = set()

    def clock_s(self) -> float:
        """The supervisor's: it can be made to jump, and counts how often it is looked at."""
        self.looks += 1
        return time.monotonic() + self.jump_s

    async def __aenter__(self) -> Scene:
        self.supervisor.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.supervisor.pid is not None:
            self.pids.add(self.supervisor.pid)
        await self.supervisor.stop()
        assert all(is_gone(pid) for pid in self.pids), "no process outlives its supervisor"
        assert self.supervisor.pid is None

    def expected(self) -> list[int]:
        return [token_at(self.client.prompt, i) for i in range(self.client.max_tokens)]


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
        async with Scene(tmp_path, {"after_tokens": 4, "then": how}, {}, hang_timeout_s=3) as s:
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


def test_the_engine_gets_the_environment_it_was_given_and_an_openmp_that_spins_briefly(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path) as s:
            await s.supervisor.wait_ready()

    run(scene())
    environment = json.loads((tmp_path / "script.environment").read_text())
    assert environment["MARK"] == "original" and environment["GOMP_SPINCOUNT"] == "20000"
    assert "HOME" not in environment


@pytest.mark.parametrize(("how", "reason"), [("load_failed", "not a GGUF file"), ("78", "exited with status 78")])
def test_a_bad_model_halts_at_once_and_is_not_tried_again(tmp_path: Path, how: str, reason: str) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, {"start": how}) as s:
            with pytest.raises(ModelError, match=reason):
                await s.supervisor.wait_ready()
            assert s.supervisor.state is EngineState.FAILED and s.supervisor.is_hopeless
            assert s.client.given_up == [reason]
        assert lives(tmp_path) == 1

    run(scene())


@pytest.mark.parametrize("how", ["load_failed", "78", "abort", "9"])
def test_a_model_that_was_loaded_once_is_loaded_again_however_often_that_fails(tmp_path: Path, how: str) -> None:
    async def scene() -> None:
        fails = {"start": how}
        async with Scene(tmp_path, {"after_tokens": 4, "then": "sigkill"}, *[fails] * 5, {}, max_crashes=3) as s:
            await until(lambda: s.supervisor.restarts == 3)
            assert s.supervisor.state is EngineState.RESTARTING and s.supervisor.reason, "live requests wait"
            await until(lambda: s.client.is_finished)
            assert s.client.tokens == s.expected(), "no token repeated or missing at the seam"
            assert (len(s.client.crashes), s.client.given_up) == (1, []), "no request is the cause of a load that fails"

    run(scene())


def test_requests_wait_for_a_load_that_fails_only_so_long_and_loading_is_tried_on(tmp_path: Path) -> None:
    async def scene() -> None:
        lost, fails = {"after_tokens": 4, "then": "sigkill"}, {"start": "load_failed"}
        async with Scene(tmp_path, lost, *[fails] * 6, {}, reload_timeout_s=0.3) as s:
            await until(lambda: s.client.given_up)
            assert s.supervisor.state is EngineState.FAILED and not s.supervisor.is_hopeless
            assert s.client.given_up == ["not a GGUF file"]
            await s.supervisor.wait_ready()
            assert s.supervisor.state is EngineState.READY and s.supervisor.reason == ""
        assert lives(tmp_path) == 8 and len(s.client.given_up) == 1

    run(scene())


def test_a_load_that_hangs_keeps_nobody_waiting_once_loading_has_failed_for_too_long(tmp_path: Path) -> None:
    async def scene() -> None:
        lost, fails = {"after_tokens": 4, "then": "sigkill"}, {"start": "load_failed"}
        async with Scene(tmp_path, lost, fails, {"start": "hang"}, hang_timeout_s=1, reload_timeout_s=2) as s:
            await until(lambda: s.client.given_up)
            assert s.supervisor.state is EngineState.FAILED
        assert lives(tmp_path) == 3

    run(scene())


def test_a_request_does_not_go_on_in_another_model(tmp_path: Path) -> None:
    async def scene() -> None:
        other = {"vocabulary": 9}
        async with Scene(tmp_path, {"after_tokens": 4, "then": "sigkill"}, other, other, {}) as s:
            await until(lambda: "another model" in s.supervisor.reason)
            await until(lambda: s.client.is_finished)
            assert s.client.tokens == s.expected()

    run(scene())


def test_memory_that_is_short_for_a_moment_keeps_nobody_from_starting(tmp_path: Path) -> None:
    async def scene() -> None:
        short = {"start": "no_memory"}
        async with Scene(tmp_path, short, short, {}) as s:
            await until(lambda: s.supervisor.reason == "5 MiB are free")
            assert s.supervisor.state is EngineState.LOADING
            assert await s.supervisor.wait_ready() == INFO
        assert lives(tmp_path) == 3

    run(scene())


def test_memory_that_stays_short_ends_a_start_with_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenantd.fleet.supervisor.MEMORY_PATIENCE_S", 0.5)

    async def scene() -> None:
        async with Scene(tmp_path, {"start": "no_memory"}) as s:
            with pytest.raises(ModelError, match="5 MiB are free"):
                await s.supervisor.wait_ready()
            assert s.supervisor.is_hopeless
        assert lives(tmp_path) > 1

    run(scene())


def test_a_crash_while_loading_is_tried_again(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, {"start": "abort"}, {"start": "9"}, {}) as s:
            await until(lambda: len(s.client.crashes) == 1)
            assert s.supervisor.state is EngineState.LOADING, "it was never there, so nothing restarts yet"
            await s.supervisor.wait_ready()
            assert s.supervisor.restarts == 2

    run(scene())


def test_a_load_may_be_silent_for_longer_than_a_step_but_not_for_ever(tmp_path: Path) -> None:
    async def scene() -> None:
        began_s = time.monotonic()
        async with Scene(tmp_path, {"start": "hang"}, {}, hang_timeout_s=0.3, load_timeout_s=2) as s:
            await s.supervisor.wait_ready()
            assert s.client.crashes == ["no sign of life for 2 s"]
        assert time.monotonic() - began_s > 2

    run(scene())


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
        async with Scene(tmp_path, hang_timeout_s=2) as s:
            s.client.max_tokens = 1_000_000
            await until(lambda: s.client.tokens)
            began_s = time.monotonic()
            await until(lambda: time.monotonic() - began_s > 3)
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


def test_the_reason_of_a_crash_names_the_assertion_that_failed(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, prompt=[POISON]) as s:
            await until(lambda: s.client.given_up)
            assert "killed by signal 6: ggml.c:42: GGML_ASSERT(poison) failed" in s.client.given_up[0]

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


def test_stopping_while_it_loads_does_not_wait(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, {"start": "hang"}) as s:
            await until(lambda: s.supervisor.progress == 0.5)
            async with asyncio.timeout(2):
                await s.supervisor.stop()

    run(scene())


def test_stopping_during_the_pause_before_a_restart_starts_nothing_more(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, {"start": "4"}, restart_delay_s=30) as s:
            await until(lambda: s.client.crashes)
            async with asyncio.timeout(2):
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


def test_a_first_start_without_descriptors_is_no_crash_and_is_tried_until_there_are_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, tries = EngineProcess.start, 0

    async def scarce(*arguments: Any) -> EngineProcess:
        nonlocal tries
        tries += 1
        if tries <= 3:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return await start(*arguments)

    monkeypatch.setattr(EngineProcess, "start", scarce)

    async def scene() -> None:
        async with Scene(tmp_path, max_crashes=2) as s:
            assert await s.supervisor.wait_ready() == INFO
            await until(lambda: s.client.is_finished)
        assert (tries, s.client.crashes, s.client.given_up) == (4, [], [])

    run(scene())
