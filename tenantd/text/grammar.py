"""Compiles clients' grammars and JSON schemas for the engine, off the event loop.

One process compiles for all tenants, with a deadline for each grammar. The tenant that used the least of its time
recently goes first, so tenants with slow grammars wait behind those with fast ones. These wait for the grammar that is
being compiled when they arrive, and at most for one of a tenant that has used no time yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import deque
from typing import Any, Final, NamedTuple

import msgspec

from tenantd import costs
from tenantd.errors import Draining, EngineUnavailable, InvalidRequest, QueueFull, TenantdError
from tenantd.text.compiler import HEADER_BYTES, MAX_GRAMMAR_BYTES, Compiled, Kind, Source

log = logging.getLogger(__name__)

COMPILER_COMMAND: Final = (sys.executable, "-m", "tenantd.text.compiler")
MAX_SOURCE_BYTES: Final = 64 * 1024
MAX_SCHEMA_DEPTH: Final = 64
MAX_SCHEMA_VALUES: Final = 20_000
MAX_WAITING: Final = 64
"""Maximum waiting grammars of one tenant."""
DEADLINE_S: Final = 1.5
HALF_LIFE_S: Final = 30.0
FORGOTTEN_S: Final = 0.001
START_TIMEOUT_S: Final = 20.0
NOT_TAKEN: Final = frozenset({"x-guidance", "%llguidance"})
"""Compiler options that a schema could set, for example to ignore what cannot be enforced."""


class GrammarSource(NamedTuple):
    """The grammar or schema of a request, and the field that contained it."""

    kind: Kind
    text: str
    param: str


def gbnf_source(grammar: str) -> GrammarSource:
    """The source for a GBNF grammar. Raises InvalidRequest (`grammar`)."""
    if len(grammar) > MAX_SOURCE_BYTES or len(grammar.encode("utf-8", "replace")) > MAX_SOURCE_BYTES:
        raise InvalidRequest(f"grammar: at most {MAX_SOURCE_BYTES} bytes are allowed", param="grammar")
    if not _is_unicode(grammar):
        raise InvalidRequest("grammar: not valid Unicode", param="grammar")
    return GrammarSource("gbnf", grammar, "grammar")


def schema_source(schema: dict[str, Any] | None) -> GrammarSource:
    """The source for a JSON schema; None means any JSON object. Raises InvalidRequest (`response_format`)."""
    if schema is None:
        schema = {"type": "object"}
    _check_size(schema)
    try:
        text = msgspec.json.encode(schema).decode()
    except (OverflowError, TypeError, ValueError) as e:
        raise _refused(f"cannot be represented as JSON: {e}") from None
    return GrammarSource("json_schema", text, "response_format")


class GrammarCompiler:
    """Runs the compiling process, which is started when first needed."""

    def __init__(self, deadline_s: float = DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._turns = _Turns()
        self._process: Process | None = None
        self._number = 0
        self._work: asyncio.Task[Compiled] | None = None
        self._is_closed = False

    async def compile(self, source: GrammarSource, tenant: str) -> str:
        """The grammar in llguidance's notation. Raises InvalidRequest saying what is wrong with it, QueueFull,
        EngineUnavailable, Draining.
        """
        await self._turns.take(tenant)
        # If the client disconnects meanwhile, its grammar is compiled anyway.
        self._work = asyncio.create_task(self._compile(source))
        self._work.add_done_callback(self._on_compiled)
        compiled = await asyncio.shield(self._work)
        if compiled.error:
            what = "the grammar" if source.kind == "gbnf" else "the JSON schema"
            raise InvalidRequest(f"{source.param}: {what} cannot be used: {compiled.error}", param=source.param)
        return compiled.grammar

    def _on_compiled(self, work: asyncio.Task[Compiled]) -> None:
        self._turns.give_back()
        if not work.cancelled():
            work.exception()  # there may be nobody left to get it

    async def close(self) -> None:
        """Stop the process. Grammars still being compiled fail. Safe to call twice."""
        self._is_closed = True
        await self._end()
        if self._work is not None:
            await asyncio.wait({self._work})
            await self._end()  # another may just have been started

    async def _compile(self, source: GrammarSource) -> Compiled:
        try:
            if self._process is None:
                await self._start()
            async with asyncio.timeout(self._deadline_s):
                return await self._ask(source.kind, source.text)
        except TimeoutError:
            await self._replace()
            return Compiled(error=f"it took longer than {self._deadline_s:g} s to compile")
        except (EOFError, OSError):
            log.info("the grammar compiler exited with status %s and is restarted", await self._replace())
            return Compiled(error="it is too complex")

    async def _replace(self) -> int | None:
        """Restart the process, in the turn and on the account of the tenant that caused it. Returns the old status."""
        status = await self._end()
        with contextlib.suppress(TenantdError, EOFError, OSError, TimeoutError):  # the next grammar tries again
            await self._start()
        return status

    async def _start(self) -> None:
        """Start the process, outside of the first client's deadline. Raises EngineUnavailable, Draining."""
        if self._is_closed:
            raise Draining("the daemon is shutting down and accepts no new requests")
        try:
            self._process = await asyncio.create_subprocess_exec(
                *COMPILER_COMMAND, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, start_new_session=True
            )
        except OSError as e:  # for example out of descriptors or memory: not the grammar's fault
            log.warning("cannot start the grammar compiler: %s", e)
            raise EngineUnavailable("cannot compile grammars at the moment; try again", retry_after_s=1) from e
        async with asyncio.timeout(START_TIMEOUT_S):
            await self._ask("gbnf", 'root ::= ""')

    async def _ask(self, kind: Kind, text: str) -> Compiled:
        """Raises EOFError or OSError if the process died, or returned something else."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        self._number += 1
        body = msgspec.msgpack.encode(Source(kind, text, self._number))
        process.stdin.write(len(body).to_bytes(HEADER_BYTES, "big") + body)
        await process.stdin.drain()
        size = int.from_bytes(await process.stdout.readexactly(HEADER_BYTES), "big")
        if size > MAX_GRAMMAR_BYTES + 1024:
            raise EOFError
        compiled = msgspec.msgpack.decode(await process.stdout.readexactly(size), type=Compiled)
        if compiled.number != self._number:  # the answer to another question, which nobody may get
            raise EOFError
        return compiled

    async def _end(self) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        status = await process.wait()
        process._transport.close()  # type: ignore[attr-defined]  # otherwise its pipes stay open until it is garbage-collected
        return status


class _Turns:
    """One holder at a time. The tenant that used the least time recently goes first; its own requests in order of
    arrival."""

    def __init__(self) -> None:
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
            raise QueueFull(
                f"tenant {tenant} has {len(line)} grammars waiting to be compiled; try again", retry_after_s=1
            )
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


def _check_size(schema: Any) -> None:
    """Checks depth, number and length of all values, without visiting more than allowed."""
    waiting: list[tuple[Any, int]] = [(schema, 1)]
    values = size_bytes = 0
    while waiting:
        value, depth = waiting.pop()
        values += 1
        size_bytes += 4 + (len(value) if isinstance(value, str) else 0)
        if depth > MAX_SCHEMA_DEPTH:
            raise _refused(f"is nested deeper than {MAX_SCHEMA_DEPTH} levels")
        if isinstance(value, dict):
            if found := NOT_TAKEN.intersection(value):
                raise _refused(f"uses {min(found)}, which is not supported")
            size_bytes += sum(map(len, value))
        if isinstance(value, (dict, list)):
            values += len(value)
            if values <= MAX_SCHEMA_VALUES:
                waiting += [(inner, depth + 1) for inner in (value.values() if isinstance(value, dict) else value)]
        if values > MAX_SCHEMA_VALUES or size_bytes > MAX_SOURCE_BYTES:
            raise _refused(f"is too large: at most {MAX_SCHEMA_VALUES} values and {MAX_SOURCE_BYTES} bytes are allowed")
        if isinstance(value, str) and not _is_unicode(value):
            raise _refused("is not valid Unicode")


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _refused(reason: str) -> InvalidRequest:
    return InvalidRequest(f"response_format: the JSON schema {reason}", param="response_format")
