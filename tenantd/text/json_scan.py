"""Follows a JSON object that arrives in pieces: where it ends, where it stops being JSON, and where its parts are."""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

MOST_DEPTH: Final = 64
MOST_WORD_CHARACTERS: Final = 128
"""Maximum length of a number."""
_PLAIN: Final = re.compile(r'[^"\\\x00-\x1f]*')
_WORD: Final = re.compile(r"true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_IN_WORDS: Final = frozenset("abcdefghijklmnopqrstuvwxyzE0123456789+-.")
_BLANK: Final = frozenset(" \t\r\n")
_ESCAPED: Final = frozenset('"\\/bfnrt')
_HEX: Final = frozenset("0123456789abcdefABCDEF")


class _At(Enum):
    VALUE = 1  # a value must follow
    FIRST = 2  # a value or ]
    FIRST_KEY = 3  # a key or }
    KEY = 4  # a key
    COLON = 5
    COMMA = 6  # a comma, or the end of what is open
    STRING = 7
    ESCAPE = 8
    HEX = 9
    WORD = 10
    DONE = 11
    FAILED = 12


_OVER: Final = (_At.DONE, _At.FAILED)


class JsonScanner:
    """One object, read strictly (RFC 8259). Each character is looked at once, however the text is split.

    `offset` counts the characters that were read. `values` tells for each key of the object itself, as it is spelled,
    where its value begins and ends; the end is -1 while it is open.
    """

    def __init__(self) -> None:
        self.offset = 0
        self.values: dict[str, tuple[int, int]] = {}
        self._at = _At.VALUE
        self._open: list[str] = []  # brackets
        self._is_key = False  # of the string that is being read
        self._key: list[str] = []  # pieces of the last key of the object itself
        self._word = ""
        self._hex_left = 0

    @property
    def is_done(self) -> bool:
        return self._at is _At.DONE

    @property
    def has_failed(self) -> bool:
        return self._at is _At.FAILED

    def feed(self, text: str, at: int = 0) -> int:
        """Read `text` from `at` on. Returns where it stopped: at the end, after the object, or where it failed."""
        shift, end = self.offset - at, len(text)
        while at < end and self._at not in _OVER:
            if self._at is _At.STRING:
                stop = _plain_end(text, at)
                if self._is_key and len(self._open) == 1:
                    self._key.append(text[at:stop])
                if stop < end:
                    self._end_plain(text[stop], stop + shift)
                at = min(stop + 1, end)
            elif self._at is _At.WORD and text[at] not in _IN_WORDS:
                self._end_word(at + shift)
            else:
                self._step(text[at], at + shift)
                at += 1
        self.offset = at + shift
        return at

    def _end_plain(self, character: str, offset: int) -> None:
        if character == '"':
            self._at = _At.COLON if self._is_key else _At.COMMA
            if not self._is_key:
                self._end_value(offset + 1)
        elif character == "\\":
            self._at = _At.ESCAPE
            if self._is_key and len(self._open) == 1:
                self._key.append("\\")  # so it is none that anybody asks for
        else:
            self._at = _At.FAILED

    def _step(self, character: str, offset: int) -> None:
        at = self._at
        if at is _At.ESCAPE:
            self._at = _At.STRING if character in _ESCAPED else _At.HEX if character == "u" else _At.FAILED
            self._hex_left = 4
        elif at is _At.HEX:
            self._hex_left -= 1
            if character not in _HEX:
                self._at = _At.FAILED
            elif not self._hex_left:
                self._at = _At.STRING
        elif at is _At.WORD:
            self._word += character
            if len(self._word) > MOST_WORD_CHARACTERS:
                self._at = _At.FAILED
        elif character in _BLANK:
            pass
        elif at in (_At.FIRST_KEY, _At.KEY):
            self._begin_key(character, offset)
        elif at is _At.COLON:
            self._at = _At.VALUE if character == ":" else _At.FAILED
        elif at is _At.COMMA and character == ",":
            self._at = _At.KEY if self._open[-1] == "{" else _At.VALUE
        elif at is _At.COMMA or (at is _At.FIRST and character == "]"):
            self._close(character, offset)
        else:
            self._begin_value(character, offset)

    def _begin_key(self, character: str, offset: int) -> None:
        if character == '"':
            self._at, self._is_key = _At.STRING, True
            if len(self._open) == 1:
                self._key = []
        elif self._at is _At.FIRST_KEY:
            self._close(character, offset)
        else:
            self._at = _At.FAILED

    def _begin_value(self, character: str, offset: int) -> None:
        if not self._open and character != "{":
            self._at = _At.FAILED
            return
        if len(self._open) == 1:
            self.values["".join(self._key)] = (offset, -1)
        if character in "{[":
            self._open.append(character)
            self._at = _At.FIRST_KEY if character == "{" else _At.FIRST
            if len(self._open) > MOST_DEPTH:
                self._at = _At.FAILED
        elif character == '"':
            self._at, self._is_key = _At.STRING, False
        elif character in _IN_WORDS:
            self._at, self._word = _At.WORD, character
        else:
            self._at = _At.FAILED

    def _end_word(self, offset: int) -> None:
        self._at = _At.COMMA if _WORD.fullmatch(self._word) else _At.FAILED
        self._end_value(offset)

    def _close(self, character: str, offset: int) -> None:
        if character != ("}" if self._open[-1] == "{" else "]"):
            self._at = _At.FAILED
            return
        self._open.pop()
        self._at = _At.COMMA if self._open else _At.DONE
        self._end_value(offset + 1)

    def _end_value(self, offset: int) -> None:
        """What ends here is the value of the last key, if nothing but the object itself is open."""
        if len(self._open) == 1:
            key = "".join(self._key)
            self.values[key] = (self.values[key][0], offset)


def _plain_end(text: str, at: int) -> int:
    found = _PLAIN.match(text, at)
    assert found is not None, "it matches nothing, too"
    return found.end()
