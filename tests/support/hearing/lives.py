"""What the events of one request must be, whatever happens to it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from tenantd.events import Admitted, CleanedUp, Event, FirstToken, Settled, Started

ORDER: list[type[Event]] = [Admitted, Started, FirstToken, Settled, CleanedUp]


def check_lives(heard: Iterable[Event]) -> dict[str, list[type[Event]]]:
    """The kinds of events of each request that was admitted: in their order, none twice, none after the last.

    Everything must have ended.
    """
    lives: dict[str, list[type[Event]]] = defaultdict(list)
    for event in heard:
        if isinstance(event, tuple(ORDER)):
            lives[event.request_id].append(type(event))  # type: ignore[attr-defined]
    for request_id, kinds in lives.items():
        assert kinds == [kind for kind in ORDER if kind in kinds], f"{request_id}: {kinds}"
        assert kinds[0] is Admitted and kinds[-1] is CleanedUp, f"{request_id}: {kinds}"
        assert Started in kinds or FirstToken not in kinds, f"{request_id}: {kinds}"
    return dict(lives)
