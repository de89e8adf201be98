"""How a query and a document become one text, for models that rank documents. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

_PLACES: Final = re.compile(r"(\{query\}|\{document\})")


class Pairing(NamedTuple):
    """Tokens, and between them the places of the query and the document."""

    pieces: tuple[tuple[int, ...], ...]  # one more than places
    places: tuple[bool, ...]  # whether it is that of the query

    def join(self, query: Sequence[int], document: Sequence[int]) -> list[int]:
        """The text of a pair."""
        found = list(self.pieces[0])
        for is_query, piece in zip(self.places, self.pieces[1:], strict=True):
            found += query if is_query else document
            found += piece
        return found

    @property
    def own_tokens(self) -> int:
        """How many tokens are neither the query's nor the document's."""
        return sum(map(len, self.pieces))


def by_marks(before: Sequence[int], between: Sequence[int], after: Sequence[int]) -> Pairing:
    """A query and a document with these tokens around them."""
    return Pairing((tuple(before), tuple(between), tuple(after)), (True, False))


def by_template(template: str, tokenize: Callable[[str], Sequence[int]]) -> Pairing:
    """A template with `{query}` and `{document}`. `tokenize` is for what is around these, and knows control tokens."""
    parts = _PLACES.split(template)
    pieces = tuple(tuple(tokenize(part)) if part else () for part in parts[::2])
    return Pairing(pieces, tuple(place == "{query}" for place in parts[1::2]))
