"""Where a live request is, and what may follow."""

from __future__ import annotations

from enum import Enum
from typing import Final


class Phase(Enum):
    """One at a time. Whether the row of a request is durable is apart from it: the engine works meanwhile."""

    WAITING = "it waits in the daemon: for a place in the engine, for the next engine, or for its turn as a suspect"
    IN_ENGINE = "an engine has it"
    DECIDED = "how it is to end is decided, the engine has been told and owes the end"
    FINISHED = "nothing more comes of it, and its row is not settled yet"
    SETTLED = "its row is settled, or was waited for long enough: the reader sees the end"
    REFUSED = "it has no row: the reader has the error, and what an engine still does for it is nobody's"


NEXT: Final[dict[Phase, frozenset[Phase]]] = {
    Phase.WAITING: frozenset({Phase.IN_ENGINE, Phase.FINISHED, Phase.REFUSED}),
    Phase.IN_ENGINE: frozenset({Phase.WAITING, Phase.DECIDED, Phase.FINISHED, Phase.REFUSED}),
    Phase.DECIDED: frozenset({Phase.FINISHED, Phase.REFUSED}),
    Phase.FINISHED: frozenset({Phase.SETTLED, Phase.REFUSED}),
    Phase.SETTLED: frozenset(),
    Phase.REFUSED: frozenset(),
}
"""What may follow what."""

OVER: Final = frozenset({Phase.SETTLED, Phase.REFUSED})
"""The reader sees the end."""
