"""From generated tokens to text that may be sent, piece by piece."""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Sequence

from tenantd.text.vocabulary import Vocabulary


class TextStream:
    """The text of one choice. What is pushed out never has to be taken back.

    Held back: the first bytes of a character, and an end of the text that may yet become a stop string. Bytes that
    are not UTF-8 become U+FFFD. The stop string that is complete first wins (of several complete at once the one that
    starts first); the text ends before it. All this is the same however the text is cut into tokens.
    """

    __slots__ = ("_held", "_partial", "_piece", "_stops", "stopped")

    def __init__(self, vocabulary: Vocabulary, stops: Sequence[str] = ()) -> None:
        assert all(stops), "an empty stop string would stop everything"
        self.stopped = False
        self._piece = vocabulary.piece
        self._stops = tuple(stops)
        self._partial = b""
        self._held = ""

    def push(self, token: int) -> str:
        """Text that is now safe to send, often "". After `stopped` always ""."""
        data = self._partial + self._piece(token) if self._partial else self._piece(token)
        text, used = utf_8_decode(data, "replace", False)
        self._partial = data[used:]
        return self._release(text) if self._stops else text

    def finish(self) -> str:
        """What was held back, when no more tokens come. Half a character is U+FFFD."""
        text, _ = utf_8_decode(self._partial, "replace", True)
        self._partial = b""
        text = self._release(text) + self._held
        self._held = ""
        return text

    def _release(self, text: str) -> str:
        """Add `text` to what is held; give what no stop string can begin in any more."""
        if self.stopped:
            return ""
        text = self._held + text
        found = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)[1]]
        safe = min((_partial_stop(text, stop) for stop in self._stops), default=len(text))
        self._held = text[safe:]
        return text[:safe]


def _partial_stop(text: str, stop: str) -> int:
    """Where the longest end of `text` begins that `stop` begins with; the length of `text` if there is none."""
    start = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while start >= 0:
        if stop.startswith(text[start:]):
            return start
        start = text.find(stop[0], start + 1)
    return len(text)
