"""How long responses are kept, and in how much memory."""

from __future__ import annotations

from tenantd.domain import Tenant
from tenantd.serving.kept_responses import OVERHEAD_BYTES, KeptResponses

ACME, GLOBEX = Tenant(name="acme", id=1), Tenant(name="globex", id=2)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def kept(share_bytes: int = 4 * (OVERHEAD_BYTES + 30), keep_s: float = 100) -> tuple[KeptResponses, Clock]:
    clock = Clock()
    responses = KeptResponses(share_bytes, keep_s, clock)
    responses.tenants_are({"acme": ACME, "globex": GLOBEX})
    return responses, clock


def keep(responses: KeptResponses, response_id: str, tenant_id: int = 1, size: int = 10) -> bool:
    room = responses.reserve(tenant_id, OVERHEAD_BYTES + 2 * size)
    return room is not None and room.keep(response_id, b"b" * size, b"i" * size, b"c" * size)


def test_the_oldest_make_room_for_new_ones_of_their_own_tenant_only() -> None:
    responses, _ = kept()
    assert keep(responses, "other", 2)
    assert all(keep(responses, f"r{number}") for number in range(7))
    assert [number for number in range(7) if responses.find(1, f"r{number}")] == [3, 4, 5, 6]
    assert responses.find(2, "other") is not None and responses.find(1, "other") is None
    assert responses.held_bytes == 5 * (OVERHEAD_BYTES + 30)
    assert not keep(responses, "huge", size=10_000)
    assert responses.find(1, "r6") is not None, "what fits nowhere pushes nothing out"


def test_they_are_forgotten_after_a_while() -> None:
    responses, clock = kept()
    keep(responses, "a")
    clock.now_s = 60
    keep(responses, "b")
    clock.now_s = 100
    assert responses.find(1, "a") is None and responses.find(1, "b") is not None and not responses.forget(1, "a")
    responses.forget_old()
    assert responses.held_bytes == OVERHEAD_BYTES + 30
    assert responses.forget(1, "b") and responses.held_bytes == 0


def test_a_tenant_that_is_made_again_finds_nothing_and_one_that_is_removed_keeps_nothing() -> None:
    responses, _ = kept()
    keep(responses, "a")
    room = responses.reserve(1, 2 * OVERHEAD_BYTES)
    assert room is not None
    responses.tenants_are({"acme": Tenant(name="acme", id=3), "globex": GLOBEX})
    assert responses.find(3, "a") is None and responses.find(1, "a") is None and responses.held_bytes == 0
    assert not room.keep("late", b"", b"", b"") and responses.find(1, "late") is None
    assert responses.held_bytes == 0
    keep(responses, "b", 2)
    responses.forget_all(2)
    responses.forget_all(7)
    assert responses.find(2, "b") is None and responses.held_bytes == 0


def test_room_is_given_back_once() -> None:
    responses, _ = kept()
    room = responses.reserve(1, 2000)
    assert room is not None and responses.held_bytes == 2000
    room.give_back()
    room.give_back()
    assert responses.held_bytes == 0
    assert kept(keep_s=0)[0].reserve(1, 10) is None and kept(share_bytes=0)[0].reserve(1, 10) is None
