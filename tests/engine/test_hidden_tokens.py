"""Penalties see no token up to the end of a system prompt, in a new request as in one that goes on after a crash."""

from __future__ import annotations

from typing import Any

import pytest

from tenantd.domain import Sampling
from tenantd.engine.fake import FakeCompute
from tenantd.wire.messages import SetSampling, Submit
from tests.engine.world import World, world

seen: list[tuple[list[int], list[int]]] = []


class Remembering(FakeCompute):
    """Notes what penalties would count: the history and what was generated."""

    def bind(self, sequence: int, sampling: Sampling, history: list[int], generated: list[int], *rest: Any) -> int:
        seen.append((history, generated))
        return super().bind(sequence, sampling, history, generated, *rest)


@pytest.mark.parametrize("generated", [[], [65, 66]])
@pytest.mark.parametrize("hidden", [0, 5, 8])
def test_only_what_stands_after_the_system_prompt_is_history(hidden: int, generated: list[int]) -> None:
    seen.clear()
    w = World(world(slots=1).load, engine=Remembering)
    prompt = list(range(8))
    submit = Submit(
        request=1, tenant="a", prompt=prompt, hidden_tokens=hidden, generated=generated, max_tokens=9, sampling=1
    )
    w.loop.apply([SetSampling(1, Sampling()), submit])
    w.loop.step()
    assert seen == [(prompt[hidden:], generated)]
