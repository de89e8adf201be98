"""Keeps an engine process running: starts it, watches it, and restarts it after a crash or a hang.

What runs in it is decided by its client: when a process is ready, the client sends the commands that let it
continue where the last one ended. Signals, exits and frames only record facts; `_run` decides.

A model that cannot be loaded is hopeless only until the first process was ready. Later, the cause is outside:
its file was moved, its disk is unavailable, memory is short. Then loading is retried for as long as it takes.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Final, Protocol

import msgspec

from tenantd.config import Config, EmbeddingsConfig, EngineConfig
from tenantd.errors import EngineUnavailable, ModelError
from tenantd.events import Loss
from tenantd.fleet.process import Ending, EngineProcess
from tenantd.fleet.reloads import FailingLoads, is_same_model
from tenantd.wire.messages import (
    Checked,
    Checking,
    Command,
    EngineInfo,
    Event,
    Load,
    LoadEmbeddings,
    LoadFailed,
    Loading,
    Ready,
    Step,
    Stop,
)

log = logging.getLogger(__name__)

ENGINE_COMMAND: Final = (sys.executable, "-m", "tenantd.engine")
EXIT_MODEL: Final = 78
SLOWEST_RESTART_S: Final = 10.0
SLOWEST_RELOAD_S: Final = 3.0
"""Pause between failed loads, so that an engine is ready within seconds once the cause is gone."""
MEMORY_PATIENCE_S: Final = 10.0
"""How long a first start retries when memory is short: a program that just ended may still be returning its memory."""
# Unless ours has them, see docs/benchmarks.md. OpenMP threads that spin at barriers for long take the cores from the
# daemon's HTTP; if they never do, a step takes twice as long. Huge pages save a CPU up to a tenth of it.
ENGINE_ENVIRONMENT: Final = {"GOMP_SPINCOUNT": "20000", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
STOP_TIMEOUT_S: Final = 5.0
DEATH_TIMEOUT_S: Final = 2.0
SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM})
"""Errors that mean a temporary shortage in the daemon or the system, not a crash of an engine."""


class EngineState(StrEnum):
    """State of the engine, as shown by `status` and `/readyz`."""

    LOADING = "loading"  # for the first time
    READY = "ready"
    RESTARTING = "restarting"  # live requests wait and then resume
    FAILED = "failed"  # hopeless, or retried at the slowest pace
    STOPPED = "stopped"


class EngineClient(Protocol):
    """The owner of the requests in the engine. Called in the event loop; must not block or raise."""

    @property
    def has_live(self) -> bool:
        """Whether the engine owes an answer; only then does silence mean a hang."""

    def on_ready(self) -> list[Command]:
        """A new engine is ready. Returns the commands with which it continues where the last one ended."""

    def on_room(self) -> None:
        """The engine is ready, or accepts commands again after `has_room` was false."""

    def on_step(self, step: Step) -> None:
        """A step was made."""

    def on_check(self, message: Checking | Checked) -> None:
        """A self-check goes on, or has ended."""

    def on_crash(self, ending: Ending) -> bool:
        """The engine ended and its contents are lost. True if a request was found to be the cause, and failed."""

    def on_given_up(self, reason: str) -> None:
        """Fail all live requests, after too many crashes in a row or because no engine can be loaded."""


class Supervisor:
    """Runs the engine process, one at a time.

    `reason` tells why the state is not ready, `explained` the same for administrators, with the engine's own words.
    `info` is what was loaded last (None before the first load), `restarts` how often a process was replaced.
    `is_hopeless`: the model cannot be served, so loading is not retried.
    """

    def __init__(
        self,
        load: Load,
        config: EngineConfig,
        client: EngineClient,
        *,
        command: Sequence[str] = ENGINE_COMMAND,
        environment: Mapping[str, str] | None = None,
        slowest_restart_s: float = SLOWEST_RESTART_S,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`environment` is that of the engine (default: this process's)."""
        self.state = EngineState.LOADING
        self.progress = 0.0
        self.reason = self.explained = ""
        self.info: EngineInfo | None = None
        self.restarts = 0
        self.is_hopeless = False
        self._load = load
        self._config = config
        self._client = client
        self._command = command
        self._environment = {**ENGINE_ENVIRONMENT, **(os.environ if environment is None else environment)}
        self._clock_s = clock_s
        self._slowest_restart_s = max(slowest_restart_s, config.restart_delay_s)
        self._engine: EngineProcess | None = None
        self._is_up = False  # the current process sent Ready
        self._was_up = False  # an earlier process sent Ready
        self._is_scarce = False  # the system had no descriptors or processes left for the next one
        self._load_failure: LoadFailed | None = None
        self._failing = FailingLoads(config.restart_delay_s, min(SLOWEST_RELOAD_S, slowest_restart_s))
        self._crashes = 0  # in a row, without progress in between
        self._heard_s = 0.0
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # ---- for the client -----------------------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """Whether commands reach a running engine."""
        return self._is_up

    @property
    def has_room(self) -> bool:
        """Whether an engine is ready for one more request; if not, `on_room` follows."""
        return self._is_up and self._engine is not None and self._engine.has_room

    @property
    def pid(self) -> int | None:
        """Process id of the engine, None while there is no process."""
        return None if self._engine is None else self._engine.pid

    def start(self) -> None:
        """Start loading. Returns at once."""
        assert self._task is None, "started once"
        self._task = asyncio.create_task(self._run())

    async def wait_ready(self) -> EngineInfo:
        """Wait until ready. Raises ModelError if the model cannot be served, EngineUnavailable if stopped meanwhile."""
        while not self._is_up:
            if self.is_hopeless:
                raise ModelError(self.reason)
            if self.state is EngineState.STOPPED:
                raise EngineUnavailable("the engine was stopped")
            self._changed.clear()
            await self._changed.wait()
        assert self.info is not None
        return self.info

    def send(self, command: Command) -> None:
        """Send a command. Without a ready engine it is dropped; `on_ready` tells the next one everything."""
        if self._is_up and self._engine is not None:
            self._engine.send(command)

    async def stop(self, timeout_s: float | None = None) -> None:
        """Stop the engine, by force after `timeout_s`, and wait until it is gone. Safe to call twice."""
        self._stopping.set()
        if self._task is None:
            return
        if self._engine is not None:
            if self._is_up:
                self._engine.send(Stop())
            else:
                self.kill("stopped while loading")
        try:
            await asyncio.wait({self._task}, timeout=STOP_TIMEOUT_S if timeout_s is None else timeout_s)
        finally:
            self.kill("it did not stop when asked to")
        await asyncio.wait({self._task}, timeout=DEATH_TIMEOUT_S)
        if not self._task.done():  # for example stuck in a driver; it dies when the kernel lets it
            log.error("engine process %s was killed but still exists", self.pid)
            self._task.cancel()
            await asyncio.wait({self._task})

    def kill(self, reason: str = "killed by the daemon") -> None:
        """Kill the engine now. Unless `stop` was called, another is started."""
        if self._engine is not None:
            self._engine.kill(reason)

    def distrust(self, reason: str) -> None:
        """Kill the engine now, and take nothing more from it."""
        self._is_up = False
        self.kill(reason)

    # ---- the life of processes ----------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                ending = await self._one_life()
                if self._stopping.is_set():
                    break
                if self._is_hopeless_end(ending):
                    self._halt(self._reason_of(ending))
                    return
                await self._pause(self._after(ending))
        except Exception as e:  # a bug here must not leave streams waiting forever
            log.exception("the supervisor of the engine failed")
            self._halt(f"internal error: {e!r}")
            return
        self._become(EngineState.STOPPED, "stopped")

    async def _one_life(self) -> Ending:
        self._heard_s = self._clock_s()
        self._was_up, self._load_failure, self._is_scarce = False, None, False
        try:
            engine = await EngineProcess.start(self._command, self._environment, self._on_event, self._on_room)
        except OSError as e:
            self._is_scarce = e.errno in SCARCE
            return Ending(None, f"it could not be started: {e.strerror or e}", Loss.NOT_STARTED)
        self._engine = engine
        if not self._failing.count:  # announce a series of failed loads only once
            log.info("engine process %d started", engine.pid)
        engine.send(self._load)
        watching = asyncio.create_task(self._watch(engine))
        try:
            if self._stopping.is_set():
                engine.kill("stopped while loading")
            return await engine.ended()
        finally:
            watching.cancel()
            self._engine = None
            self._is_up = False

    def _reason_of(self, ending: Ending) -> str:
        """Why it did not load. It had no requests yet, so everybody may see its words."""
        return ending.explained if self._load_failure is None else self._load_failure.message

    def _is_hopeless_end(self, ending: Ending) -> bool:
        """Whether retrying is pointless: the model was never loaded, and not just because memory is short."""
        if self.info is not None or (self._load_failure is None and ending.status != EXIT_MODEL):
            return False
        may_pass = self._load_failure is not None and self._load_failure.may_pass
        return not may_pass or self._failing.for_s(self._clock_s()) >= MEMORY_PATIENCE_S

    def _after(self, ending: Ending) -> float:
        """Record the end of a process that will be replaced. Returns seconds until the next start."""
        if self._was_up or (self.info is None and self._load_failure is None and not self._is_scarce):
            return self._crashed(ending)
        return self._not_loaded(self._reason_of(ending))

    def _not_loaded(self, reason: str) -> float:
        """Record a failed load that may work later. No request is the cause, so live requests wait."""
        self.restarts += 1
        now_s = self._clock_s()
        if self._failing.failed(reason, now_s):
            log.error("loading the model failed and will be retried: %s", reason)
        waiting = EngineState.LOADING if self.info is None else EngineState.RESTARTING
        self._become(EngineState.FAILED if self.state is EngineState.FAILED else waiting, reason)
        self._lose_patience(now_s)
        return self._failing.delay_s

    def _lose_patience(self, now_s: float) -> None:
        """Fail waiting requests if loading has failed for too long. Loading is still retried."""
        patience_s = self._config.reload_timeout_s
        if self._failing.count and self.state is EngineState.RESTARTING and self._failing.for_s(now_s) >= patience_s:
            self._become(EngineState.FAILED, self.reason)
            log.error("the model could not be loaded for %g s; requests fail until it can", patience_s)
            self._client.on_given_up(self.reason)

    def _crashed(self, ending: Ending) -> float:
        """Record a crash. Returns seconds until the next start."""
        reason = ending.reason
        self._crashes += 1
        self.restarts += 1
        log.error("the engine crashed: %s (%d in a row)", ending.explained, self._crashes)
        has_found_cause = self._client.on_crash(ending)
        if self._crashes >= self._config.max_crashes and not has_found_cause:
            times = f"the engine crashed {self._crashes} times in a row"
            self._become(EngineState.FAILED, f"{times}: {reason}", f"{times}: {ending.explained}")
            self._client.on_given_up(self.reason)
            return self._slowest_restart_s
        self._become(EngineState.LOADING if self.info is None else EngineState.RESTARTING, reason, ending.explained)
        delay_s: float = self._config.restart_delay_s * 2 ** min(self._crashes - 1, 32)
        return min(delay_s, self._slowest_restart_s)

    def _halt(self, reason: str) -> None:
        log.error("the model cannot be served: %s", reason)
        self.is_hopeless = True
        self._become(EngineState.FAILED, reason)
        self._client.on_given_up(reason)

    async def _pause(self, delay_s: float) -> None:
        """Wait, unless asked to stop."""
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({stopping}, timeout=delay_s)
        stopping.cancel()

    async def _watch(self, engine: EngineProcess) -> None:
        """Kill `engine` if it is silent for too long while it loads or owes answers.

        Loading has its own, longer timeout: reading weights from a slow disk, the dry run and setting up a GPU are
        silent. A heartbeat thread would not help, because it would also beat while loading hangs.
        If this task itself is late, the daemon was stopped or starved (for example, a laptop slept), and what the
        engine sent meanwhile is still unread, so the timeout starts again.
        """
        interval_s = min(1.0, self._config.hang_timeout_s / 4)
        since_s = self._clock_s()
        while True:
            slept_s = self._clock_s()
            await asyncio.sleep(interval_s)
            now_s = self._clock_s()
            self._lose_patience(now_s)
            allowed_s = self._config.hang_timeout_s if self._is_up else self._config.load_timeout_s
            came_late = now_s - slept_s > 2 * interval_s
            if came_late or (self._is_up and not self._client.has_live):
                since_s = now_s
            elif now_s - max(since_s, self._heard_s) > allowed_s:
                engine.kill(f"no sign of life for {allowed_s:g} s", Loss.HUNG)
                return

    # ---- events of the process ----------------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        self._heard_s = self._clock_s()
        match event:
            case Step() if self._is_up:
                self._client.on_step(event)
                if event.progress and self._is_up:
                    self._crashes = 0
            case Checking() | Checked() if self._is_up:
                self._crashes = 0
                self._client.on_check(event)
            case Loading(progress):
                self.progress = progress
            case Ready(info):
                self._become_ready(info)
            case LoadFailed():
                self._load_failure = event
            case Step() | Checking() | Checked():
                self.kill("it reported a step before it was ready")

    def _become_ready(self, info: EngineInfo) -> None:
        assert self._engine is not None
        if self.info is not None and not is_same_model(self.info, info):
            self.kill(f"the model's file now holds another model ({info.model}); restart tenantd to serve it")
            return
        self.info = info
        # a context that was chosen for the memory that was free: running requests need one as large in the next engine
        self._load = msgspec.structs.replace(self._load, context_tokens=info.context_tokens)
        self._is_up = self._was_up = True
        self._failing.worked()
        if self.restarts:
            log.info("the engine is ready again: process %d", self._engine.pid)
        self._become(EngineState.READY, "")
        for command in self._client.on_ready():
            self._engine.send(command)
        self._on_room()

    def _on_room(self) -> None:
        if self._is_up:
            self._client.on_room()

    def _become(self, state: EngineState, reason: str, explained: str = "") -> None:
        if state is not EngineState.STOPPED:
            self.progress = 1.0 if state is EngineState.READY else 0.0
        self.state = state
        self.reason, self.explained = reason, explained or reason
        self._changed.set()


def load_command(config: Config) -> Load:
    """The first command for an engine, from the configuration."""
    engine = config.engine
    return Load(
        backend=engine.backend,
        model_path=str(config.model.path or ""),
        slots=engine.slots,
        context_tokens=engine.context_tokens,
        batch_tokens=engine.batch_tokens,
        kv=engine.kv,
        kv_type=engine.kv_type,
        threads=engine.threads,
        gpu_layers=engine.gpu_layers,
        flash_attention=engine.flash_attention,
        swap_bytes=engine.swap_bytes,
        cache_bytes=config.cache.host_bytes,
        has_caches=config.cache.default == "on",
        checkpoint_tokens=config.cache.checkpoint_tokens,
        scrub=config.security.scrub,
        grammar_budget_ms=engine.grammar_budget_ms,
        fake_step_micros=engine.fake_step_micros,
        fake_token_micros=engine.fake_token_micros,
        settings=config.scheduler,
        embeddings=_load_embeddings(config.embeddings),
        projector_path=str(config.model.projector or ""),
    )


def _load_embeddings(own: EmbeddingsConfig) -> LoadEmbeddings | None:
    if not own.is_on:
        return None
    return LoadEmbeddings(model_path=str(own.model or ""), pooling=own.pooling, input_tokens=own.max_input_tokens)
