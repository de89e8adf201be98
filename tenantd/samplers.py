"""The settings by which a token is chosen, each declared once: default, bounds, and what it does. Pure.

Those of the configuration's [sampling] table, which are the defaults of requests, and of requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple


class Sampler(NamedTuple):
    """`bounds` have pydantic's names: ge, gt, le."""

    kind: type[int] | type[float]
    default: Any
    bounds: Mapping[str, Any]
    help: str


SAMPLERS: Final[dict[str, Sampler]] = {
    "temperature": Sampler(
        float,
        1.0,
        {"ge": 0, "le": 2},
        "Randomness. 1: the model's own probabilities; 0: always the most likely token.",
    ),
    "top_k": Sampler(
        int, 40, {"ge": 0, "le": 0x7FFFFFFF}, "Choose among this many of the most likely tokens. 0: among all."
    ),
    "top_p": Sampler(
        float,
        0.95,
        {"ge": 0, "le": 1},
        "Choose among the most likely tokens whose probabilities add up to this. 1: among all.",
    ),
    "min_p": Sampler(
        float, 0.05, {"ge": 0, "le": 1}, "Drop tokens less likely than this times the most likely one. 0: none."
    ),
    "typical_p": Sampler(
        float,
        1.0,
        {"gt": 0, "le": 1},
        "Choose among the most typical tokens whose probabilities add up to this. 1: among all.",
    ),
    "repeat_penalty": Sampler(
        float, 1.0, {"gt": 0, "le": 10}, "Penalise recently used tokens by this factor. 1: no penalty."
    ),
    "repeat_last_n": Sampler(int, 64, {"ge": 0, "le": 65_536}, "How many tokens penalties look back."),
    "presence_penalty": Sampler(float, 0.0, {"ge": -2, "le": 2}, "Penalise tokens already used by this much."),
    "frequency_penalty": Sampler(
        float, 0.0, {"ge": -2, "le": 2}, "Penalise tokens by this much for each time they were used."
    ),
}
