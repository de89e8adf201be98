"""How many slots tenants are entitled to, and who has to give one up."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.engine.fairness import Fairness
from tenantd.engine.jobs import TenantJobs
from tenantd.engine.sharing import Sharing
from tenantd.wire.settings import Settings


def tenant(weight: float = 1.0, active: int = 0, queued: int = 9, **limits: Any) -> TenantJobs:
    return TenantJobs(queue=deque([None] * queued), active=active, weight=weight, **limits)  # type: ignore[list-item]


def shares(slots: int, *tenants: TenantJobs) -> list[float]:
    names = {str(i): tenant for i, tenant in enumerate(tenants)}
    return list(Sharing(slots, Fairness(60), Settings(), names)._shares().values())


def by_name(found: dict[str, float]) -> list[float]:
    return [found[name] for name in sorted(found)]


@pytest.mark.parametrize(
    ("slots", "tenants", "expected"),
    [
        (8, [tenant(), tenant()], [4, 4]),
        (8, [tenant(1), tenant(3)], [2, 6]),
        (2, [tenant(), tenant(), tenant(), tenant()], [0.5, 0.5, 0.5, 0.5]),
        # what one cannot use goes to the others, by weight
        (8, [tenant(8, active=1, queued=0), tenant(), tenant()], [1, 3.5, 3.5]),
        (8, [tenant(8, max_concurrent=2), tenant(1), tenant(2)], [2, 2, 4]),
        (8, [tenant(queued=1), tenant(queued=2)], [1, 2]),
        # a reserve is a least; the others share the rest
        (8, [tenant(1, reserved_slots=4), tenant(10), tenant(10)], [4, 2, 2]),
        (8, [tenant(1, reserved_slots=4, queued=2), tenant(10), tenant(10)], [2, 3, 3]),
        (8, [tenant(1, reserved_slots=1), tenant(1)], [4, 4]),
        (3, [tenant(0.1), tenant(0.2)], [1, 2]),
    ],
)
def test_shares(slots: int, tenants: list[TenantJobs], expected: list[float]) -> None:
    names = {str(i): each for i, each in enumerate(tenants)}
    assert by_name(Sharing(slots, Fairness(60), Settings(), names)._shares()) == pytest.approx(expected)


@given(
    slots=st.integers(1, 64),
    tenants=st.lists(
        st.builds(
            tenant,
            weight=st.floats(1e-6, 1e6),
            active=st.integers(0, 4),
            queued=st.integers(0, 9),
            max_concurrent=st.none() | st.integers(0, 5),
        ),
        min_size=1,
        max_size=8,
    ),
    reserves=st.lists(st.integers(0, 8), min_size=8, max_size=8),
)
def test_shares_fill_the_slots_and_keep_within_what_each_can_use(
    slots: int, tenants: list[TenantJobs], reserves: list[int]
) -> None:
    left = slots
    for each, reserve in zip(tenants, reserves, strict=False):
        each.reserved_slots = min(reserve, left)  # never more than there are, together
        left -= each.reserved_slots
    busy = [each for each in tenants if each.is_busy]
    found = shares(slots, *tenants)
    assert len(found) == len(busy)
    usable = sum(each.fit(float("inf")) for each in busy)
    assert sum(found) == pytest.approx(min(slots, usable), abs=1e-6)
    for name, share in Sharing(slots, Fairness(60), Settings(), dict(enumerate(tenants)))._shares().items():  # type: ignore[arg-type]
        each = tenants[int(name)]
        assert share <= each.fit(float("inf")) + 1e-6
        assert share >= min(each.reserved_slots, each.fit(float("inf"))) - 1e-6
