"""Finds the calls of tools in what a model says, in the form of its family, while it arrives.

A call counts only if it names a tool of the request and its arguments are a JSON object. Everything else stays text.
What was found is never taken back: a call is told when it is complete, or, if a grammar guarantees that it will be,
as it arrives. The result does not depend on how the text is split.
"""

from __future__ import annotations

import json
import re
from collections.abc import Set
from typing import Final, Literal, NamedTuple, Protocol

from tenantd.text.blanks import Blanks
from tenantd.text.excerpt import is_unicode
from tenantd.text.json_scan import JsonScanner

PartKind = Literal["content", "reasoning", "call", "arguments"]
ARGUMENT_KEYS: Final = ("arguments", "parameters")
MOST_HEAD_CHARACTERS: Final = 256
"""Maximum length of what stands between an opening and the arguments of a call."""
_FENCE_BEGIN: Final = "```json"
_FENCE: Final = re.compile(r"```(?:json)?\s*", re.IGNORECASE)


class Part(NamedTuple):
    """A piece of an answer. A call's text is the tool's name; the arguments of the last call follow it."""

    kind: PartKind
    text: str


class Reader(Protocol):
    """Reads the text of one answer."""

    @property
    def is_done(self) -> bool:
        """Whether it has all the calls it may have; it ignores what follows."""

    @property
    def is_plain(self) -> bool:
        """Whether all that follows is content, as it is; nothing is held."""

    def push(self, text: str) -> list[Part]:
        """Add text. Returns the parts that are now certain."""

    def finish(self) -> list[Part]:
        """The rest, once no more text follows."""


class CallForm(NamedTuple):
    """How a family writes calls.

    `opening` precedes one call, or several. Without one, an answer that begins with a call consists of calls.
    `named`: the tool's name stands before its arguments, with `infixes` around it; otherwise both are in an object.
    `has_lists`: calls may be elements of a list. `fences`: they may be in a block of code.
    `is_hidden`: the opening and the infixes are control tokens, which are never shown.
    """

    opening: str = ""
    closing: str = ""
    named: bool = False
    infixes: tuple[str, ...] = ()
    has_lists: bool = False
    fences: bool = False
    is_hidden: bool = False

    @property
    def shown_opening(self) -> str:
        """The opening, if it is text."""
        return "" if self.is_hidden else self.opening


class Gathering:
    """A call while it arrives: its object, or its arguments if `name` is known."""

    def __init__(self, names: Set[str], name: str = "", *, is_certain: bool) -> None:
        self._names = names
        self._name = name
        self._is_certain = is_certain
        self._scanner = JsonScanner()
        self._pieces: list[str] = []
        self._told = -1  # characters of the object that were looked at for arguments; -1 before the name was told

    @property
    def is_done(self) -> bool:
        return self._scanner.is_done

    @property
    def has_failed(self) -> bool:
        return self._scanner.has_failed

    @property
    def is_told(self) -> bool:
        """Whether a part of it was returned."""
        return self._told >= 0

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def feed(self, text: str, parts: list[Part]) -> int:
        """Add text, and what is certain to `parts`. Returns how much of the text belongs to it."""
        end = self._scanner.feed(text)
        self._pieces.append(text[:end])
        if self._is_certain and not self.has_failed:
            self._tell(text[:end], parts)
        return end

    def whole(self) -> list[Part] | None:
        """The call, once it is done; None if it is none."""
        if self.is_told:
            return []
        if not self.is_done:
            return None
        text = self.text
        if self._name:
            return self._call(self._name, text)
        name = self._value(text, "name")
        if not name.startswith('"'):
            return None
        return self._call(json.loads(name), next(filter(None, (self._value(text, key) for key in ARGUMENT_KEYS)), "{}"))

    def _call(self, name: str, arguments: str) -> list[Part] | None:
        if arguments.startswith('"'):  # some models put them in a string
            arguments = json.loads(arguments).strip()
            scanner = JsonScanner()
            if scanner.feed(arguments) != len(arguments) or not scanner.is_done or not is_unicode(arguments):
                return None
        if name not in self._names or not arguments.startswith("{"):
            return None
        return [Part("call", name), Part("arguments", arguments)]

    def _value(self, text: str, key: str) -> str:
        start, end = self._scanner.values.get(key, (0, 0))
        return text[start:end]

    def _tell(self, piece: str, parts: list[Part]) -> None:
        """What is new of the arguments, after the name."""
        offset = self._scanner.offset
        start, end = (0, offset) if self._name else self._arguments()
        if start < 0:
            return
        if not self.is_told:
            name = self._name or json.loads(self._value(self.text, "name"))
            parts.append(Part("call", name))
            self._told = start
        base = offset - len(piece)
        stop = offset if end < 0 else end
        if new := piece[max(0, self._told - base) : max(0, stop - base)]:
            parts.append(Part("arguments", new))
        self._told = max(self._told, stop)

    def _arguments(self) -> tuple[int, int]:
        """Where they begin and end; the begin is -1 until they and the name are there."""
        values = self._scanner.values
        if values.get("name", (0, -1))[1] < 0:
            return -1, -1
        return next((values[key] for key in ARGUMENT_KEYS if key in values), (-1, -1))


class CallReader:
    """Reads answers in one form."""

    def __init__(self, form: CallForm, names: Set[str], *, most_calls: int | None = None, is_certain: bool = False):
        """`is_certain`: the text consists of calls, by a grammar."""
        self._form = form
        self._names = names
        self._left = most_calls
        self._is_certain = is_certain
        self._held = ""  # not read yet
        self._raw: list[str] = []  # read, of a call whose object has not begun
        self._space = Blanks()  # at the end of the text; dropped before a call
        self._list = False
        self._call: Gathering | None = None
        self._state = self._seek if form.opening else self._begin
        self._head = re.compile(
            r"\s*([a-zA-Z0-9_.-]{1,64})(?:" + "|".join((*map(re.escape, form.infixes), r"\s", "[a-zA-Z0-9]")) + ")*"
        )

    @property
    def is_done(self) -> bool:
        return self._left == 0

    @property
    def is_plain(self) -> bool:
        return False

    def push(self, text: str) -> list[Part]:
        parts: list[Part] = []
        self._held += text
        while self._held and not self.is_done and self._state(parts):
            pass
        if self.is_done:
            self._held = ""
        return parts

    def finish(self) -> list[Part]:
        parts: list[Part] = []
        if self.is_done:
            return parts
        if self._state in (self._seek, self._say, self._begin):
            self._add(parts, self._held)
        elif self._state == self._between:
            rest = self._held.strip()
            if not any(mark.startswith(rest) for mark in (self._form.closing, "```")):
                self._add(parts, rest)
        elif self._call is None or not self._call.is_told:
            self._add(parts, self._shown() + self._held)
        if space := self._space.take():
            parts.append(Part("content", space))
        self._held, self._raw = "", []
        return parts

    # ---- states; each returns whether another may go on at once -------------------------------------------------

    def _seek(self, parts: list[Part]) -> bool:
        """Text, up to an opening."""
        before, found, rest = self._held.partition(self._form.opening)
        if found:
            self._add(parts, before)
            self._held, self._raw, self._state = rest, [self._form.shown_opening], self._open
            return True
        safe = len(self._held) - partial(self._held, self._form.opening)
        self._add(parts, self._held[:safe])
        self._held = self._held[safe:]
        return False

    def _begin(self, parts: list[Part]) -> bool:
        """The beginning of an answer in a form without an opening: calls or text."""
        rest = self._held.lstrip()
        self._add(parts, self._held[: len(self._held) - len(rest)])
        self._held = rest
        if not rest or (self._form.fences and _FENCE_BEGIN.startswith(rest.lower())):
            return False
        if self._form.fences and (fence := _FENCE.match(rest)):
            self._raw, self._held, self._state = [fence[0]], rest[fence.end() :], self._open
        elif rest[0] == "{" or (rest[0] == "[" and self._form.has_lists):
            self._state = self._open
        else:
            self._state = self._say
        return True

    def _say(self, parts: list[Part]) -> bool:
        """Text to the end."""
        self._add(parts, self._held)
        self._held = ""
        return False

    def _open(self, parts: list[Part]) -> bool:
        """After an opening, before the object."""
        if self._form.named:
            return self._open_named(parts)
        rest = self._held.lstrip()
        self._raw.append(self._held[: len(self._held) - len(rest)])
        self._held = rest
        if not rest:
            return False
        if rest[0] == "[" and self._form.has_lists and not self._list:
            self._raw.append("[")
            self._held, self._list = rest[1:], True
        elif rest[0] == "{":
            self._call, self._state = Gathering(self._names, is_certain=self._is_certain), self._gather
        else:
            self._fail(parts)
        return True

    def _open_named(self, parts: list[Part]) -> bool:
        head, brace, _ = self._held.partition("{")
        is_short = len(head) <= MOST_HEAD_CHARACTERS
        if brace and is_short and (found := self._head.fullmatch(head)) and found[1] in self._names:
            self._raw.append(head)
            self._held = self._held[len(head) :]
            self._call, self._state = Gathering(self._names, found[1], is_certain=self._is_certain), self._gather
        elif brace or not is_short:
            self._raw.append(head)
            self._held = self._held[len(head) :]
            self._fail(parts)
        else:
            return False
        return True

    def _gather(self, parts: list[Part]) -> bool:
        """In the object."""
        call = self._call
        assert call is not None
        self._held = self._held[call.feed(self._held, parts) :]
        if not (call.is_done or call.has_failed):
            return False
        found = call.whole()
        if found is None:
            self._fail(parts)
            return True
        parts += found
        self._call, self._raw, self._state = None, [], self._between
        self._space.take()
        if self._left is not None:
            self._left -= 1
        return True

    def _between(self, parts: list[Part]) -> bool:
        """After a call: the end of its form, another one, or text."""
        form = self._form
        rest = self._held = self._held.lstrip()
        if not rest:
            return False
        marks = [mark for mark in (form.closing, form.opening, "```" if form.fences else "") if mark]
        if any(len(rest) < len(mark) and mark.startswith(rest) for mark in marks):
            return False
        if form.closing and rest.startswith(form.closing):
            self._held = rest[len(form.closing) :]
        elif form.opening and rest.startswith(form.opening):
            self._held, self._raw, self._state = rest[len(form.opening) :], [form.shown_opening], self._open
        elif form.fences and rest.startswith("```"):
            self._held = rest[3:]
        elif self._list and rest[0] in ",]":
            self._held, self._list = rest[1:], rest[0] == ","
        elif not form.opening and rest[0] in ",;":
            self._held = rest[1:]
        elif rest[0] == "{" and (self._list or not form.opening):
            self._state = self._open
        else:
            self._state = self._seek if form.opening else self._say
        return True

    def _fail(self, parts: list[Part]) -> None:
        """It was no call: what was read of it is text."""
        if self._call is None or not self._call.is_told:
            self._add(parts, self._shown())
        self._call, self._raw, self._list = None, [], False
        self._state = self._seek if self._form.opening else self._say

    def _shown(self) -> str:
        """What was read of a call, if that turns out to be text."""
        text = "".join(self._raw)
        if self._form.is_hidden:
            for infix in self._form.infixes:
                text = text.replace(infix, "")
        return text + ("" if self._call is None else self._call.text)

    def _add(self, parts: list[Part], text: str) -> None:
        """Text. Blanks at its end wait for what follows."""
        if shown := self._space.add(text):
            parts.append(Part("content", shown))


def partial(text: str, mark: str) -> int:
    """How many characters at the end of `text` may become `mark`."""
    for length in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0
