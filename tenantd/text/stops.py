"""Finds stop strings in a text that arrives in pieces, in time that does not depend on their length."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final

from tenantd.errors import InvalidRequest

MOST_STOP_BYTES: Final = 4096
"""Maximum size of all stop strings of a request together, in UTF-8."""


def check_stops(stops: Sequence[str]) -> None:
    """Raises InvalidRequest (`stop`) if the stop strings are too long."""
    if (size := sum(len(stop.encode()) for stop in stops)) > MOST_STOP_BYTES:
        raise InvalidRequest(
            f"stop: all strings together may have at most {MOST_STOP_BYTES} bytes (got {size}); send shorter ones",
            param="stop",
        )


class StopStrings:
    """Stop strings, prepared for the search. Read-only, because all answers to a request share them.

    Each has the table of Knuth, Morris and Pratt (1977): how much of it still matches if the next character is not
    the expected one. So every character of the text is visited once, and the state between pieces is one
    number per string.
    """

    __slots__ = ("_patterns", "texts")

    def __init__(self, texts: Sequence[str] = ()) -> None:
        assert all(texts), "an empty stop string would stop everything"
        self.texts = tuple(texts)
        self._patterns = [(text, _fallbacks(text)) for text in self.texts]

    def search(self, states: list[int], piece: str) -> int | None:
        """Continue with `piece`. Returns where the text ends, relative to the start of `piece`; None without a stop.

        The string that is complete first wins; among several, the one that starts first.
        `states` holds, for each string, how many of its characters the text so far ends with; initially zeros.
        """
        found: tuple[int, int] | None = None
        for number, (text, fallbacks) in enumerate(self._patterns):
            state = states[number]
            if not state and text[0] not in piece:
                continue
            for end, character in enumerate(piece, 1):
                while state and text[state] != character:
                    state = fallbacks[state]
                if text[state] == character:
                    state += 1
                    if state == len(text):
                        here = (end, end - state)
                        found = here if found is None else min(found, here)
                        break
            states[number] = state
        return None if found is None else found[1]


def _fallbacks(text: str) -> array[int]:
    """For each number of matching characters, how many still match if the next does not."""
    table = array("H", bytes(2 * len(text)))
    state = 0
    for position in range(1, len(text)):
        table[position] = state
        while state and text[state] != text[position]:
            state = table[state]
        if text[state] == text[position]:
            state += 1
    return table
