"""Budgets as a table, and in sentences."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from tenantctl.budget_options import name_of
from tenantctl.render import short_each
from tenantctl.units import duration, money

COLUMNS: Final = ["tenant", "key", "budget", "used>", "of>", "left>", "reserved>", "share", "resets in>"]
SPARE: Final = ("reserved", "left", "used", "of", "key")
"""Columns that are left out first on a narrow terminal."""
BAR_CHARACTERS: Final = 8
_WORDS: Final = {"money": "{period} {currency}", "tokens": "{period} tokens", "engine": "{period} engine s"}


def rows(budgets: Sequence[dict[str, Any]], currency: str) -> tuple[list[str], list[list[object]]]:
    """Columns and cells. The column of keys is there only if a key has a budget."""
    has_keys = any(one["key_id"] for one in budgets)
    columns = [name for name in COLUMNS if has_keys or name != "key"]
    names = short_each([one["tenant"] for one in budgets])
    return columns, [_row(name, one, currency, has_keys=has_keys) for name, one in zip(names, budgets, strict=True)]


def _row(name: str, one: dict[str, Any], currency: str, *, has_keys: bool) -> list[object]:
    cap = one["amount"] + one["topped_up"]
    return [
        name,
        *([one["key_id"]] if has_keys else []),
        label(one, currency),
        *(plain(one["unit"], amount) for amount in (one["used"], cap, one["left"], one["reserved"])),
        bar(one["used"], cap),
        duration(max(0.0, one["resets_micros"] / 1e6 - time.time())),
    ]


def label(one: dict[str, Any], currency: str) -> str:
    """Which budget: "monthly USD"."""
    return _WORDS[one["unit"]].format(period=one["period"], currency=currency)


def plain(unit: str, amount: int) -> str:
    """An exact amount without its unit."""
    if unit == "money":
        return money(amount)
    if unit == "engine":
        whole, rest = divmod(amount, 1_000_000)
        return f"{whole}.{rest:06d}".rstrip("0").rstrip(".")
    return str(amount)


def with_unit(unit: str, amount: int, currency: str) -> str:
    """An exact amount: "12.50 USD"."""
    return f"{plain(unit, amount)} {({'money': currency, 'engine': 's'}).get(unit, unit)}"


def percent(used: int, cap: int) -> int:
    """Rounded down, so that 100 means used up."""
    return 100 if used >= cap else used * 100 // cap


def bar(used: int, cap: int) -> str:
    """How much is used, as a bar and a percentage."""
    share = percent(used, cap)
    filled = share * BAR_CHARACTERS // 100
    return f"{'█' * filled}{'░' * (BAR_CHARACTERS - filled)} {share:3d}%"


def sentence(one: dict[str, Any], currency: str) -> str:
    """What a budget is now: "acme: monthly budget of 10.00 USD, 2.50 USD used"."""
    unit, used, cap = one["unit"], one["used"], one["amount"] + one["topped_up"]
    whose = one["tenant"] if one["key_id"] is None else f"{one['tenant']} ({one['key_id']})"
    amount = with_unit(unit, cap, currency)
    name = f"{one['period']} engine-time budget" if unit == "engine" else f"{one['period']} budget"
    if used >= cap:
        return f"{whose}: {name} already used up: {plain(unit, used)} of {amount}"
    if one["topped_up"]:
        amount += f" ({plain(unit, one['topped_up'])} of it topped up)"
    return f"{whose}: {name} of {amount}, {with_unit(unit, used, currency)} used ({percent(used, cap)}%)"


def fields(answer: dict[str, Any]) -> dict[str, object]:
    """The budgets of one tenant, as lines of a longer list; those of its keys are only counted."""
    lines: dict[str, object] = {}
    for one in (one for one in answer["budgets"] if one["key_id"] is None):
        cap = one["amount"] + one["topped_up"]
        amounts = f"{plain(one['unit'], one['used'])} of {with_unit(one['unit'], cap, answer['currency'])}"
        lines[f"{name_of(one['period'], one['unit']).replace('-', ' ')} budget"] = (
            f"{amounts} used ({percent(one['used'], cap)}%)"
        )
    if of_keys := sum(one["key_id"] is not None for one in answer["budgets"]):
        lines["budgets of keys"] = of_keys
    return lines or {"budgets": "none"}
