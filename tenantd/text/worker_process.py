"""A process that works for all tenants on what may exhaust memory, stack or time, in native code that cannot be
interrupted: asked from the event loop, one question at a time, and replaced when it ends or takes too long.

The tenant that used the least of its time recently goes first, so tenants with slow questions wait behind those with
fast ones. These wait for the question that is being answered when they arrive, and at most for one of a tenant that has
used no time yet. Questions and answers are frames of a 4-byte big-endian length and a body.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

import psutil

from tenantd import costs
from tenantd.errors import Draining, EngineUnavailable, QueueFull, TenantdError

log = logging.getLogger(__name__)

HEADER_BYTES: Final = 4
MAX_WAITING: Final = 64
"""Maximum waiting questions of one tenant."""
HALF_LIFE_S: Final = 30.0
FORGOTTEN_S: Final = 0.001
START_TIMEOUT_S: Final = 20.0
READ_BYTES: Final = 1 << 20
MOST_WAITS: Final = 10
"""Deadlines of time that may go by while one of CPU time does."""

T = TypeVar("T")


class WorkerProcess:
    """The process, started when first needed, and whose turn it is."""

    def __init__(
        self, command: Sequence[str], name: str, waiting: str, greet: Callable[[], Awaitable[Any]], *, most_bytes: int
    ) -> None:
        """`name` is that of the process, and `waiting` what waits for it, for messages. `greet` asks a new process a
        first question, so that no client waits for its start. An answer has `most_bytes`."""
        self.process: Process | None = None
        self._command = command
        self._name = name
        self._greet = greet
        self._most_bytes = most_bytes
        self._turns = Turns(waiting)
        self._work: asyncio.Task[Any] | None = None
        self._is_closed = False

    async def in_turn(self, tenant: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do some work with the process in the turn of a tenant. It is finished even if the caller is cancelled.

        Raises QueueFull, and what `work` raises.
        """
        await self._turns.take(tenant)
        task: asyncio.Task[T] = asyncio.create_task(_done(work))
        self._work = task
        task.add_done_callback(self._on_done)
        return await asyncio.shield(task)

    def _on_done(self, work: asyncio.Task[Any]) -> None:
        self._turns.give_back()
        if not work.cancelled():
            work.exception()  # there may be nobody left to get it

    async def close(self) -> None:
        """Stop the process. What it is doing fails. Safe to call twice."""
        self._is_closed = True
        await self.end()
        if self._work is not None:
            await asyncio.wait({self._work})
            await self.end()  # another may just have been started

    async def be_there(self) -> None:
        """Start the process unless it runs, outside of the first client's deadline. One that ended while nobody asked
        it anything is nobody's fault. Raises EngineUnavailable, Draining."""
        if self.process is not None and self.process.returncode is not None:
            log.info("%s ended with status %s and is started again", self._name, await self.end())
        if self.process is None:
            await self._start()

    async def replace(self) -> int | None:
        """Restart the process, in the turn and on the account of the tenant that caused it. Returns the old status."""
        status = await self.end()
        with contextlib.suppress(TenantdError, EOFError, OSError, TimeoutError):  # the next question tries again
            await self._start()
        return status

    async def in_time(self, deadline_s: float, asked: Coroutine[Any, Any, T]) -> T:
        """The result of what asks the process. Raises TimeoutError when it has used up the deadline, which is CPU time;
        EOFError or OSError if it died."""
        process = self.process
        asking = asyncio.create_task(asked)
        try:
            before_s = _cpu_s(process)
            for _ in range(MOST_WAITS):
                await asyncio.wait({asking}, timeout=deadline_s)
                if asking.done():
                    return asking.result()
                if _cpu_s(process) - before_s >= deadline_s:
                    break
            raise TimeoutError
        finally:
            asking.cancel()

    async def ask(self, body: bytes) -> bytes:
        """The answer to a question. Raises EOFError or OSError if the process died, or returned something else."""
        if (process := self.process) is None:
            raise EOFError
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(len(body).to_bytes(HEADER_BYTES, "big") + body)
        except RuntimeError as e:  # how uvloop tells that the pipe is closed
            raise EOFError from e
        await process.stdin.drain()
        size = int.from_bytes(await process.stdout.readexactly(HEADER_BYTES), "big")
        if size > self._most_bytes:
            raise EOFError
        return await process.stdout.readexactly(size)

    async def _start(self) -> None:
        if self._is_closed:
            raise Draining("the daemon is shutting down and accepts no new requests")
        try:
            self.process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,
                start_new_session=True,
                limit=READ_BYTES,
            )
        except OSError as e:  # for example out of descriptors or memory: not the client's fault
            log.warning("cannot start %s: %s", self._name, e)
            raise EngineUnavailable(f"cannot start {self._name} at the moment; try again", retry_after_s=1) from e
        async with asyncio.timeout(START_TIMEOUT_S):
            await self._greet()

    async def end(self) -> int | None:
        """End the process if it runs. Returns its status."""
        process, self.process = self.process, None
        if process is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        status = await process.wait()
        process._transport.close()  # type: ignore[attr-defined]  # otherwise its pipes stay open until it is garbage-collected
        return status


def _cpu_s(process: Process | None) -> float:
    """The CPU time it has used. Raises OSError if it has ended."""
    if process is None:
        raise OSError("it has ended")
    try:
        times = psutil.Process(process.pid).cpu_times()
    except psutil.Error as e:
        raise OSError(str(e)) from e
    return float(times.user + times.system)


async def _done(work: Callable[[], Awaitable[T]]) -> T:
    return await work()


class Turns:
    """One holder at a time. The tenant that used the least time recently goes first; its own requests in order of
    arrival."""

    def __init__(self, what: str) -> None:
        """`what` waits for them, as in "grammars waiting to be compiled"."""
        self._what = what
        self._taken_s: float | None = None  # start of the current turn
        self._holder = ""
        self._lines: dict[str, deque[asyncio.Future[None]]] = {}  # none is empty; ordered by their first entries
        self._spent: dict[str, tuple[float, float]] = {}  # by tenant: seconds used, and when that was computed

    async def take(self, tenant: str) -> None:
        """Raises QueueFull."""
        if self._taken_s is None:
            self._begin(tenant)
            return
        line = self._lines.setdefault(tenant, deque())
        if len(line) >= MAX_WAITING:
            raise QueueFull(f"tenant {tenant} has {len(line)} {self._what}; try again", retry_after_s=1)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():  # it was granted at the same moment
                self.give_back()
            elif turn in line:
                line.remove(turn)
                if not line:
                    del self._lines[tenant]
            raise

    def give_back(self) -> None:
        """Give the turn to the first request of the tenant that used the least."""
        assert self._taken_s is not None, "only what was taken is given back"
        now_s = time.monotonic()
        self._spent[self._holder] = (self._spent_s(self._holder, now_s) + now_s - self._taken_s, now_s)
        self._spent = {name: each for name, each in self._spent.items() if self._spent_s(name, now_s) > FORGOTTEN_S}
        self._taken_s = None
        if self._lines:
            tenant = min(self._lines, key=lambda name: self._spent_s(name, now_s))
            line = self._lines.pop(tenant)
            turn = line.popleft()
            if line:
                self._lines[tenant] = line
            self._begin(tenant)
            turn.set_result(None)

    def _begin(self, tenant: str) -> None:
        self._taken_s = time.monotonic()
        self._holder = tenant

    def _spent_s(self, tenant: str, now_s: float) -> float:
        spent_s, at_s = self._spent.get(tenant, (0.0, now_s))
        return spent_s * costs.left_after(now_s - at_s, HALF_LIFE_S)
