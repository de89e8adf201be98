"""One streamed answer: collect its text, time it, print it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, TextIO

from tenantctl.render import harmless, message

if TYPE_CHECKING:
    from tenantctl.word_wrap import WordWrap

OUT_OF_BUDGET: Final = "the answer was cut off because a budget is used up: tenantctl limits"


class Transcript:
    """Collects the events of one request. Times count from construction, in microseconds."""

    def __init__(self) -> None:
        self.id = ""
        self.model = ""
        self.finish_reason: str | None = None
        self.is_out_of_budget = False
        self.usage: dict[str, Any] | None = None
        self.first_token_micros: int | None = None
        self.duration_micros = 0
        self._parts: list[str] = []
        self._thoughts: list[str] = []
        self._began_ns = time.monotonic_ns()

    @property
    def text(self) -> str:
        return "".join(self._parts)

    def read(self, events: Iterable[Any], on_thought: Callable[[str], None] = lambda _: None) -> Iterator[str]:
        """Yields each piece of text as it arrives. `on_thought` is called with each piece of reasoning."""
        for event in events:
            self.model = event.get("model", self.model)
            self.usage = event.get("usage") or self.usage
            self.is_out_of_budget |= (event.get("x_tenantd") or {}).get("reason") == "budget"
            for choice in event["choices"]:
                self.finish_reason = choice["finish_reason"] or self.finish_reason
                delta = choice.get("delta", {})
                if thought := delta.get("reasoning_content"):
                    self._arrived(thought, self._thoughts)
                    on_thought(thought)
                if piece := choice["text"] if "text" in choice else delta.get("content"):
                    self._arrived(piece, self._parts)
                    yield piece
        self.duration_micros = self._micros()

    def _arrived(self, piece: str, pieces: list[str]) -> None:
        if self.first_token_micros is None:
            self.first_token_micros = self._micros()
        pieces.append(piece)

    def _micros(self) -> int:
        return (time.monotonic_ns() - self._began_ns) // 1000

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "model": self.model,
            "text": self.text,
            **({"reasoning": "".join(self._thoughts)} if self._thoughts else {}),
            "finish_reason": self.finish_reason,
            "usage": self.usage,
            "first_token_micros": self.first_token_micros,
            "duration_micros": self.duration_micros,
        }

    def timing(self) -> str:
        """Time to first token, number of tokens, speed after the first, and how much of the prompt was cached."""
        usage = self.usage or {}
        tokens, cached = usage.get("completion_tokens", 0), usage.get("prompt_tokens_details", {}).get("cached_tokens")
        if self.first_token_micros is None:
            return f"no text in {self.duration_micros / 1e6:.2f} s"
        after_s = (self.duration_micros - self.first_token_micros) / 1e6
        speed = f", {(tokens - 1) / after_s:.1f} tokens/s after it" if tokens > 1 and after_s > 0 else ""
        total = f"{tokens} tokens in {self.duration_micros / 1e6:.2f} s"
        from_cache = f"; {cached} of {usage['prompt_tokens']} prompt tokens were cached" if cached else ""
        return f"first token after {self.first_token_micros / 1000:.1f} ms, {total}{speed}{from_cache}"


class Printer:
    """Writes text piece by piece, to standard output unless told otherwise. On a terminal, without control characters,
    and in lines that end between words, unless it is `exact`."""

    def __init__(self, stream: TextIO | None = None, *, exact: bool = False) -> None:
        self._stream = stream or sys.stdout
        self._terminal = self._stream.isatty()
        self._wrap: WordWrap | None = None
        if self._terminal and not exact:
            from tenantctl.word_wrap import WordWrap

            self._wrap = WordWrap(self._columns)
        self._at_line_start = True

    def write(self, piece: str) -> None:
        text = harmless(piece) if self._terminal else piece
        self._at_line_start = piece.endswith("\n")  # first, because Ctrl-C may come while this is written
        self._stream.write(text if self._wrap is None else self._wrap.feed(text))
        self._stream.flush()

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):
            return 0

    def end_line(self) -> None:
        """Make sure that the next output starts on a new line."""
        if not self._at_line_start:
            self.write("\n")

    def interrupted(self) -> None:
        """After Ctrl-C, which the terminal echoes."""
        self.end_line()
        message("cancelled")
