"""How much of its limits and budgets a tenant uses now, from its entry in the daemon's figures."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from tenantctl.units import lasting, money

IN_USE: Final = {
    "max_concurrent": "running",
    "max_queued": "waiting",
    "requests_per_minute": "requests_last_minute",
    "tokens_per_minute": "tokens_last_minute",
}
"""Limits of what adds up, and the figure that counts against each."""


class Use(NamedTuple):
    """`used` of `allowed`, and what that is. `fraction` is 1 if nothing is allowed."""

    what: str
    used: int
    allowed: int

    @property
    def fraction(self) -> float:
        return self.used / self.allowed if self.allowed else 1.0


def limits_in_use(tenant: dict[str, Any]) -> list[Use]:
    """The limits that are set and of which some part is used."""
    limits = tenant["limits"] or {}
    found = [(name, tenant[figure], limits.get(name)) for name, figure in IN_USE.items()]
    return [Use(name.replace("_", " "), used or 0, allowed) for name, used, allowed in found if allowed is not None]


def budgets_in_use(tenant: dict[str, Any]) -> list[Use]:
    """Its budgets, those of keys with their id."""
    return [
        Use(
            f"{one['period']} {one['unit'].replace('_', ' ')}" + (f" ({one['key_id']})" if one["key_id"] else ""),
            one["used"],
            one["cap"],
        )
        for one in tenant["budgets"]
    ]


def amount(value: int, unit: str) -> str:
    """An amount of a budget: money, tokens, or engine time."""
    if unit == "tokens":
        return f"{value:,}"
    return money(value) if unit == "money" else lasting(value)


def fullest(uses: list[Use]) -> Use | None:
    """The one of which the largest part is used; None if nothing is."""
    return max((use for use in uses if use.used), key=lambda use: use.fraction, default=None)
