"""Compiles clients' grammars and JSON schemas for the engine, off the event loop.

One process compiles for all tenants, with a deadline for each grammar. The tenant that used the least of its time
recently goes first, so tenants with slow grammars wait behind those with fast ones. These wait for the grammar that is
being compiled when they arrive, and at most for one of a tenant that has used no time yet.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from tenantd.errors import InvalidRequest
from tenantd.text.compiler import MAX_GRAMMAR_BYTES, Compiled, Kind, Source
from tenantd.text.excerpt import is_unicode
from tenantd.text.worker_process import MAX_WAITING as MAX_WAITING
from tenantd.text.worker_process import WorkerProcess

log = logging.getLogger(__name__)

COMPILER_COMMAND: Final = (sys.executable, "-m", "tenantd.text.compiler")
MAX_SOURCE_BYTES: Final = 64 * 1024
MAX_SCHEMA_DEPTH: Final = 64
MAX_SCHEMA_VALUES: Final = 20_000
DEADLINE_S: Final = 1.5
"""CPU time, so that nobody's grammar is refused because the machine is busy."""
NOT_TAKEN: Final = frozenset({"x-guidance", "%llguidance"})
"""Compiler options that a schema could set, for example to ignore what cannot be enforced."""


_KINDS: Final[dict[Kind, str]] = {
    "gbnf": "the grammar",
    "json_schema": "the JSON schema",
    "calls": "the JSON schema of a tool",
    "calls_or_format": "a JSON schema, of this or of one of the tools,",
}


class GrammarSource(NamedTuple):
    """The grammar or schema of a request, and the field that contained it."""

    kind: Kind
    text: str
    param: str


def gbnf_source(grammar: str) -> GrammarSource:
    """The source for a GBNF grammar. Raises InvalidRequest (`grammar`)."""
    if len(grammar) > MAX_SOURCE_BYTES or len(grammar.encode("utf-8", "replace")) > MAX_SOURCE_BYTES:
        raise InvalidRequest(f"grammar: at most {MAX_SOURCE_BYTES} bytes are allowed", param="grammar")
    if not is_unicode(grammar):
        raise InvalidRequest("grammar: not valid Unicode", param="grammar")
    return GrammarSource("gbnf", grammar, "grammar")


def schema_source(schema: dict[str, Any] | None) -> GrammarSource:
    """The source for a JSON schema; None means any JSON object. Raises InvalidRequest (`response_format`)."""
    if schema is None:
        schema = {"type": "object"}
    return GrammarSource("json_schema", _as_json(schema, [schema], "response_format"), "response_format")


def calls_source(calls: Sequence[tuple[str, dict[str, Any], str]]) -> GrammarSource:
    """The source for one of several texts: the schema of an object, and what stands before and after that.

    Raises InvalidRequest (`tools`).
    """
    return GrammarSource("calls", _as_json(calls, [schema for _, schema, _ in calls], "tools"), "tools")


def format_or_calls_source(
    schema: Mapping[str, Any] | None, calls: Sequence[tuple[str, dict[str, Any], str]]
) -> GrammarSource:
    """The source for an answer that matches a JSON schema (None: is a JSON object), or is a call as in `calls_source`.

    Raises InvalidRequest (`response_format`).
    """
    either = [("", {"type": "object"} if schema is None else dict(schema), ""), *calls]
    schemas = [each for _, each, _ in either]
    return GrammarSource("calls_or_format", _as_json(either, schemas, "response_format"), "response_format")


def _as_json(value: Any, schemas: Sequence[dict[str, Any]], param: str) -> str:
    """`value`, which contains the schemas. Raises InvalidRequest."""
    _check_size(list(schemas), param)
    try:
        return msgspec.json.encode(value).decode()
    except (OverflowError, TypeError, ValueError) as e:
        raise _refused(f"cannot be represented as JSON: {e}", param) from None


class GrammarCompiler:
    """Runs the compiling process, which is started when first needed."""

    def __init__(self, deadline_s: float = DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._worker = WorkerProcess(
            COMPILER_COMMAND,
            "the grammar compiler",
            "grammars waiting to be compiled",
            lambda: self._ask("gbnf", 'root ::= ""'),
            most_bytes=MAX_GRAMMAR_BYTES + 1024,
        )
        self._number = 0

    async def compile(self, source: GrammarSource, tenant: str) -> str:
        """The grammar in llguidance's notation. Raises InvalidRequest saying what is wrong with it, QueueFull,
        EngineUnavailable, Draining.
        """
        # If the client disconnects meanwhile, its grammar is compiled anyway.
        compiled = await self._worker.in_turn(tenant, lambda: self._compile(source))
        if compiled.error:
            what = _KINDS[source.kind]
            raise InvalidRequest(f"{source.param}: {what} cannot be used: {compiled.error}", param=source.param)
        return compiled.grammar

    async def close(self) -> None:
        """Stop the process. Grammars still being compiled fail. Safe to call twice."""
        await self._worker.close()

    async def _compile(self, source: GrammarSource) -> Compiled:
        try:
            await self._worker.be_there()
            return await self._worker.in_time(self._deadline_s, self._ask(source.kind, source.text))
        except TimeoutError:
            await self._worker.replace()
            return Compiled(error=f"it took longer than {self._deadline_s:g} s to compile")
        except (EOFError, OSError):
            log.info("the grammar compiler exited with status %s and is restarted", await self._worker.replace())
            return Compiled(error="it is too complex")

    async def _ask(self, kind: Kind, text: str) -> Compiled:
        """Raises EOFError or OSError if the process died, or returned something else."""
        self._number += 1
        answer = await self._worker.ask(msgspec.msgpack.encode(Source(kind, text, self._number)))
        compiled = msgspec.msgpack.decode(answer, type=Compiled)
        if compiled.number != self._number:  # the answer to another question, which nobody may get
            raise EOFError
        return compiled


def _check_size(schemas: list[Any], param: str) -> None:
    """Checks depth, number and length of all values, without visiting more than allowed."""
    waiting: list[tuple[Any, int]] = [(schema, 1) for schema in schemas]
    values = size_bytes = 0
    while waiting:
        value, depth = waiting.pop()
        values += 1
        size_bytes += 4 + (len(value) if isinstance(value, str) else 0)
        if depth > MAX_SCHEMA_DEPTH:
            raise _refused(f"is nested deeper than {MAX_SCHEMA_DEPTH} levels", param)
        if isinstance(value, dict):
            if found := NOT_TAKEN.intersection(value):
                raise _refused(f"uses {min(found)}, which is not supported", param)
            size_bytes += sum(map(len, value))
        if isinstance(value, (dict, list)):
            values += len(value)
            if values <= MAX_SCHEMA_VALUES:
                waiting += [(inner, depth + 1) for inner in (value.values() if isinstance(value, dict) else value)]
        if values > MAX_SCHEMA_VALUES or size_bytes > MAX_SOURCE_BYTES:
            raise _refused(
                f"is too large: at most {MAX_SCHEMA_VALUES} values and {MAX_SOURCE_BYTES} bytes are allowed", param
            )
        if isinstance(value, str) and not is_unicode(value):
            raise _refused("is not valid Unicode", param)


def _refused(reason: str, param: str) -> InvalidRequest:
    return InvalidRequest(f"{param}: the JSON schema {reason}", param=param)
