"""How the answers to one request are read: as reasoning, content and calls of tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tenantd.text.calls import CallForm, CallReader, Part, Reader
from tenantd.text.detokenize import TextStream
from tenantd.text.harmony import HarmonyReader
from tenantd.text.reasoning import ReasoningReader, Tags
from tenantd.text.stops import StopStrings
from tenantd.text.vocabulary import Vocabulary


class Reading(NamedTuple):
    """`form` is how calls are written, None if there are none to read; `tags` stand around reasoning.

    `begun` is the end of the prompt that belongs to the answer, such as the opening of a call that must be made; the
    rest is then `is_certain` to be a call. `pieces` are the control tokens that the reader must see, with their texts.
    """

    form: CallForm | None = None
    tags: Tags | None = None
    is_harmony: bool = False
    is_thinking: bool = False  # the prompt ends within reasoning
    names: frozenset[str] = frozenset()
    most_calls: int | None = None
    begun: str = ""
    is_certain: bool = False
    pieces: Mapping[int, bytes] = {}

    def reader(self) -> Reader:
        """For one answer."""
        reader: Reader
        if self.is_harmony:
            reader = HarmonyReader(self.names, most_calls=self.most_calls, is_certain=self.is_certain)
        else:
            reader = _Content()
            if self.form is not None:
                most = self.most_calls
                reader = CallReader(self.form, self.names, most_calls=most, is_certain=self.is_certain)
            if self.tags is not None:
                reader = ReasoningReader(self.tags, reader, is_open=self.is_thinking)
        if self.begun:
            reader.push(self.begun)
        return reader

    def text_stream(self, vocabulary: Vocabulary, stops: StopStrings | Sequence[str]) -> TextStream:
        """The text that a reader reads. It stops after the last call that is wanted."""
        return _ReadStream(self, vocabulary, stops)


class _Content:
    """An answer in which there is nothing to find."""

    is_done = False
    is_plain = True

    def push(self, text: str) -> list[Part]:
        return [Part("content", text)] if text else []

    def finish(self) -> list[Part]:
        return []


class _ReadStream(TextStream):
    __slots__ = ("_own", "_pieces", "_reader")

    def __init__(self, reading: Reading, vocabulary: Vocabulary, stops: StopStrings | Sequence[str]) -> None:
        super().__init__(vocabulary, stops)
        self._own = vocabulary.piece
        self._pieces = reading.pieces
        if self._pieces:
            self._piece = self._shown
        self._reader = reading.reader() if reading.most_calls is not None else None

    def push(self, token: int) -> str:
        text = super().push(token)
        if self._reader is not None and text:
            self._reader.push(text)
            if self._reader.is_done:
                self.stopped = True
        return text

    def finish(self) -> str:
        return "" if self._reader is not None and self._reader.is_done else super().finish()

    def _shown(self, token: int) -> bytes:
        return self._pieces.get(token) or self._own(token)
