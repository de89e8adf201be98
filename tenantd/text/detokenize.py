"""Converts generated tokens to text that can be sent, piece by piece."""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Sequence

from tenantd.text.stops import StopStrings
from tenantd.text.vocabulary import Vocabulary


class TextStream:
    """The text of one choice. Text that was returned is never retracted.

    Holds back incomplete characters, and the end of the text if it may become a stop string. Bytes that
    are not UTF-8 become U+FFFD. The stop string that is complete first wins (among several, the one that
    starts first); the text ends before it. The result does not depend on how the text is split into tokens.
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
        """Add a token. Returns the text that is now safe to send, often ""; after `stopped` always ""."""
        data = self._partial + self._piece(token) if self._partial else self._piece(token)
        text, used = utf_8_decode(data, "replace", False)
        self._partial = data[used:]
        return self._release(text) if self._states else text

    def finish(self) -> str:
        """The text that was held back, once no more tokens follow. An incomplete character becomes U+FFFD."""
        text, _ = utf_8_decode(self._partial, "replace", True)
        self._partial = b""
        text = self._release(text) + self._held
        self._held = ""
        return text

    def _release(self, text: str) -> str:
        """Add `text` to what is held back. Returns the part in which no stop string can begin any more."""
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
