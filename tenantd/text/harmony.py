"""Reads answers of gpt-oss: messages with a header, each in a channel (github.com/openai/harmony).

`analysis` is reasoning. A message to `functions.NAME` is a call. Everything else is content.
"""

from __future__ import annotations

import re
from collections.abc import Set
from typing import Final

from tenantd.text.blanks import Blanks
from tenantd.text.calls import MOST_HEAD_CHARACTERS, Gathering, Part, PartKind, partial

CHANNEL, MESSAGE = "<|channel|>", "<|message|>"
MARKS: Final = (CHANNEL, MESSAGE, "<|start|>", "<|end|>", "<|call|>", "<|return|>", "<|constrain|>")
"""Control tokens that structure an answer. In the text of a message each ends it."""
FUNCTIONS: Final = "functions."
FINAL: Final = f"{CHANNEL}final{MESSAGE}"
_BETWEEN: Final = "\n\n"
_TO: Final = re.compile(r"\bto=([^\s<{]+)")
_CHANNEL: Final = re.compile(re.escape(CHANNEL) + r"\s*(\w+)")
_HEADS: Final = (*MARKS, "assistant", "to=")
"""What a header may begin with."""


class HarmonyReader:
    """Reads one answer, from after `<|start|>assistant` on."""

    def __init__(self, names: Set[str], *, most_calls: int | None = None, is_certain: bool = False) -> None:
        """`is_certain`: the text is a call, by a grammar, perhaps with no marks after the tool's name."""
        self._names = names
        self._left = most_calls
        self._is_certain = is_certain
        self._held = ""
        self._is_head = True
        self._kind: PartKind = "content"  # of the message that is being read
        self._call: Gathering | None = None
        self._space = Blanks()  # after the object of a call
        self._is_first = True  # of the message's text
        self._has_content = False

    @property
    def is_done(self) -> bool:
        return self._left == 0

    @property
    def is_plain(self) -> bool:
        return False

    def push(self, text: str) -> list[Part]:
        parts: list[Part] = []
        self._held += text
        while self._held and not self.is_done and (self._head() if self._is_head else self._body(parts)):
            pass
        if self.is_done:
            self._held = ""
        return parts

    def finish(self) -> list[Part]:
        parts: list[Part] = []
        if self.is_done:
            return parts
        if not self._is_head:
            self._take(self._held, parts)
            self._end(parts)
        elif not self._held.lstrip().startswith(MARKS):
            self._begin("")
            self._say(self._held.strip(), parts)
        self._held = ""
        return parts

    def _head(self) -> bool:
        """A header. Text that cannot be one is a message without."""
        head, found, rest = self._held.partition(MESSAGE)
        if not found and self._is_certain and "{" in head:
            head, _, rest = head.partition("{")
            found, rest = "{", "{" + rest
        begun = head.lstrip()
        is_head = begun.startswith(_HEADS) or (not found and any(mark.startswith(begun) for mark in _HEADS))
        if len(head) > MOST_HEAD_CHARACTERS or not (is_head or (found and not begun)):
            rest = self._held.lstrip()
            head, rest = "", next((rest[len(mark) :] for mark in MARKS if rest.startswith(mark)), rest)
        elif not found:
            return False
        self._begin(head)
        self._held, self._is_head = rest, False
        return True

    def _begin(self, head: str) -> None:
        to, channel = _TO.search(head), _CHANNEL.search(head)
        self._is_first, self._call, self._kind = True, None, "content"
        self._space.take()
        if to is not None:
            name = to[1].removeprefix(FUNCTIONS)
            if to[1].startswith(FUNCTIONS) and name in self._names:
                self._call = Gathering(self._names, name, is_certain=self._is_certain)
        elif channel is not None and channel[1] == "analysis":
            self._kind = "reasoning"

    def _body(self, parts: list[Part]) -> bool:
        places = [(place, mark) for mark in MARKS if (place := self._held.find(mark)) >= 0]
        if places:
            place, mark = min(places)
            self._take(self._held[:place], parts)
            self._end(parts)
            belongs_to_next = mark in (CHANNEL, MESSAGE)
            self._held, self._is_head = self._held[place if belongs_to_next else place + len(mark) :], True
            return True
        safe = len(self._held) - max(partial(self._held, mark) for mark in MARKS)
        text, self._held = self._held[:safe], self._held[safe:]
        self._take(text, parts)
        return False

    def _take(self, text: str, parts: list[Part]) -> None:
        """More text of the message."""
        call = self._call
        if call is None:
            self._say(text, parts)
            return
        rest = text[call.feed(text, parts) :]
        after = self._space.add(rest) if call.is_done else ""
        if call.has_failed or after:
            self._call = None
            if not call.is_told:
                self._say(call.text + (after + self._space.take() if call.is_done else rest), parts)

    def _end(self, parts: list[Part]) -> None:
        """The message is complete."""
        call, self._call = self._call, None
        if call is None:
            return
        found = call.whole()
        if found is None:
            self._say(call.text + self._space.take(), parts)
            return
        parts += found
        if self._left is not None:
            self._left -= 1

    def _say(self, text: str, parts: list[Part]) -> None:
        if not text:
            return
        if self._kind == "content":
            if self._is_first and self._has_content:
                text = _BETWEEN + text
            self._has_content = True
        self._is_first = False
        parts.append(Part(self._kind, text))
