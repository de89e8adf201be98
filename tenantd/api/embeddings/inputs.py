"""Turns what is to be embedded or ranked into token ids. Runs in the text pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tenantd.errors import InvalidRequest
from tenantd.serving.admission import text_too_long
from tenantd.text.excerpt import excerpt
from tenantd.text.vocabulary import Vocabulary, utf8

MOST_TOKENS: Final = 300_000
"""In one request, as at OpenAI."""


def read_inputs(given: Any, vocabulary: Vocabulary, *, most_inputs: int, most_tokens: int) -> list[list[int]]:
    """The tokens of each input, at least one. A text has those around it that the model wants.

    Raises InvalidRequest, and ContextLengthExceeded if an input has more than `most_tokens`.
    """
    if isinstance(given, str) or (isinstance(given, list) and given and type(given[0]) is int):
        given = [given]
    if not isinstance(given, list) or not given:
        raise _refused("must be a string, a list of token ids, or a list of either, and not empty")
    if len(given) > most_inputs:
        raise _refused(
            f"at most {most_inputs} inputs are allowed in one request (got {len(given)}); send several requests"
        )
    found: list[list[int]] = []
    count = 0
    for number, each in enumerate(given):
        tokens = _tokens(each, number, vocabulary, most_tokens)
        if len(tokens) > most_tokens:
            raise text_too_long("input", number, len(tokens), most_tokens)
        count += len(tokens)
        if count > MOST_TOKENS:
            raise _refused(f"at most {MOST_TOKENS} tokens are allowed in one request; send several requests")
        found.append(tokens)
    return found


def read_pairs(
    query: str, documents: Sequence[str], vocabulary: Vocabulary, *, most_inputs: int, most_tokens: int
) -> list[list[int]]:
    """The tokens of each document together with the query. Raises InvalidRequest, and ContextLengthExceeded."""
    if len(documents) > most_inputs:
        raise InvalidRequest(
            f"documents: at most {most_inputs} are allowed in one request (got {len(documents)}); "
            "send several requests",
            param="documents",
        )
    pairing = vocabulary.pairing
    least = _least(query, "query", vocabulary) + pairing.own_tokens
    asked: list[int] = []
    if least < most_tokens:
        asked = vocabulary.tokenize(query, add_bos=False)
        least = len(asked) + pairing.own_tokens
    if least >= most_tokens:
        raise InvalidRequest(
            f"query: leaves no room for a document: this model ranks at most {most_tokens} tokens at a time, of both "
            f"together, and the query takes {'at least ' if not asked else ''}{least}; send a shorter one",
            param="query",
        )
    found: list[list[int]] = []
    count = 0
    for number, document in enumerate(documents):
        at_least = _least(document, f"documents[{number}]", vocabulary) + least
        if at_least > most_tokens:
            raise text_too_long("documents", number, at_least, most_tokens, at_least=True)
        tokens = pairing.join(asked, vocabulary.tokenize(document, add_bos=False))
        if len(tokens) > most_tokens:
            raise text_too_long("documents", number, len(tokens), most_tokens)
        count += len(tokens)
        if count > MOST_TOKENS:
            raise InvalidRequest(
                f"documents: at most {MOST_TOKENS} tokens are allowed in one request, with the query once for each "
                "document; send several requests",
                param="documents",
            )
        found.append(tokens)
    return found


def _least(text: str, field: str, vocabulary: Vocabulary) -> int:
    """How many tokens a text has at least, without tokenising it: it may be very long."""
    return len(utf8(text, field)) // vocabulary.longest_piece_bytes


def _tokens(given: Any, number: int, vocabulary: Vocabulary, most_tokens: int) -> list[int]:
    if isinstance(given, str):
        return _of_text(given, number, vocabulary, most_tokens)
    if not isinstance(given, list):
        raise _refused(f"input[{number}] must be a string or a list of token ids")
    if not given:
        raise _refused(f"input[{number}] must not be empty")
    if len(given) > most_tokens:
        raise text_too_long("input", number, len(given), most_tokens)
    for token in given:
        if type(token) is not int or not 0 <= token < vocabulary.n_tokens:
            raise _refused(f"{excerpt(token)} is not a token id of this model (0 to {vocabulary.n_tokens - 1})")
    return given


def _of_text(text: str, number: int, vocabulary: Vocabulary, most_tokens: int) -> list[int]:
    if not text:
        raise _refused(f"input[{number}] must not be empty")
    at_least = _least(text, "input", vocabulary)
    if at_least > most_tokens:
        raise text_too_long("input", number, at_least, most_tokens, at_least=True)
    before, after = vocabulary.around
    return [*before, *vocabulary.tokenize(text, add_bos=False), *after]


def _refused(reason: str) -> InvalidRequest:
    return InvalidRequest(f"input: {reason}", param="input")
