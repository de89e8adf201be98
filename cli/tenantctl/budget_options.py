"""The options of `tenantctl budget` that name a budget and its amount: one for each period and unit."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from typing import Annotated, Any, Final, NamedTuple

import typer

PERIODS: Final = ("daily", "weekly", "monthly")
NANOS: Final = 1_000_000_000
MICROS: Final = 1_000_000
_ONE: Final = {"money": NANOS, "tokens": 1, "engine": MICROS}
MOST: Final = 10**18
"""The largest amount, in base units, that the daemon accepts."""
_DECIMAL: Final = re.compile(r"([0-9]{1,40})(?:\.([0-9]+))?")
_COUNT: Final = re.compile(r"([0-9]{1,40})(?:\.([0-9]{1,9}))?([kKMG]?)")
_THOUSANDS: Final = {"": 0, "k": 3, "K": 3, "M": 6, "G": 9}


class Unit(NamedTuple):
    """A unit of budgets: its name in the API and in options, and how its amounts are written."""

    api: str
    suffix: str
    metavar: str
    panel: str
    help: str


UNITS: Final = (
    Unit("money", "", "AMOUNT", "Money", "Money that may be billed"),
    Unit("tokens", "-tokens", "N", "Tokens", "Tokens, prompts and answers together,"),
    Unit("engine", "-engine-seconds", "SECONDS", "Engine time", "Seconds of engine time"),
)
_EACH: Final = {"daily": "a day", "weekly": "a week", "monthly": "a month"}


def names() -> dict[str, tuple[str, str]]:
    """Period and unit of each budget, by its option without the dashes: "monthly-tokens"."""
    return {f"{period}{unit.suffix}": (period, unit.api) for unit in UNITS for period in PERIODS}


def name_of(period: str, unit: str) -> str:
    """The option without the dashes."""
    return next(name for name, found in names().items() if found == (period, unit))


def with_amounts(*, none: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace the parameter `amounts` of a command with one option for each period and unit.

    The parameter gets the budgets that were passed, as the admin API takes them. With `none`, "none" is an amount too.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        options = [_option(period, unit, none=none) for unit in UNITS for period in PERIODS]

        @functools.wraps(command)
        def with_options(**given: Any) -> None:
            amounts = []
            for name, (period, unit) in names().items():
                text = given.pop(name.replace("-", "_"))
                if text is not None:
                    amounts.append({"period": period, "unit": unit, "amount": _amount(name, unit, text, none=none)})
            command(**given, amounts=amounts)

        signature = inspect.signature(command, eval_str=True)
        parameters = list(signature.parameters.values())
        place = [parameter.name for parameter in parameters].index("amounts")
        parameters[place : place + 1] = options
        with_options.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return with_options

    return decorate


def _option(period: str, unit: Unit, *, none: bool) -> inspect.Parameter:
    name = f"{period}{unit.suffix}"
    option = typer.Option(
        f"--{name}",
        metavar=unit.metavar,
        help=f"{unit.help} {_EACH[period]}." if none else f"Add this to its {name} budget.",
        rich_help_panel=unit.panel,
        show_default=False,
    )
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name.replace("-", "_"), kind, default=None, annotation=Annotated[str | None, option])


def _amount(name: str, unit: str, text: str, *, none: bool) -> int | None:
    """In nano-units of money, tokens, or microseconds. Raises BadParameter."""
    if text == "none" and none:
        return None
    try:
        return amount_of(unit, text)
    except ValueError as e:
        last = ", or none" if none else ""
        raise typer.BadParameter(f"must be {e}{last} (got {text[:40]!r})", param_hint=f"--{name}") from None


def amount_of(unit: str, text: str) -> int:
    """In nano-units of money, tokens, or microseconds. Raises ValueError, which says what it must be."""
    amount = _count(text) if unit == "tokens" else _fixed(text, NANOS if unit == "money" else MICROS)
    if amount > MOST:
        raise ValueError(f"at most {MOST // _ONE[unit]}")
    return amount


def _fixed(text: str, one: int) -> int:
    """A decimal number, exactly. Raises ValueError."""
    places = len(str(one)) - 1
    found = _DECIMAL.fullmatch(text)
    if found is None or len(found[2] or "") > places:
        raise ValueError(f"a number such as 12.50, with at most {places} decimals")
    return int(found[1]) * one + int((found[2] or "").ljust(places, "0"))


def _count(text: str) -> int:
    """A whole number, such as 10000, 10k or 2.5M. Raises ValueError."""
    found = _COUNT.fullmatch(text)
    if found is not None:
        decimals, zeros = found[2] or "", _THOUSANDS[found[3]]
        if not decimals.rstrip("0")[zeros:]:
            return int(found[1] + decimals[:zeros].ljust(zeros, "0"))
    raise ValueError("a whole number such as 10000, 10k or 2.5M")


def levels(text: str | None) -> list[int] | None:
    """Percentages at which to warn. Raises BadParameter."""
    if text is None:
        return None
    if text == "none":
        return []
    parts = [part.strip().removesuffix("%") for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and 1 <= int(part[:4]) <= 100 for part in parts):
        raise typer.BadParameter(
            f"must be percentages from 1 to 100, such as 50,80,100, or none (got {text[:40]!r})", param_hint="--warn"
        )
    found = [int(part) for part in parts]
    if len(set(found)) < len(found):
        raise typer.BadParameter(f"each percentage may be given once (got {text[:40]!r})", param_hint="--warn")
    return found
