"""Loads that fail one after the other: for how long by now, and when to try again. Pure."""

from __future__ import annotations

from tenantd.wire.messages import EngineInfo


class FailingLoads:
    """Since when no engine process came as far as being ready. `worked` ends the series."""

    def __init__(self, first_delay_s: float, slowest_delay_s: float) -> None:
        self.count = 0
        self._first_delay_s = first_delay_s
        self._slowest_delay_s = max(first_delay_s, slowest_delay_s)
        self._since_s = 0.0
        self._reason = ""

    def failed(self, reason: str, now_s: float) -> bool:
        """Book one more. True when `reason` is news."""
        if not self.count:
            self._since_s = now_s
        self.count += 1
        is_news = reason != self._reason
        self._reason = reason
        return is_news

    def worked(self) -> None:
        """A process is ready."""
        self.count = 0
        self._reason = ""

    def for_s(self, now_s: float) -> float:
        """Seconds since the first failure in a row; 0 with none."""
        return now_s - self._since_s if self.count else 0.0

    @property
    def delay_s(self) -> float:
        """How long to wait before the next try."""
        return float(min(self._first_delay_s * 2 ** min(self.count - 1, 32), self._slowest_delay_s))


def is_same_model(before: EngineInfo, after: EngineInfo) -> bool:
    """A request may go on from one engine to the other: its tokens mean the same there."""
    return all(
        getattr(before, name) == getattr(after, name)
        for name in ("model", "parameters", "vocabulary", "train_context_tokens")
    )
