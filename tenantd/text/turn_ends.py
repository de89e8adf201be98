"""Where the turns of a conversation end in its tokens: its later prompts begin with the same ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final

from tenantd.text.vocabulary import Vocabulary

MOST_MARKS: Final = 32
"""A conversation that goes on does so at its end, and another one with the same system prompt after that."""


def turn_marks(ends: Iterable[int]) -> tuple[int, ...]:
    """The first place and the last ones of those where turns end, ascending."""
    places = sorted(set(ends))
    if len(places) > MOST_MARKS:
        places = [places[0], *places[1 - MOST_MARKS :]]
    return tuple(places)


def line_ends(vocabulary: Vocabulary, tokens: Sequence[int], first: int, lines: Sequence[str]) -> list[int]:
    """How many tokens there are up to the end of each line, of those at whose end a token ends. `tokens` from `first`
    on spell the lines, with spaces that some vocabularies add, and perhaps more."""
    text = "".join(lines).encode()
    wanted = set(accumulate(len(line.encode()) for line in lines))
    spelled, ends = 0, []
    for place in range(first, len(tokens)):
        piece = vocabulary.piece(tokens[place])
        if not text.startswith(piece, spelled):
            piece = piece.removeprefix(b" ")
            if not text.startswith(piece, spelled):
                break
        spelled += len(piece)
        if spelled in wanted:
            ends.append(place + 1)
            wanted.discard(spelled)
    return ends
