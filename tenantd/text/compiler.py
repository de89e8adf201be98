"""The process that compiles clients' grammars: `python -m tenantd.text.compiler`, started by the daemon.

Compiling a grammar may exhaust memory, stack or time, in native code that cannot be
interrupted. So it happens in a separate process with limits, which the daemon kills if it takes too long.
A grammar that compiles here is built again in the engine, with a much larger stack.

Standard input and output carry frames of a 4-byte big-endian length and a msgpack body, alternating `Source` and
`Compiled`.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import threading
import time
from typing import Any, BinaryIO, Final, Literal

import msgspec
from llguidance import LLMatcher, LLTokenizer

from tenantd.llamacpp.constraint import Constraint, ConstraintError, Matchers, readable
from tenantd.process_limits import die_first, hide_memory
from tenantd.text.closed_objects import closed
from tenantd.text.gbnf import OPTIONS, GbnfError, gbnf_to_lark

HEADER_BYTES: Final = 4
MAX_GRAMMAR_BYTES: Final = 512 * 1024
"""Maximum size of a compiled grammar, which is sent to the engine with the request."""
MAX_BUILD_MICROS: Final = 60_000
"""Maximum CPU time; everybody waits as long when the engine builds the grammar again."""
MEMORY_BYTES: Final = 1 << 30
STACK_BYTES: Final = 512 * 1024
PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
WHITESPACE: Final = r"( |\n[ \t]{0,20})?"
"""Whitespace between JSON tokens; without a limit, a small model pads its answer up to its maximum of tokens."""

Kind = Literal["gbnf", "json_schema", "calls", "calls_or_format"]


class Source(msgspec.Struct, frozen=True):
    """A client's GBNF, or as JSON a JSON schema, or a list of alternatives: each a text, a schema, and another text.
    These are calls of tools, or calls and the format of other answers. `number` is returned with the result."""

    kind: Kind
    text: str
    number: int = 0


class Compiled(msgspec.Struct, frozen=True):
    """The grammar in llguidance's notation, or the error."""

    grammar: str = ""
    error: str = ""
    number: int = 0


def compile_grammar(source: Source) -> Compiled:
    """Compile within llguidance's limits and a few of our own. Never raises."""
    try:
        grammar = _translate(source)
        if len(grammar) > MAX_GRAMMAR_BYTES:
            raise ConstraintError("it is too large")
        started_ns = time.thread_time_ns()
        constraint = Constraint(Matchers(LLTokenizer("byte")), grammar, budget_micros=1 << 40)
        constraint.allowed()  # some limits only take effect here
        if (time.thread_time_ns() - started_ns) // 1000 > MAX_BUILD_MICROS:
            raise ConstraintError("it is too complex")
    except (GbnfError, ConstraintError, ValueError, MemoryError, RecursionError) as e:
        return Compiled(error=readable(str(e) or "it is too large"))
    return Compiled(grammar)


def _translate(source: Source) -> str:
    if source.kind == "gbnf":
        return LLMatcher.grammar_from_lark(gbnf_to_lark(source.text))
    if source.kind == "json_schema":
        rules = [f"start: {_schema(json.loads(source.text))}"]
    else:
        calls = json.loads(source.text)
        rules = ["start: " + " | ".join(f"call{number}" for number in range(len(calls)))]
        for number, (before, schema, after) in enumerate(calls):
            texts = [json.dumps(before), _schema(schema), json.dumps(after)]
            rules.append(f"call{number}: " + " ".join(text for text in texts if text != '""'))
    return LLMatcher.grammar_from_lark("\n".join([OPTIONS, *rules]))


def _schema(schema: dict[str, Any]) -> str:
    return "%json " + json.dumps({**closed(schema), "x-guidance": {"whitespace_pattern": WHITESPACE}})


def main() -> None:
    """Serve until standard input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    die_first()
    hide_memory()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.stack_size(STACK_BYTES)
    serving = threading.Thread(target=_serve, args=(sys.stdin.buffer, sys.stdout.buffer))
    serving.start()
    serving.join()


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    decode = msgspec.msgpack.Decoder(Source).decode
    encode = msgspec.msgpack.Encoder().encode
    while len(header := requests.read(HEADER_BYTES)) == HEADER_BYTES:
        source = decode(requests.read(int.from_bytes(header, "big")))
        answer = encode(msgspec.structs.replace(compile_grammar(source), number=source.number))
        answers.write(len(answer).to_bytes(HEADER_BYTES, "big") + answer)
        answers.flush()


if __name__ == "__main__":
    main()
    os._exit(0)
