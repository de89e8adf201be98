"""Engines that do not load, load late or load nothing: who waits, and for how long."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tenantd.errors import ModelError
from tenantd.fleet.process import EngineProcess
from tenantd.fleet.supervisor import EngineState
from tests.fleet.scene import Scene
from tests.fleet.scripted_engine import INFO
from tests.serving.daemon_kit import lives, run, until


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
        async with Scene(tmp_path, lost, *[fails] * 12, {}, reload_timeout_s=0.3) as s:
            await until(lambda: s.client.given_up)
            assert s.supervisor.state is EngineState.FAILED and not s.supervisor.is_hopeless
            assert s.client.given_up == ["not a GGUF file"]
            await s.supervisor.wait_ready()
            assert s.supervisor.state is EngineState.READY and s.supervisor.reason == ""
        assert lives(tmp_path) == 14 and len(s.client.given_up) == 1

    run(scene())


def test_a_load_that_hangs_keeps_nobody_waiting_once_loading_has_failed_for_too_long(tmp_path: Path) -> None:
    async def scene() -> None:
        lost, fails = {"after_tokens": 4, "then": "sigkill"}, {"start": "load_failed"}
        async with Scene(tmp_path, lost, fails, {"start": "hang"}, hang_timeout_s=1, reload_timeout_s=8) as s:
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


def test_the_next_engine_gets_the_context_that_the_first_one_chose(tmp_path: Path) -> None:
    """Less memory may be free by then, but running requests are as long as before."""

    async def scene() -> None:
        async with Scene(tmp_path, prompt=[]) as s:
            await s.supervisor.wait_ready()
            s.supervisor.kill("as a test")
            await until(lambda: s.supervisor.restarts == 1 and s.supervisor.is_ready)

    run(scene())
    assert (tmp_path / "script.contexts").read_text().split() == ["0", str(INFO.context_tokens)]


def test_stopping_while_it_loads_does_not_wait(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, {"start": "hang"}) as s:
            await until(lambda: s.supervisor.progress == 0.5)
            async with asyncio.timeout(20):
                await s.supervisor.stop()

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
