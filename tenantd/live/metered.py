"""What a live request takes besides tokens and engine time: waiting for a slot, and the slot."""

from __future__ import annotations


class Metered:
    """`queue_micros`: from its creation until it had a slot, None before that. `kv_token_micros`: tokens in slots, and
    how long they were there, multiplied. `swaps`: how often it gave its slot up."""

    __slots__ = ("_kv_before", "_swaps_before", "kv_token_micros", "queue_micros", "swaps")

    def __init__(self) -> None:
        self.queue_micros: int | None = None
        self.kv_token_micros = self.swaps = 0
        self._kv_before = self._swaps_before = 0  # in engines that are gone, as far as they told

    def seat(self, waited_micros: int) -> None:
        """It has a slot; only the first counts."""
        if self.queue_micros is None:
            self.queue_micros = max(0, waited_micros)

    def note(self, kv_token_micros: int, swaps: int) -> None:
        """What it has held so far in the engine that has it; see `Step.held`."""
        self.kv_token_micros, self.swaps = self._kv_before + kv_token_micros, self._swaps_before + swaps

    def lose(self) -> None:
        """That engine is gone."""
        self._kv_before, self._swaps_before = self.kv_token_micros, self.swaps

    def prefill_micros(self, first_token_micros: int | None) -> int | None:
        """From when it had a slot until its first token; None if it lacks either."""
        if self.queue_micros is None or first_token_micros is None:
            return None
        return max(0, first_token_micros - self.queue_micros)
