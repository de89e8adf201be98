"""Tells a model's reasoning from its answer: what stands between <think> and </think>, and kin.

Only reasoning that an answer begins with counts. Tags anywhere else are text, because an answer may be about them.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

from tenantd.text.blanks import Blanks
from tenantd.text.calls import Part, Reader, partial


class Tags(NamedTuple):
    """What stands before and after reasoning."""

    opening: str
    closing: str

    def left_open(self, text: str) -> bool:
        """Whether what follows `text` is reasoning."""
        return text.rfind(self.opening) > text.rfind(self.closing)


TAGS: Final = (
    Tags("<think>", "</think>"),
    Tags("[THINK]", "[/THINK]"),
    Tags("<seed:think>", "</seed:think>"),
    Tags("<|START_THINKING|>", "<|END_THINKING|>"),
)


def tags_of(template: str) -> Tags | None:
    """Those that a chat template mentions; None if there are none."""
    return next((tags for tags in TAGS if tags.closing in template), None)


class _At(Enum):
    BEGIN = 1
    REASONING = 2
    GAP = 3  # blanks after it
    ANSWER = 4


class ReasoningReader:
    """Splits off the reasoning that an answer begins with; `answer` reads the rest. Blanks around it are dropped."""

    def __init__(self, tags: Tags, answer: Reader, *, is_open: bool) -> None:
        """`is_open`: the prompt ends with the opening tag."""
        self._tags = tags
        self._answer = answer
        self._at = _At.REASONING if is_open else _At.BEGIN
        self._held = ""
        self._before: list[str] = []  # blanks that the answer begins with
        self._space = Blanks()  # in the reasoning, before what follows
        self._has_reasoning = False

    @property
    def is_done(self) -> bool:
        return self._answer.is_done

    @property
    def is_plain(self) -> bool:
        return self._at is _At.ANSWER and self._answer.is_plain

    def push(self, text: str) -> list[Part]:
        if self._at is _At.ANSWER:
            return self._answer.push(text)
        parts: list[Part] = []
        self._held += text
        if self._at is _At.BEGIN:
            self._begin()
        if self._at is _At.REASONING:
            self._reason(parts)
        if self._at is _At.GAP:
            self._held = self._held.lstrip()
            if self._held:
                self._at = _At.ANSWER
        if self._at is _At.ANSWER:
            text, self._held = self._held, ""
            parts += self._answer.push(text)
        return parts

    def finish(self) -> list[Part]:
        parts: list[Part] = []
        if self._at is _At.BEGIN:
            parts += self._answer.push("".join(self._before) + self._held)
        elif self._at is _At.REASONING and self._held.rstrip():
            self._add(parts, self._held)
        self._held = ""
        return parts + self._answer.finish()

    def _begin(self) -> None:
        rest = self._held.lstrip()
        self._before.append(self._held[: len(self._held) - len(rest)])
        self._held = rest
        if rest.startswith(self._tags.opening):
            self._held, self._at = rest[len(self._tags.opening) :], _At.REASONING
        elif not self._tags.opening.startswith(rest):
            self._held, self._at = "".join(self._before) + rest, _At.ANSWER

    def _reason(self, parts: list[Part]) -> None:
        before, found, rest = self._held.partition(self._tags.closing)
        if found:
            self._add(parts, before)
            self._held, self._at = rest, _At.GAP
        else:
            safe = len(before) - partial(before, self._tags.closing)
            self._add(parts, before[:safe])
            self._held = before[safe:]

    def _add(self, parts: list[Part], text: str) -> None:
        """More reasoning, without blanks around it."""
        if shown := self._space.add(text if self._has_reasoning else text.lstrip()):
            self._has_reasoning = True
            parts.append(Part("reasoning", shown))
