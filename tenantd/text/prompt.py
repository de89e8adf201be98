"""What a request becomes before the engine gets it."""

from __future__ import annotations

from typing import NamedTuple

from tenantd.text.grammar import GrammarSource
from tenantd.text.image_parts import Placed
from tenantd.text.reading import Reading


class Prompt(NamedTuple):
    """Token ids. The first `hidden_tokens` are those up to the end of the system prompt; 0 if there is none. `marks`
    are where turns end, ascending: how many tokens are before. `reading` tells how its answers are read, None if they
    are only text. `grammar` is what they must match if they must be calls, or may be calls instead of what the request
    asks for. `warning` is for the client. `images` are those in it."""

    tokens: list[int]
    hidden_tokens: int = 0
    marks: tuple[int, ...] = ()
    reading: Reading | None = None
    grammar: GrammarSource | None = None
    warning: str = ""
    images: tuple[Placed, ...] = ()
