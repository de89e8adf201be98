"""From generated tokens to text that may be sent, piece by piece."""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Sequence

from tenantd.text.stops import StopStrings
from tenantd.text.vocabulary import Vocabulary


class TextStream:
    """The text of one choice. What is pushed out never has to be taken back.

    Held back: the first bytes of a character, and an end of the text that may yet become a stop string. Bytes that
    are not UTF-8 become U+FFFD. The stop string that is complete first wins (of several complete at once the one that
    starts first); the text ends before it. All this is the same however the text is cut into tokens.
    """

    __slots__ = ("_held", "_partial", "_piece", "_states", "_stops", "stopped")

    def __init__(self, vocabulary: Vocabulary, stops: StopStrings | Sequence[str] = ()) -> None:
        self.stopped = False
        self._piece = vocabulary.piece
        self._stops = stops if isinstance(stops, StopStrings) else StopStrings(stops)
        self._states = [0] * len(self._stops.texts)
        self._partial = b""
        self._held = ""

    def push(self, token: int) -> str:
        """Text that is now safe to send, often "". After `stopped` always ""."""
        data = self._partial + self._piece(token) if self._partial else self._piece(token)
        text, used = utf_8_decode(data, "replace", False)
        self._partial = data[used:]
        return self._release(text) if self._states else text

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
        stop = self._stops.search(self._states, text)
        held = self._held
        text = held + text
        if stop is not None:
            self.stopped = True
            self._held = ""
            return text[: len(held) + stop]
        safe = len(text) - max(self._states, default=0)
        self._held = text[safe:]
        return text[:safe]
