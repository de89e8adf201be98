"""Tracks loads that fail in a row: for how long, and when to retry. Pure."""

from __future__ import annotations

from tenantd.wire.messages import EngineInfo


class FailingLoads:
    """A series of failed loads, which `worked` ends."""

    def __init__(self, first_delay_s: float, slowest_delay_s: float) -> None:
        self.count = 0
        self._first_delay_s = first_delay_s
        self._slowest_delay_s = max(first_delay_s, slowest_delay_s)
        self._since_s = 0.0
        self._reason = ""

    def failed(self, reason: str, now_s: float) -> bool:
        """Count a failure. True if `reason` is new."""
        if not self.count:
            self._since_s = now_s
        self.count += 1
        is_news = reason != self._reason
        self._reason = reason
        return is_news

    def worked(self) -> None:
        """A process became ready."""
        self.count = 0
        self._reason = ""

    def for_s(self, now_s: float) -> float:
        """Seconds since the first failure of the series; 0 without one."""
        return now_s - self._since_s if self.count else 0.0

    @property
    def delay_s(self) -> float:
        """Seconds to wait before the next try."""
        return float(min(self._first_delay_s * 2 ** min(self.count - 1, 32), self._slowest_delay_s))


def is_same_model(before: EngineInfo, after: EngineInfo) -> bool:
    """Whether requests can move from one engine to the other, because tokens mean the same."""
    return all(
        getattr(before, name) == getattr(after, name)
        for name in ("model", "parameters", "vocabulary", "train_context_tokens", "embeddings", "images")
    )
