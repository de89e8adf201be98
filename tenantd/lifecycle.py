"""The daemon's life: what is opened in which order, and closed in reverse.

Signals only record facts. SIGTERM and SIGINT drain: new requests get 503, running ones finish within
`server.drain_timeout_s`; a second signal stops at once. SIGHUP reloads tenants and configuration, unless it was sent
because the terminal that the daemon was started from is gone; then it drains too. A shutdown takes
at most `server.stop_timeout_s`.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

from tenantd import signals
from tenantd.api.listener import FileLock, check_state_folder, make_private_folder
from tenantd.api.server import GOODBYE_S, Server, make_app
from tenantd.api.tcp import open_listeners, say_where
from tenantd.api.web.pages import Pages
from tenantd.banner import gpu_warning, memory_warnings, ready_line
from tenantd.clock import now_micros
from tenantd.config import Config
from tenantd.errors import ConfigError, TenantdError
from tenantd.events import CLOSE_TIMEOUT_S as EVENTS_TIMEOUT_S
from tenantd.events import Action, Administered, Events
from tenantd.ledger.ledger import CLOSE_TIMEOUT_S, Ledger
from tenantd.ledger.reports import last_minute, recent_usage
from tenantd.ledger.retention import keep_for_days
from tenantd.reloadable import merge
from tenantd.serving.isolation import FILE_NAME as ISOLATION_FILE
from tenantd.serving.service import Service
from tenantd.serving.stopping import Stage, StopClock
from tenantd.systemd import Notifier
from tenantd.tenancy.directory import Directory
from tenantd.text.chat import ChatFormatter
from tenantd.text.sketches import Sketcher
from tenantd.text.vocabulary import ByteVocabulary, LlamaVocabulary, Vocabulary
from tenantd.watching.anomalies import CLOSE_TIMEOUT_S as WATCH_TIMEOUT_S
from tenantd.watching.anomalies import AnomalyWatch, HabitFile
from tenantd.watching.metrics import Meter
from tenantd.watching.reactions import Reactions
from tenantd.watching.recorder import Recorder
from tenantd.watching.request_log import RequestLog
from tenantd.watching.webhook import alert_operators

log = logging.getLogger(__name__)

PROGRESS_INTERVAL_S: Final = 1.0
HANGUP_S: Final = 0.5
TERMINAL_INTERVAL_S: Final = 2.0
REMEMBERED_HALF_LIVES: Final = 10
"""Usage older than this many half-lives counts a thousandth, so it is not read at start."""
EXIT_ONLY_LOGGED: Final = 74
"""EX_IOERR of sysexits.h: somebody must save what is in the log."""


class Daemon:
    """One run of the daemon."""

    def __init__(
        self,
        config: Config,
        load_config: Callable[[], Config],
        environment: Mapping[str, str],
        clock: StopClock,
        passed: Sequence[socket.socket] = (),
    ) -> None:
        """`environment` is for the engine process; this process hides the GPUs from itself. `clock` limits the
        shutdown. `passed` are sockets that systemd has bound."""
        self._config = config
        self._load_config = load_config
        self._environment = environment
        self._passed = passed
        self._notifier = Notifier()
        self._events = Events()
        self._meter = Meter(self._events, config.model_name, config.embeddings_name)
        self._webhook = alert_operators(self._events, lambda: self._config)
        self._request_log = RequestLog(self._events)
        self._recorder: Recorder | None = None
        self._watch: AnomalyWatch | None = None
        self._clock = clock
        self._stop, self._stop_now = asyncio.Event(), asyncio.Event()
        self._reload_wanted = asyncio.Event()
        self._only_logged = 0
        self._vocabularies: dict[Path, LlamaVocabulary] = {}

    async def run(self) -> int:
        """Serve until asked to stop. Returns the exit code. Raises TenantdError if serving is impossible."""
        async with AsyncExitStack() as stack:
            try:
                service, server = await self._open(stack)
                await self._serve(service, server)
            finally:
                self._clock.begin(self._config.server.stop_timeout_s)
        if self._only_logged:
            log.error(
                "%d requests are settled only in this log: add its lines to unsettled.jsonl while tenantd is stopped, "
                "or they are billed from their last checkpoint",
                self._only_logged,
            )
            return EXIT_ONLY_LOGGED
        return 0

    async def _open(self, stack: AsyncExitStack) -> tuple[Service, Server]:
        """Open everything. What is pushed on `stack` is undone in reverse order, locks last."""
        config = self._config
        ledger = self._open_ledger(stack)
        listeners = await asyncio.to_thread(open_listeners, config, self._passed)
        for listener in listeners:
            stack.callback(listener.close)

        vocabulary = await self._open_vocabulary(stack, config.model.path)
        chat = ChatFormatter(vocabulary)
        if chat.warning:
            log.warning("%s", chat.warning)

        directory = Directory(config.limits.as_limits(), config.cache.is_on)
        await directory.reload(ledger)
        habits = HabitFile(config.state_dir / "habits.npz")
        loaded = await asyncio.to_thread(habits.load) if config.security.anomalies else None
        service = Service(
            config,
            ledger,
            directory,
            vocabulary,
            chat,
            events=self._events,
            environment=self._environment,
            on_tenants=self._meter.keep,
            sketcher=None if loaded is None else Sketcher(loaded[0]),
            embedding_vocabulary=await self._open_vocabulary(stack, config.embeddings.model or config.model.path),
        )
        if loaded is not None:
            reactions = Reactions(self._events, directory, service.administration)
            stack.push_async_callback(reactions.close)
            self._watch = AnomalyWatch(habits, *loaded, reactions.found)
            self._events.queue("anomalies", self._watch.hear)
        service.isolation.keep_in(config.state_dir / ISOLATION_FILE)
        period_s = REMEMBERED_HALF_LIVES * config.scheduler.half_life_s
        service.remember(
            await ledger.read(lambda conn: recent_usage(conn, now_micros(), period_s)),
            await ledger.read(lambda conn: last_minute(conn, now_micros())),
        )
        self._meter.keep(directory.tenants)
        pages = Pages(directory, lambda: service.config.server)
        app = make_app(service, self._meter, self._webhook, self._request_log, pages)
        server = Server(app, listeners, lambda: service.config.server, self._events, directory, pages)
        # The service stops before the server, so that every stream still gets its real end.
        stack.push_async_callback(self._stop_server, server)
        stack.push_async_callback(service.stop, self._clock)
        await service.start()
        gc.collect()
        gc.freeze()  # what is there by now stays: looking through it again and again would hold up the loop for 70 ms
        await server.start()
        ledger.check_in_background()
        say_where(listeners, config.socket)
        if (drain_s := config.server.drain_timeout_s) > (1 - Stage.DRAIN.value) * config.server.stop_timeout_s:
            log.warning(
                "server.drain_timeout_s = %g is cut short: raise server.stop_timeout_s to %g",
                drain_s,
                math.ceil(drain_s / (1 - Stage.DRAIN.value)),
            )
        return service, server

    async def _open_vocabulary(self, stack: AsyncExitStack, path: Path | None) -> Vocabulary:
        """That of a model, without weights. Raises ModelError."""
        if self._config.engine.backend == "fake":
            return ByteVocabulary()
        assert path is not None, "checked when the configuration was loaded"
        if path not in self._vocabularies:
            self._vocabularies[path] = vocabulary = await asyncio.to_thread(LlamaVocabulary.open, path)
            stack.callback(vocabulary.close)
        return self._vocabularies[path]

    def _open_ledger(self, stack: AsyncExitStack) -> Ledger:
        """Open the ledger in its folder, which no other daemon can use meanwhile."""
        config = self._config
        make_private_folder(config.state_dir, purpose="the ledger")
        check_state_folder(config.state_dir)
        lock_path = config.state_dir / "daemon.lock"
        has_run_before = lock_path.exists()
        lock = FileLock(lock_path, owned=f"state folder {config.state_dir}")
        stack.callback(lock.release)
        has_trail = config.security.is_audited
        ledger = Ledger.open(
            config.state_dir / "ledger.db",
            config.billing,
            now_micros,
            audits=has_trail,
            copies=config.ledger.copy_before_upgrade,
        )
        stack.callback(self._close_watch)
        stack.push_async_callback(self._close_ledger, ledger)
        ledger.anchor(lambda: self._config.security)
        if has_trail:
            self._recorder = Recorder(ledger, self._events)
        # Not earlier: an upgrade of the ledger may take minutes, and may be killed at any time.
        signals.listen(self._on_stop, self._on_hangup)
        stack.callback(self._close_events)
        say_how_it_was_found(ledger, has_run_before=has_run_before)
        return ledger

    async def _serve(self, service: Service, server: Server) -> None:
        background = [
            asyncio.create_task(self._watch_loading(service)),
            asyncio.create_task(self._reload_when_told(service, server)),
            asyncio.create_task(self._watch_terminal()),
            asyncio.create_task(self._notifier.keep_alive()),
            asyncio.create_task(server.ended()),
            asyncio.create_task(self._meter.watch_loop()),
            asyncio.create_task(self._events.watch()),
            asyncio.create_task(self._prune_audit(service.ledger)),
        ]
        if self._recorder is not None:
            background.append(asyncio.create_task(self._recorder.run()))
        stop = asyncio.create_task(self._stop.wait())
        try:
            await self._until(stop, background)
            drain_s = self._clock.most(service.config.server.drain_timeout_s, Stage.DRAIN)
            log.info("stopping: running requests have %.3g s to finish", drain_s)
            self._notifier.stopping()
            await self._drain(service)
        finally:
            for task in (stop, *background):
                task.cancel()
            await asyncio.gather(stop, *background, return_exceptions=True)

    async def _until(self, stop: asyncio.Task[Any], background: list[asyncio.Task[None]]) -> None:
        """Return when asked to stop. Raises the error of a background task."""
        running: set[asyncio.Task[Any]] = {stop, *background}
        while not stop.done():
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()

    async def _prune_audit(self, ledger: Ledger) -> None:
        """Keep the audit trail as long as configured, until cancelled."""
        await keep_for_days(
            ledger,
            lambda: self._config.security.audit_keep_days,
            lambda: ZoneInfo(self._config.billing.timezone),
            now_micros,
        )

    async def _drain(self, service: Service) -> None:
        drain = asyncio.create_task(service.drain(service.config.server.drain_timeout_s, self._clock))
        now = asyncio.create_task(self._stop_now.wait())
        await asyncio.wait({drain, now}, return_when=asyncio.FIRST_COMPLETED)
        now.cancel()
        if drain.done():
            drain.result()
        else:
            log.warning("stopping at once")
            drain.cancel()
            await asyncio.gather(drain, return_exceptions=True)

    async def _stop_server(self, server: Server) -> None:
        await server.stop(self._clock.most(GOODBYE_S, Stage.GOODBYE))

    def _close_events(self) -> None:
        """The last of them are announced, and nothing else needs the loop any more."""
        if self._recorder is not None:
            self._recorder.flush(is_last=True)
        self._webhook.close(self._clock.most(EVENTS_TIMEOUT_S, Stage.LEDGER))
        if not self._events.close(self._clock.most(EVENTS_TIMEOUT_S, Stage.LEDGER)):
            self._watch = None  # it may still hear or save

    def _close_watch(self) -> None:
        """After the ledger, because its disk may hang."""
        if self._watch is not None:
            self._watch.close(self._clock.most(WATCH_TIMEOUT_S, Stage.CUT_OFF))

    async def _close_ledger(self, ledger: Ledger) -> None:
        """Close the ledger, but do not wait for a disk that hangs: the next start settles what is not written."""
        closing = asyncio.create_task(ledger.close(self._clock.most(CLOSE_TIMEOUT_S, Stage.LEDGER)))
        await asyncio.wait({closing}, timeout=self._clock.most(math.inf, Stage.CUT_OFF))
        self._only_logged = ledger.only_logged
        if closing.done():
            closing.result()

    # -- loading

    async def _watch_loading(self, service: Service) -> None:
        """Log the progress of loading, and then what is served. Raises ModelError if the model cannot be served."""
        progress = asyncio.create_task(self._show_progress(service))
        try:
            info = await service.supervisor.wait_ready()
        finally:
            progress.cancel()
        line = ready_line(service.config.model_name, info)
        log.info("%s", line)
        for warning in await asyncio.to_thread(memory_warnings, info, *service.cache_shares):
            log.warning("%s", warning)
        if warning := await asyncio.to_thread(gpu_warning, info):
            for line_of_it in warning.splitlines():
                log.warning("%s", line_of_it)
        self._notifier.ready(line)

    async def _show_progress(self, service: Service) -> None:
        shown = ""
        while True:
            await asyncio.sleep(PROGRESS_INTERVAL_S)
            status = f"loading {service.config.model_name}: {service.supervisor.progress:.0%}"
            if status != shown:
                log.info("%s", status)
                self._notifier.status(status)
                shown = status

    # -- reloading

    async def _reload_when_told(self, service: Service, server: Server) -> None:
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            self._notifier.reloading()
            try:
                await self._reload(service, server)
            except ConfigError as e:
                log.error("cannot reload the configuration: %s", e.message)
            except TenantdError as e:
                log.error("cannot reload the tenants: %s", e.message)
            except Exception:
                log.exception("cannot reload because of an unexpected error")
            finally:
                self._notifier.reloaded()

    async def _reload(self, service: Service, server: Server) -> None:
        before, found = service.config, self._load_config()
        after, ignored = merge(before, found)
        if after.billing != before.billing:
            service.ledger.reconfigure(after.billing)  # first: it refuses another currency
        self._config = after
        service.reconfigure(after)
        logging.getLogger().setLevel(after.log.level.upper())
        await service.changes.tenants_changed()
        await server.renew_certificates()
        for key in ignored:
            log.warning("%s has changed; it takes effect at the next start", key)
        self._events.announce(Administered(action=Action.RELOADED, actor_uid=None))
        if self._recorder is not None:
            self._recorder.reloaded(before, after)
        log.info("configuration and tenants reloaded")

    # -- signals

    def _on_stop(self) -> None:
        if self._stop.is_set():
            self._stop_now.set()
        self._stop.set()
        self._clock.begin(self._config.server.stop_timeout_s)

    def _on_hangup(self) -> None:
        """SIGHUP means reload, or that the terminal is closing; a shell forwards it just before the terminal is
        gone."""
        if signals.has_lost_terminal():
            self._on_lost_terminal()
            return
        self._reload_wanted.set()
        if signals.has_terminal():
            asyncio.get_running_loop().call_later(HANGUP_S, self._look_for_terminal)

    def _look_for_terminal(self) -> None:
        if signals.has_lost_terminal():
            self._on_lost_terminal()

    def _on_lost_terminal(self) -> None:
        if not self._stop.is_set():  # kernel and shell may both signal it; do not count that as a second signal
            log.info("stopping: the terminal was closed")
            self._on_stop()

    async def _watch_terminal(self) -> None:
        """Notice when the daemon outlives its terminal (disowned by its shell), so that SIGHUP then means reload."""
        while signals.has_terminal():
            await asyncio.sleep(TERMINAL_INTERVAL_S)
            if signals.has_lost_terminal():
                await asyncio.sleep(TERMINAL_INTERVAL_S)  # the accompanying SIGHUP would have arrived by now
                signals.forget_terminal()


def say_how_it_was_found(ledger: Ledger, *, has_run_before: bool) -> None:
    """Log what an administrator should know about a ledger that was just opened."""
    if ledger.is_new and has_run_before:
        log.warning(
            "%s was missing, although tenantd has used this state folder before: started a new ledger, with no "
            "tenants, keys or bills; to use a backup, stop tenantd and restore it",
            ledger.path,
        )
    if ledger.taken_in:
        log.warning("settled %d requests that could not be settled when tenantd stopped", ledger.taken_in)
    if ledger.rejected:
        log.error(
            "cannot use %d lines of unsettled.jsonl; they are kept in unsettled.rejected.jsonl beside the ledger",
            ledger.rejected,
        )
    if ledger.interrupted:
        log.warning("settled %d requests that the last run left unfinished", ledger.interrupted)
