"""Finding stop strings in a text that comes in pieces, in time that does not grow with their length."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final

from tenantd.errors import InvalidRequest

MOST_STOP_BYTES: Final = 4096
"""Of all stop strings of a request together, in UTF-8."""


def check_stops(stops: Sequence[str]) -> None:
    """Raises InvalidRequest (`stop`) for more text than is searched for."""
    if (size := sum(len(stop.encode()) for stop in stops)) > MOST_STOP_BYTES:
        raise InvalidRequest(
            f"stop: all strings together may have at most {MOST_STOP_BYTES} bytes (got {size}); send shorter ones",
            param="stop",
        )


class StopStrings:
    """Some stop strings, made ready to be searched for. Read only: all answers to a request share them.

    Each has the table of Knuth, Morris and Pratt (1977): how much of it is still there when the next character is not
    the one it needs. Every character of the text is so looked at once, and what a piece ends with is remembered as a
    number for each string.
    """

    __slots__ = ("_patterns", "texts")

    def __init__(self, texts: Sequence[str] = ()) -> None:
        assert all(texts), "an empty stop string would stop everything"
        self.texts = tuple(texts)
        self._patterns = [(text, _fallbacks(text)) for text in self.texts]

    def search(self, states: list[int], piece: str) -> int | None:
        """Go on with `piece`. Where the text ends, counted from the beginning of `piece`; None without a stop.

        The string that is complete first counts, and of several complete at once the one that starts first.
        `states` has how many characters of each string the text so far ends with: zeros at first.
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
    """For each number of characters that fit, how many fit still when the next does not."""
    table = array("H", bytes(2 * len(text)))
    state = 0
    for position in range(1, len(text)):
        table[position] = state
        while state and text[state] != text[position]:
            state = table[state]
        if text[state] == text[position]:
            state += 1
    return table
