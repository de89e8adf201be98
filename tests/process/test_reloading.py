"""Engines that cannot load the model for a while: at the first start, and under a daemon that has served it before."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, wait_until
from tests.support.tiny_gguf import write_tiny_gguf

READY_AGAIN_S = 30  # on a machine that does much else
SMALL: dict[str, Any] = {"backend": "llama", "slots": 2, "context_tokens": 2048, "gpu_layers": 0, "threads": 1}
# The engine asks psutil how much memory is free: this one subtracts what another program is said to hold.
MEMORY = """
import psutil
from pathlib import Path
real = psutil.virtual_memory
def virtual_memory():
    memory, taken = real(), Path(__file__).with_name("taken")
    return memory._replace(available=0) if taken.exists() else memory
psutil.virtual_memory = virtual_memory
"""
Trouble = Callable[[Daemon], AbstractContextManager[None]]


@contextmanager
def file_away(daemon: Daemon) -> Iterator[None]:
    model = daemon.folder / "model.gguf"
    model.rename(daemon.folder / "elsewhere.gguf")
    yield
    (daemon.folder / "elsewhere.gguf").rename(model)


@contextmanager
def memory_short(daemon: Daemon) -> Iterator[None]:
    (daemon.folder / "taken").touch()
    yield
    (daemon.folder / "taken").unlink()


SAYS = {file_away: "no such file", memory_short: "0 MiB are free"}


def prepare(folder: Path, **engine: Any) -> Daemon:
    """A daemon for the tiny model, not started."""
    model = write_tiny_gguf(folder / "model.gguf")
    (folder / "sitecustomize.py").write_text(MEMORY)
    return Daemon(folder, engine={**SMALL, **engine}, model={"path": str(model)})


def start(daemon: Daemon, *, wait: bool = True) -> None:
    path = os.pathsep.join(filter(None, (str(daemon.folder), os.environ.get("PYTHONPATH", ""))))
    if wait:
        daemon.start(PYTHONPATH=path)
    else:
        daemon.launch(PYTHONPATH=path)


def log_has(daemon: Daemon, text: str, times: int = 1) -> None:
    wait_until(lambda: daemon.log.read_text().count(text) >= times, f"{text!r} in the log")


@pytest.mark.parametrize("trouble", [file_away, memory_short])
def test_live_requests_wait_for_a_model_that_cannot_be_loaded_and_go_on_within_seconds_of_its_return(
    tmp_path: Path, trouble: Trouble
) -> None:
    daemon = prepare(tmp_path)
    try:
        start(daemon)
        daemon.add_tenant("acme")
        running = daemon.stream("acme", "for you", max_tokens=1900, ignore_eos=True, temperature=0).begun(3)
        with trouble(daemon):
            os.kill(daemon.engine_pid(), signal.SIGKILL)
            wait_until(lambda: SAYS[trouble] in daemon.status()["reason"], "a load that fails")
            assert daemon.get("/readyz").json()["status"] == "restarting"
            new = daemon.stream("acme", "with them", max_tokens=5, ignore_eos=True)
            tries = daemon.status()["engine_restarts"]
            wait_until(lambda: daemon.status()["engine_restarts"] > tries, "another try")
            assert (running.error, new.error) == (None, None)
        put_back_s = time.monotonic()
        wait_until(lambda: daemon.status()["state"] == "ready", "an engine", READY_AGAIN_S)
        assert time.monotonic() - put_back_s < READY_AGAIN_S
        for stream, tokens in ((running, 1900), (new, 5)):
            stream.join()
            assert (stream.error, stream.done) == (None, True)
            assert stream.usage is not None and stream.usage["completion_tokens"] == tokens
        assert daemon.stop() == 0
    finally:
        daemon.kill()


def test_requests_fail_with_the_reason_when_loading_fails_for_too_long_until_it_works_again(tmp_path: Path) -> None:
    with prepare(tmp_path, reload_timeout_s=1) as daemon:
        daemon.add_tenant("acme")
        with file_away(daemon):
            os.kill(daemon.engine_pid(), signal.SIGKILL)
            waiting = daemon.stream("acme", max_tokens=5).join()
            wait_until(lambda: daemon.status()["state"] == "failed", "the end of patience")
            refused = daemon.complete("acme", max_tokens=5)
            for error in (waiting.error, refused.json()["error"]):
                assert error is not None and error["code"] == "engine_unavailable"
                assert "no such file" in error["message"]
            tries = daemon.status()["engine_restarts"]
            wait_until(lambda: daemon.status()["engine_restarts"] > tries, "another try")
            assert refused.status_code == 503 and int(refused.headers["retry-after"]) <= 10
        wait_until(lambda: daemon.status()["state"] == "ready", "an engine", READY_AGAIN_S)
        assert daemon.complete("acme", max_tokens=5).status_code == 200
        again = f"the engine is ready again: process {daemon.engine_pid()}"
        log_has(daemon, again)
        log = daemon.log.read_text()
        assert log.count("engine process") == 2, "the first, and that the second was tried"
        assert log.count(again) == 1


def test_memory_that_is_short_for_a_moment_does_not_keep_the_daemon_from_starting(tmp_path: Path) -> None:
    daemon = prepare(tmp_path)
    try:
        with memory_short(daemon):
            start(daemon, wait=False)
            log_has(daemon, "will be retried: model.gguf needs")
            wait_until(lambda: daemon.status()["state"] == "loading", "a daemon that waits")
        wait_until(lambda: daemon.get("/readyz").status_code == 200, "a daemon that serves")
    finally:
        daemon.kill()


def test_a_load_that_says_nothing_for_longer_than_a_step_may_take_is_left_to_go_on(tmp_path: Path) -> None:
    """Loading llama.cpp itself is silent, and takes longer than this."""
    with prepare(tmp_path, hang_timeout_s=0.1) as daemon:
        assert daemon.status()["engine_restarts"] == 0


def test_a_load_that_hangs_is_ended_and_begun_again(tmp_path: Path) -> None:
    daemon = prepare(tmp_path, load_timeout_s=5)
    try:
        daemon.launch()
        os.kill(daemon.engine_pid(), signal.SIGSTOP)
        log_has(daemon, "no sign of life for 5 s")
        wait_until(lambda: daemon.status()["state"] == "ready", "an engine")
        assert daemon.status()["engine_restarts"] >= 1
    finally:
        daemon.kill()
