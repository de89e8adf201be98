"""Whoever was in several crashes is tried alone."""

from __future__ import annotations

from typing import Any, cast

from tenantd.fleet.suspects import Suspects
from tenantd.live.phases import Phase
from tenantd.live.streams import LiveStream


class Numbered:
    """As much of a stream as suspicion looks at."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.generated: list[int] = []
        self.phase = Phase.WAITING
        self.finished: Any = self

    def done(self) -> bool:
        return self.phase is Phase.FINISHED


def live(number: int) -> LiveStream:
    return cast(LiveStream, Numbered(number))


def test_crashes_in_a_row_begin_anew_with_every_token() -> None:
    suspects, stream = Suspects(), live(1)
    assert not suspects.has(stream)
    assert [suspects.crashed(stream) for _ in range(2)] == [1, 2] and suspects.has(stream)
    stream.generated.append(97)
    assert not suspects.has(stream), "it got further"
    assert suspects.crashed(stream) == 1
    suspects.ended(stream)
    suspects.check_empty()


def test_suspects_are_tried_one_after_the_other_those_with_fewer_crashes_first() -> None:
    suspects = Suspects()
    streams = [live(number) for number in range(4)]
    for stream, crashes in zip(streams, (3, 2, 2, 2), strict=True):
        for _ in range(crashes):
            suspects.crashed(stream)
    worst, first, gone, last = streams
    suspects.try_in_turn(streams)
    assert suspects.probe is None and suspects.next() is first is suspects.probe
    assert suspects.next() is None, "it has no token yet"
    first.generated.append(97)
    gone.phase = Phase.FINISHED
    assert suspects.next() is last
    last.phase = Phase.FINISHED
    assert suspects.next() is worst
    worst.generated.append(97)
    assert suspects.next() is None and suspects.probe is None
