"""Converts text to a model's token ids and back. Loads no weights and uses no GPU."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, Self

from tenantd.errors import InvalidRequest, ModelError
from tenantd.llamacpp.gguf import NotGguf, check_gguf
from tenantd.text.pairing import Pairing, by_marks, by_template
from tenantd.text.special import SpecialToken, Spellings, TokenKind

CHUNK_CHARACTERS: Final = 1024
"""Longer texts are passed to llama.cpp in parts, split where a USER_DEFINED token begins. It tokenises the text around
such a token separately anyway, but in time quadratic in their number (40 s for 100,000 in 200 kB)."""

IDS_AT_ONCE: Final = 65_536


class Vocabulary(Protocol):
    """Tokens 0 to n_tokens-1. Safe to use from several threads."""

    name: str
    n_tokens: int
    bos: int | None
    chat_template: str | None
    tool_template: str | None  # for conversations with tools, if that is another one
    bos_text: str  # as spelled in chat templates; "" if there is none
    eos_text: str
    special_tokens: tuple[SpecialToken, ...]
    longest_piece_bytes: int  # so a text of n bytes has at least n / longest_piece_bytes tokens
    around: tuple[tuple[int, ...], tuple[int, ...]]  # tokens that belong before and after a whole text, as to embed it
    fill_in: FillIn | None  # None if the model was not made to fill in text
    pairing: Pairing  # of a query and a document, for a model that ranks

    def tokenize(self, text: str, *, add_bos: bool = True, parse_special: bool = False) -> list[int]:
        """Tokenise text. `add_bos` adds a BOS if the model wants one; `parse_special` recognises control tokens.

        Raises InvalidRequest for text that cannot be encoded in UTF-8.
        """

    def piece(self, token: int) -> bytes:
        """The bytes of a token, possibly part of a character. Control tokens have none."""

    def is_end(self, token: int) -> bool:
        """Whether a token ends generation."""


class FillIn(NamedTuple):
    """The tokens before the text that comes first, before the text that comes last, and where what is between them is
    to follow."""

    prefix: int
    suffix: int
    middle: int


def utf8(text: str, param: str = "prompt") -> bytes:
    """The text as UTF-8. Raises InvalidRequest if it contains a lone surrogate."""
    try:
        return text.encode()
    except UnicodeEncodeError as e:
        raise InvalidRequest(
            f"{param}: not valid Unicode: lone surrogate U+{ord(text[e.start]):04X} at character {e.start}", param=param
        ) from None


class ByteVocabulary:
    """Tokens 0 to 255 are bytes, 256 begins a text, 257 ends generation. Needs no model."""

    BOS: Final = 256
    END: Final = 257

    name = "bytes"
    n_tokens = 258
    bos: int | None = BOS
    chat_template: str | None = None
    tool_template: str | None = None
    bos_text = ""
    eos_text = ""
    special_tokens: tuple[SpecialToken, ...] = ()
    longest_piece_bytes = 1
    around: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    fill_in: FillIn | None = None
    pairing = by_marks((), (END,), (END,))

    _pieces: Final = (*(bytes([value]) for value in range(256)), b"", b"")

    def tokenize(self, text: str, *, add_bos: bool = True, parse_special: bool = False) -> list[int]:
        """No text spells 256 or 257, so `parse_special` changes nothing."""
        return ([self.BOS] if add_bos else []) + list(utf8(text))

    def piece(self, token: int) -> bytes:
        return self._pieces[token]

    def is_end(self, token: int) -> bool:
        return token == self.END


class LlamaVocabulary:
    """The vocabulary of a GGUF, read by llama.cpp (`vocab_only`)."""

    def __init__(self, llama_cpp: Any, model: Any, path: Path) -> None:
        """Use `open`."""
        self._llama = llama_cpp
        self._model = model
        self._vocab = llama_cpp.llama_model_get_vocab(model)
        self.n_tokens = int(llama_cpp.llama_vocab_n_tokens(self._vocab))
        self.name = self._metadata("general.name") or path.name.removesuffix(".gguf")
        template = llama_cpp.llama_model_chat_template(model, None)
        self.chat_template: str | None = template.decode("utf-8", "replace") if template else None
        with_tools = llama_cpp.llama_model_chat_template(model, b"tool_use")
        self.tool_template: str | None = None
        if with_tools and with_tools != template:
            self.tool_template = with_tools.decode("utf-8", "replace")
        bos, eos = llama_cpp.llama_vocab_bos(self._vocab), llama_cpp.llama_vocab_eos(self._vocab)
        self.bos: int | None = bos if bos >= 0 else None
        self.bos_text = self._text(bos) if bos >= 0 else ""
        self.eos_text = self._text(eos) if eos >= 0 else ""
        self._wants_bos = bool(llama_cpp.llama_vocab_get_add_bos(self._vocab)) and bos >= 0
        names = (llama_cpp.llama_vocab_fim_pre, llama_cpp.llama_vocab_fim_suf, llama_cpp.llama_vocab_fim_mid)
        found = [int(name(self._vocab)) for name in names]
        self.fill_in = FillIn(*found) if min(found) >= 0 else None
        self.around = self._read_around()
        self.special_tokens = self._read_special_tokens()
        self._user_defined = Spellings(t.text for t in self.special_tokens if t.kind is TokenKind.USER_DEFINED)
        self._pieces = self._read_pieces()
        self.longest_piece_bytes = max(map(len, self._pieces), default=1) or 1
        self.pairing = self._read_pairing()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a GGUF. Raises ModelError, with the reason, if llama.cpp cannot read it."""
        try:
            check_gguf(path)  # llama.cpp's own messages for these mistakes do not help
        except NotGguf as e:
            raise ModelError(str(e)) from e
        import llama_cpp  # not at the top: the byte vocabulary must work without loading it

        from tenantd.llamacpp.log import only_errors

        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        params.n_gpu_layers = 0
        with only_errors() as errors:
            model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
            reason = "; ".join(errors[:2])
        if not model:
            raise ModelError(
                f"{path}: llama.cpp cannot read this GGUF; if it is not complete, download it again: "
                f"{reason or 'no reason given'}"
            )
        if llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model)) == 0:
            llama_cpp.llama_model_free(model)
            raise ModelError(f"{path}: this GGUF has no vocabulary, so it cannot generate text")
        return cls(llama_cpp, model, path)

    def close(self) -> None:
        """Free the vocabulary. Do not use it afterwards."""
        if self._model:
            self._llama.llama_model_free(self._model)
            self._model = self._vocab = None

    def tokenize(self, text: str, *, add_bos: bool = True, parse_special: bool = False) -> list[int]:
        utf8(text)
        found = [token for token in (self.bos,) if add_bos and self._wants_bos and token is not None]
        for chunk in self._user_defined.chunks(text, CHUNK_CHARACTERS):
            found += self._tokenize(chunk.encode(), parse_special)
        return found

    def _tokenize(self, data: bytes, parse_special: bool, *, is_whole: bool = False) -> list[int]:
        """If it `is_whole`, with the tokens that belong around a text."""
        assert self._vocab, "the vocabulary is closed"
        room = len(data) + 8
        while True:
            ids = (self._llama.llama_token * room)()
            # llama.cpp's add_special would also append an end token if the model asks for one.
            count = self._llama.llama_tokenize(self._vocab, data, len(data), ids, room, is_whole, parse_special)
            if count >= 0:
                break
            assert -count > room, f"llama_tokenize answered {count} with room for {room}"
            room = -count
        found: list[int] = []
        for start in range(0, count, IDS_AT_ONCE):  # making a list of millions blocks all other threads
            found += ids[start : min(count, start + IDS_AT_ONCE)]
        return found

    def piece(self, token: int) -> bytes:
        return self._pieces[token]

    def is_end(self, token: int) -> bool:
        assert self._vocab, "the vocabulary is closed"
        return bool(self._llama.llama_vocab_is_eog(self._vocab, token))

    def _text(self, token: int) -> str:
        # surrogateescape: a spelling that is not UTF-8 then never occurs in a valid text
        raw: bytes = self._llama.llama_vocab_get_text(self._vocab, token)
        return raw.decode("utf-8", "surrogateescape")

    def _read_around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Two if both sides have one, such as [CLS] and [SEP]."""
        both = self._tokenize(b"", False, is_whole=True)
        first = 1 if len(both) > 1 or both[:1] == [self.bos] else 0
        return tuple(both[:first]), tuple(both[first:])

    def _read_pairing(self) -> Pairing:
        """The model's template for it, or as llama-server does it: BOS query EOS SEP document EOS, but without those of
        these tokens that the vocabulary does not want around texts."""
        llama, vocab = self._llama, self._vocab
        if template := llama.llama_model_chat_template(self._model, b"rerank"):
            text = template.decode("utf-8", "replace")
            return by_template(text, lambda part: self._tokenize(part.encode(), True))
        separator = llama.llama_vocab_sep(vocab)
        end = llama.llama_vocab_eos(vocab)
        ends = [end if end >= 0 else separator] if llama.llama_vocab_get_add_eos(vocab) else []
        separators = [separator] if llama.llama_vocab_get_add_sep(vocab) else []
        begins = [self.bos] if self._wants_bos and self.bos is not None else []
        between, after = ([token for token in each if token >= 0] for each in ([*ends, *separators], ends))
        return by_marks(begins, between, after)

    def _metadata(self, key: str) -> str:
        buffer = ctypes.create_string_buffer(256)
        length = self._llama.llama_model_meta_val_str(self._model, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if length > 0 else ""

    def _read_special_tokens(self) -> tuple[SpecialToken, ...]:
        llama, vocab = self._llama, self._vocab
        kinds = {
            llama.LLAMA_TOKEN_ATTR_UNKNOWN: TokenKind.UNKNOWN,
            llama.LLAMA_TOKEN_ATTR_CONTROL: TokenKind.CONTROL,
            llama.LLAMA_TOKEN_ATTR_USER_DEFINED: TokenKind.USER_DEFINED,
        }
        special = sum(kinds)
        attributes = ((token, llama.llama_vocab_get_attr(vocab, token)) for token in range(self.n_tokens))
        return tuple(
            SpecialToken(
                id=token,
                text=self._text(token),
                kind=next(kind for bit, kind in kinds.items() if has & bit),  # CONTROL before USER_DEFINED
                strips_left=bool(has & llama.LLAMA_TOKEN_ATTR_LSTRIP),
                strips_right=bool(has & llama.LLAMA_TOKEN_ATTR_RSTRIP),
            )
            for token, has in attributes
            if has & special
        )

    def _read_pieces(self) -> list[bytes]:
        """The bytes of all tokens, read at once because streaming needs one per token: 0.3 s for 262,144 tokens."""
        to_piece, vocab, size = self._llama.llama_token_to_piece, self._vocab, 256
        buffer = ctypes.create_string_buffer(size)
        pieces: list[bytes] = []
        for token in range(self.n_tokens):
            length = to_piece(vocab, token, buffer, size, 0, False)
            if length < 0:  # minus the size needed
                size = -length
                buffer = ctypes.create_string_buffer(size)
                length = to_piece(vocab, token, buffer, size, 0, False)
            pieces.append(ctypes.string_at(buffer, length))
        return pieces
