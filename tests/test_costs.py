"""Usage is the same number for everyone who works it out: the scheduler, the daemon that listens to it, the ledger."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd import costs
from tenantd.domain import Priority, Tenant
from tenantd.engine.fairness import Fairness
from tenantd.fleet.board import UsageBoard
from tenantd.ledger.reports import RecentUsage
from tenantd.serving.carryover import decayed_usage
from tenantd.serving.policies import shares
from tenantd.wire.settings import Settings

tokens = st.integers(0, 100_000)


@given(
    prompt_tokens=tokens,
    cached_tokens=tokens,
    generated_tokens=tokens,
    weight=st.floats(0.1, 100),
    priority=st.sampled_from(Priority),
    elapsed_s=st.floats(0, 1000),
    half_life_s=st.floats(1, 1000),
)
def test_engine_board_and_ledger_come_to_the_same_usage(
    prompt_tokens: int,
    cached_tokens: int,
    generated_tokens: int,
    weight: float,
    priority: Priority,
    elapsed_s: float,
    half_life_s: float,
) -> None:
    settings = Settings(
        half_life_s=half_life_s, prompt_token_cost=0.5, cached_token_cost=0.25, generated_token_cost=3.0
    )
    acme = Tenant(id=7, name="acme", weight=weight, priority=priority)
    engine, board = Fairness(half_life_s), UsageBoard()
    (policy,) = shares([acme], slots=1)
    engine.set_weight("acme", policy.weight)
    cost = costs.of_tokens(settings, prompt_tokens, generated_tokens) + costs.of_cached(settings, cached_tokens)
    engine.charge("acme", cost, 0.0)
    board.update(engine.snapshot(0.0), 0.0, now_s=0.0)
    expected = pytest.approx(engine.normalised("acme", elapsed_s))
    assert board.usage("acme", elapsed_s, half_life_s) == expected
    row = RecentUsage(acme.id, elapsed_s, prompt_tokens, cached_tokens, generated_tokens)
    assert decayed_usage([row], {"acme": acme}, settings)["acme"] == expected


def test_the_formulas() -> None:
    settings = Settings(prompt_token_cost=0.5, generated_token_cost=3.0, min_run_tokens=10)
    assert costs.of_tokens(settings, 4, 2) == 8
    assert costs.margin(settings) == 30
    assert [costs.left_after(elapsed_s, 60) for elapsed_s in (-5, 0, 60, 120)] == [1, 1, 0.5, 0.25]
    assert costs.full_weight(Tenant(name="acme", weight=3, priority=Priority.HIGH)) == 24
    assert costs.full_weight(Tenant(name="acme", weight=3, priority=Priority.LOW)) == 0.375
