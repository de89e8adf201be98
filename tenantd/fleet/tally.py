"""What engines did, counted. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from tenantd.wire.messages import Step


@dataclass(slots=True)
class Tally:
    """Of one replica over all its engine processes, or of several together.

    `unbilled_micros` is the part of `busy_micros` that no request is charged for: work a crash lost, mostly. `swaps`
    and `recomputes` are requests that gave way, with their state kept and without. `steps` are those that took time.
    """

    busy_micros: int = 0
    unbilled_micros: int = 0
    swaps: int = 0
    recomputes: int = 0
    steps: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.busy_micros + other.busy_micros,
            self.unbilled_micros + other.unbilled_micros,
            self.swaps + other.swaps,
            self.recomputes + other.recomputes,
            self.steps + other.steps,
        )

    def add(self, step: Step) -> None:
        """Count a step."""
        self.busy_micros += step.busy_micros
        self.unbilled_micros += step.unbilled_micros
        self.swaps += step.swaps
        self.recomputes += step.recomputes
        self.steps += step.busy_micros > 0
