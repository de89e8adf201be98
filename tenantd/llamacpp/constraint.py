"""Decides what a grammar allows next: llguidance's matcher, with its work measured and limited per request.

Grammars come from clients, and a few hundred bytes can describe more work than a machine can do in a day. So everything
is limited: each step by llguidance itself, and the total CPU time of a request's grammar here. Only the request that
exceeds a limit fails.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from numpy.typing import NDArray

from tenantd.printable import one_line

MAX_REASON_CHARACTERS: Final = 200
_WHERE: Final = re.compile(r"^at \d+\(\d+\): (?:failed to compile JSON schema: )?")
"""Maximum length of llguidance's message."""


def limits() -> LLParserLimits:
    """Limits of one step of a grammar. They keep a mask over 262,144 tokens within 50 ms of CPU time."""
    return LLParserLimits(
        max_items_in_row=400,
        step_max_items=3_000,
        step_lexer_fuel=30_000,
        initial_lexer_fuel=300_000,
        max_lexer_states=20_000,
        max_grammar_size=50_000,
        verbose_errors=False,  # they would quote the client's grammar
    )


class ConstraintError(Exception):
    """The grammar cannot be used, or not any longer. The message is safe to show: one short printable line."""


class Matchers:
    """Creates matchers for one vocabulary. The answers to one request follow one another and share the work."""

    def __init__(self, tokenizer: LLTokenizer) -> None:
        self.tokenizer = tokenizer
        self.end_tokens = frozenset(tokenizer.eos_tokens)
        self._last: tuple[str, LLMatcher] | None = None

    def make(self, grammar: str) -> LLMatcher:
        """A matcher at the start of `grammar`, in llguidance's notation. The matcher itself reports errors."""
        if self._last is None or self._last[0] != grammar:
            self._last = grammar, LLMatcher(self.tokenizer, grammar, log_level=0, limits=limits())
        return self._last[1].deep_copy()


class Constraint:
    """A grammar at one point of an answer. All times are CPU time of the calling thread."""

    def __init__(self, matchers: Matchers, grammar: str, budget_micros: int, generated: Iterable[int] = ()) -> None:
        """`generated` holds the tokens accepted so far. Raises ConstraintError."""
        self.used_micros = 0
        self._budget_micros = budget_micros
        self._end_tokens = matchers.end_tokens
        self._vocabulary_tokens = matchers.tokenizer.vocab_size
        self._mask: NDArray[np.uint8] = np.zeros(-(-self._vocabulary_tokens // 32) * 4, np.uint8)
        with _Timed(self):
            self._matcher = matchers.make(grammar)
            self._check()
            self._matcher.consume_tokens(list(generated))
            self._check()

    @property
    def is_complete(self) -> bool:
        """Whether the answer may end here."""
        return bool(self._matcher.is_accepting())

    def allows(self, token: int) -> bool:
        """Whether a token is allowed; much cheaper than a mask. Raises ConstraintError."""
        with _Timed(self):
            if token in self._end_tokens:
                return self.is_complete
            return bool(self._matcher.validate_tokens([token]) == 1)

    def allowed(self) -> NDArray[np.bool_]:
        """Mask over all tokens; all False if nothing can follow, not even the end. Raises ConstraintError."""
        with _Timed(self):
            if self._matcher.is_stopped() and not self._matcher.is_error():
                found = np.zeros(self._vocabulary_tokens, np.bool_)
                if self.is_complete:
                    found[list(self._end_tokens)] = True
                return found
            self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
            self._check()
            bits = np.unpackbits(self._mask, count=self._vocabulary_tokens, bitorder="little")
            return bits.view(np.bool_)

    def accept(self, token: int) -> None:
        """Advance by a chosen token that is allowed. Raises ConstraintError."""
        if token in self._end_tokens:
            return
        with _Timed(self):
            self._matcher.consume_token(token)
            self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ConstraintError(readable(self._matcher.get_error()))

    def _book(self, micros: int) -> None:
        self.used_micros += micros
        if self.used_micros > self._budget_micros:
            raise ConstraintError(f"it took more than {self._budget_micros // 1000} ms (engine.grammar_budget_ms)")


class _Timed:
    """Measures the CPU time of a block, and raises ConstraintError once the total is too large."""

    __slots__ = ("_constraint", "_started_ns")

    def __init__(self, constraint: Constraint) -> None:
        self._constraint = constraint

    def __enter__(self) -> None:
        self._started_ns = time.thread_time_ns()

    def __exit__(self, kind: Any, *_: object) -> None:
        micros = (time.thread_time_ns() - self._started_ns) // 1000
        if kind is None:
            self._constraint._book(micros)
        else:
            self._constraint.used_micros += micros


def readable(error: str) -> str:
    """One of llguidance's messages, safe to send, log and print: reworded if it mentions options that nobody
    here can set, otherwise the line that tells what is wrong."""
    for words, ours in _WORDS:
        if words in error:
            return ours
    lines = [line for line in error.splitlines() if line.strip()] or ["no reason given"]
    line = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0])
    line = _WHERE.sub("", line).replace("Unimplemented keys:", "not supported:")
    return one_line(line.strip(), MAX_REASON_CHARACTERS)


_WORDS: Final = (
    ("coerce_one_of", "the alternatives of a oneOf may overlap; use anyOf"),
    ("retrieving it failed", "a $ref points outside the schema; only #/ is supported"),
    ("initial_lexer_fuel", "it is too complex"),
    ("initial lexer configuration", "it is too complex"),
    ("Too many items", "it is too ambiguous"),
    ("Current row has", "it is too ambiguous"),
    ("too many states", "it is too complex"),
    ("too many expressions", "it is too complex"),
    ("NoExtension", "no text can match it"),
)
