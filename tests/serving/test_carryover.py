"""What is taken over from before: by a daemon out of the ledger, by an engine from the one that ended."""

from __future__ import annotations

import pytest

from tenantd.domain import Tenant
from tenantd.fleet.board import UsageBoard
from tenantd.ledger.reports import RecentUsage
from tenantd.serving.carryover import decayed_usage, newcomers_level
from tenantd.wire.settings import Settings


def test_newcomers_start_where_the_tenant_that_used_most_for_its_weight_is() -> None:
    tenants = {"acme": Tenant(id=1, name="acme", weight=2), "globex": Tenant(id=2, name="globex")}
    recent = [RecentUsage(1, 60, 1000, 0, 500), RecentUsage(2, 0, 9, 10, 5), RecentUsage(3, 0, 10**6, 0, 0)]
    usage = decayed_usage(recent, tenants, Settings(half_life_s=60))
    assert usage == pytest.approx({"acme": 500, "globex": 20})
    assert newcomers_level(usage) == pytest.approx(500)
    assert newcomers_level({}) == 0


def test_the_board_lets_the_level_of_newcomers_decay_as_usage_does() -> None:
    board = UsageBoard()
    assert board.level(5, half_life_s=60) == 0
    board.update({"acme": 300.0}, 400.0, now_s=10)
    assert board.level(70, half_life_s=60) == 200
    assert board.usage("acme", 70, half_life_s=60) == 150
