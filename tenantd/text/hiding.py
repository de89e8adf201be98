"""Hides clients' texts from a chat template behind numbers that nobody can guess."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any, Final

_ESCAPED: Final = re.compile(r'(["\\\x00-\x1f\x7f]+)')
"""What JSON writes in another way."""


class Sentinels:
    """Hides texts behind numbers. Digits survive what templates do to contents: trimming, changing case, JSON."""

    def __init__(self) -> None:
        self._mark = f"{secrets.randbits(128):039d}"
        self._texts: list[str] = []
        self._known: dict[str, str] = {}

    def hide(self, text: str) -> str:
        if (sentinel := self._known.get(text)) is None:
            sentinel = self._known[text] = self.hide_apart(text)
        return sentinel

    def hide_apart(self, text: str) -> str:
        """Hide a text behind a sentinel that no other text has, even if it is the same."""
        self._texts.append(text)
        return f"{self._mark}{len(self._texts) - 1:09d}"

    def hide_all(self, text: str) -> str:
        """Hide a text without the whitespace around it, which the template may trim."""
        inner = text.strip()
        start = text.find(inner)
        return text[:start] + self.hide(inner) + text[start + len(inner) :] if inner else text

    def hide_in_json(self, text: str) -> str:
        """Hide a text but for the characters that JSON escapes, so that it may stand in JSON or by itself."""
        pieces = _ESCAPED.split(text)  # texts and, between them, what stays
        return "".join(piece if number % 2 or not piece else self.hide(piece) for number, piece in enumerate(pieces))

    def split(self, rendered: str) -> Iterator[tuple[str, str]]:
        """Pairs of template text and the hidden text after it; the last pair hides nothing."""
        template_text, *rest = re.split(rf"{self._mark}(\d{{9}})", rendered)
        for number, after in zip(rest[::2], rest[1::2], strict=True):
            yield template_text, self._texts[int(number)]
            template_text = after
        yield template_text, ""


def hidden(value: Any, hide: Callable[[str], str], shown: Set[str] = frozenset()) -> Any:
    """A JSON value with its texts hidden, but for those that are `shown`."""
    if isinstance(value, str):
        return value if value in shown else hide(value)
    if isinstance(value, Mapping):
        return {key if key in shown else hide(key): hidden(inner, hide, shown) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [hidden(inner, hide, shown) for inner in value]
    return value
