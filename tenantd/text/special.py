"""Finds the spellings of special tokens in text.

llama.cpp looks for special tokens in raw text before it tokenises the rest: for CONTROL and UNKNOWN tokens only
with parse_special, for USER_DEFINED tokens always (llama-vocab.cpp, tokenizer_st_partition).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Any, Final, NamedTuple

WINDOW_CHARACTERS: Final = 65_536
"""Characters to search at a time, in at most a few milliseconds."""


class TokenKind(StrEnum):
    """Kinds of tokens in a GGUF. A token that is both CONTROL and USER_DEFINED counts as CONTROL."""

    CONTROL = "control"
    UNKNOWN = "unknown"
    USER_DEFINED = "user defined"


class SpecialToken(NamedTuple):
    """`text` is its spelling in a chat template. `strips_*`: it absorbs whitespace on that side."""

    id: int
    text: str
    kind: TokenKind
    strips_left: bool = False
    strips_right: bool = False


class Spellings:
    """Finds many fixed strings in a text in one pass: leftmost first, the longest of those that start there."""

    def __init__(self, texts: Iterable[str]) -> None:
        texts = tuple(texts)
        trie: dict[str, Any] = {}
        for text in texts:
            node = trie
            for character in text:
                node = node.setdefault(character, {})
            if text:
                node[""] = {}
        self._longest = max(map(len, texts), default=0)
        # A trie keeps the cost per character constant; plain alternatives cost one comparison per spelling.
        self._pattern = re.compile(_pattern(trie)) if trie else None

    def split(self, text: str) -> Iterator[tuple[str, str]]:
        """The text as pairs of (text between spellings, the next spelling), with empty strings where there is none."""
        start = 0
        for match in self._matches(text):
            yield text[start : match.start()], match.group()
            start = match.end()
        if start < len(text):
            yield text[start:], ""

    def chunks(self, text: str, least_characters: int) -> Iterator[str]:
        """The text in pieces of at least this many characters (except the last), each starting with a spelling."""
        start = 0
        if len(text) > least_characters:
            for match in self._matches(text):
                if match.start() - start >= least_characters:
                    yield text[start : match.start()]
                    start = match.start()
        yield text[start:]

    def _matches(self, text: str) -> Iterator[re.Match[str]]:
        """Search in windows, because a search blocks all other threads."""
        start = 0
        while self._pattern and start < len(text):
            end = start + WINDOW_CHARACTERS
            for match in self._pattern.finditer(text, start, end + self._longest - 1):
                if match.start() >= end:
                    break
                yield match
                start = match.end()
            start = max(start, end)


def _pattern(node: dict[str, Any]) -> str:
    """A trie as a regular expression. The empty key marks the end of a spelling."""
    prefix = ""
    while len(node) == 1 and "" not in node:
        [(character, node)] = node.items()
        prefix += re.escape(character)
    longer = [re.escape(character) + _pattern(child) for character, child in node.items() if character]
    if not longer:
        return prefix
    return f"{prefix}(?:{'|'.join(longer)}){'?' if '' in node else ''}"
