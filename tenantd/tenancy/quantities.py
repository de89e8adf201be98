"""Amounts of budgets in words. Money is exact, to the last of its nine decimals."""

from __future__ import annotations

from typing import Final

from tenantd.domain import BudgetUnit
from tenantd.periods import Period

NANOS: Final = 1_000_000_000
MICROS: Final = 1_000_000
_NAMES: Final = {
    BudgetUnit.MONEY: "{period} money",
    BudgetUnit.TOKENS: "{period} token",
    BudgetUnit.ENGINE: "{period} engine-time",
}


def budget_name(period: Period, unit: BudgetUnit) -> str:
    """Which budget, before the word: "monthly money"."""
    return _NAMES[unit].format(period=period.value)


def quantity(unit: BudgetUnit, amount: int, currency: str) -> str:
    """An amount in the budget's unit: "12.50 USD", "10000 tokens", "3.5 s"."""
    if unit is BudgetUnit.MONEY:
        return f"{_decimal(amount, NANOS, 9, least=2)} {currency}"
    if unit is BudgetUnit.TOKENS:
        return f"{amount} tokens"
    return f"{_decimal(amount, MICROS, 6, least=0)} s"


def _decimal(amount: int, one: int, places: int, least: int) -> str:
    whole, rest = divmod(amount, one)
    decimals = f"{rest:0{places}d}".rstrip("0").ljust(least, "0")
    return f"{whole}.{decimals}" if decimals else str(whole)
