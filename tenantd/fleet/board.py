"""The usage of each tenant, as last reported by the engine."""

from __future__ import annotations

from tenantd import costs


class UsageBoard:
    """The scheduler's decayed usage per tenant, decayed further since its last report; an idle engine sends none."""

    def __init__(self) -> None:
        self._usage: dict[str, float] = {}
        self._level = 0.0
        self._heard_s = 0.0

    def update(self, usage: dict[str, float], level: float, now_s: float) -> None:
        """`level` is the usage at which newcomers start."""
        self._usage = usage
        self._level = level
        self._heard_s = now_s

    def forget(self, tenant: str) -> None:
        """Forget a removed tenant; another may get its name."""
        self._usage = {name: usage for name, usage in self._usage.items() if name != tenant}

    def all(self, now_s: float, half_life_s: float) -> dict[str, float]:
        """Of every tenant that has any."""
        return {name: usage for name in self._usage if (usage := self.usage(name, now_s, half_life_s)) > 0}

    def usage(self, tenant: str, now_s: float, half_life_s: float) -> float:
        """Normalised by weight, at `now_s`."""
        return self._decayed(self._usage.get(tenant, 0.0), now_s, half_life_s)

    def level(self, now_s: float, half_life_s: float) -> float:
        """The usage by weight at which newcomers start, at `now_s`."""
        return self._decayed(self._level, now_s, half_life_s)

    def _decayed(self, usage: float, now_s: float, half_life_s: float) -> float:
        return usage * costs.left_after(now_s - self._heard_s, half_life_s)
