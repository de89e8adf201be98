"""Keeps blanks at the end of a text until it is known what follows them.

A model can write nothing but blanks for thousands of tokens; each costs only what it adds.
"""

from __future__ import annotations


class Blanks:
    """Text that arrives in pieces, with the blanks at its end held back."""

    def __init__(self) -> None:
        self._pieces: list[str] = []

    def add(self, text: str) -> str:
        """Add text. Returns what is no longer held: it ends with something else, or is empty."""
        shown = text.rstrip()
        if shown:
            held, self._pieces = self._pieces, []
            result = "".join((*held, shown))
        else:
            result = ""
        if len(shown) < len(text):
            self._pieces.append(text[len(shown) :])
        return result

    def take(self) -> str:
        """The blanks that are held; they no longer are."""
        held, self._pieces = self._pieces, []
        return "".join(held)
