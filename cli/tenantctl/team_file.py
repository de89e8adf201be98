"""The file of `tenantctl tenant export` and `apply`: tenants with their settings as TOML, without any secret.

A table of limits, billing details or budgets is complete: what it leaves out has its default. A setting or table that a
tenant leaves out altogether stays as it is.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import tomli_w

from tenantctl.billing_options import FIELDS as BILLING
from tenantctl.budget_options import amount_of, name_of, names
from tenantctl.budget_table import plain
from tenantctl.plain_values import quoted
from tenantd.domain import TENANT_NAME, CacheUse, OnAnomaly, Priority
from tenantd.errors import InvalidRequest
from tenantd.limits import LIMITS
from tenantd.tenancy.tenants import MAX_UID, MAX_WEIGHT, MIN_WEIGHT

HOW_TO_GET_ONE: Final = "to get one: tenantctl tenant export > team.toml"
MOST_BYTES: Final = 4 * 1024 * 1024
MOST_KEY_CHARACTERS: Final = 1000
"""Of a key or header whose line is looked for."""
MOST_NUMBER: Final = 10**30
USUAL_WARN: Final = (80, 100)
"""Levels in percent at which a budget warns that has none of its own."""
CHOICES: Final = {"priority": tuple(Priority), "on_anomaly": tuple(OnAnomaly), "cache": tuple(CacheUse)}
FLAGS: Final = ("unbilled", "allow_special")
SETTINGS: Final = ("weight", "uids", "adapter", *CHOICES, *FLAGS)
TABLES: Final = ("limits", "billing", "budgets")
Budgets = dict[tuple[str, str], tuple[int, tuple[int, ...]]]
"""Amount and levels of warning by period and unit."""
_HEADER: Final = re.compile(r"\[([^\[\]]+)\]\s*(?:#.*)?")
_KEY: Final = re.compile(r"([^=#\[]+)=")
_HEAD: Final = """\
# Tenants of tenantd and their settings. Change them and run: tenantctl tenant apply FILE
# Keys, system prompts and budgets of keys are not part of this file.

"""


@dataclass(frozen=True)
class Wish:
    """What one tenant should be. `settings` are fields of the admin API; a table that the file lacks is None."""

    name: str
    settings: dict[str, Any]
    limits: dict[str, Any] | None
    billing: dict[str, str] | None
    budgets: Budgets | None


class TeamFile:
    """A file that was read. Raises InvalidRequest, with the line, if it cannot be used."""

    def __init__(self, text: str, source: str) -> None:
        self._text = text
        self._source = source
        try:
            data = tomllib.loads(text, parse_float=_decimal)
        except (ValueError, RecursionError) as e:
            raise InvalidRequest(f"{source}: not valid TOML: {e}") from None
        self._only(data, (), ("currency", "tenants"))
        currency = data.get("currency", "")
        if not isinstance(currency, str):
            raise self.wrong(("currency",), 'must be text, such as "USD"')
        self.currency = currency
        self.tenants = [self._wish(name, table) for name, table in self._table(data, ("tenants",)).items()]

    def wrong(self, path: Sequence[str], problem: str) -> InvalidRequest:
        """The error for a part of the file."""
        return InvalidRequest(f"{self._source}, line {line_of(self._text, path)}: {'.'.join(path)} {problem}")

    def _wish(self, name: str, value: Any) -> Wish:
        path = ("tenants", name)
        if not TENANT_NAME.fullmatch(name):
            raise self.wrong(path, "must be 1–63 characters of a–z, 0–9, _ and -, starting with a letter or digit")
        table = self._table({name: value}, path)
        self._only(table, path, (*SETTINGS, *TABLES))
        return Wish(
            name,
            {key: self._setting(table[key], (*path, key)) for key in SETTINGS if key in table},
            self._limits(table, (*path, "limits")) if "limits" in table else None,
            self._billing(table, (*path, "billing")) if "billing" in table else None,
            self._budgets(table, (*path, "budgets")) if "budgets" in table else None,
        )

    def _setting(self, value: Any, path: tuple[str, ...]) -> Any:
        key = path[-1]
        if key == "weight" and _is_number(value) and MIN_WEIGHT <= value <= MAX_WEIGHT:
            return float(value)
        if key == "uids" and isinstance(value, list) and all(_is_count(uid) and uid <= MAX_UID for uid in value):
            return sorted(set(value))
        if key == "adapter" and isinstance(value, str) and (not value or value.startswith("/")):
            return value
        if key in FLAGS and isinstance(value, bool):
            return value
        if isinstance(value, str) and value in CHOICES.get(key, ()):
            return value
        wanted = {
            "weight": f"a number from {MIN_WEIGHT:g} to {MAX_WEIGHT}",
            "uids": "a list of user ids",
            "adapter": "an absolute path, or empty",
        }
        words = " or ".join(f'"{choice}"' for choice in CHOICES.get(key, ())) or wanted.get(key, "true or false")
        raise self.wrong(path, f"must be {words} (got {_quoted(value)})")

    def _limits(self, table: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
        given = self._table(table, path)
        self._only(given, path, tuple(LIMITS))
        found: dict[str, Any] = dict.fromkeys(LIMITS)
        for name, value in given.items():
            try:
                found[name] = None if value == "default" else LIMITS[name].check(value)
            except ValueError as e:
                problem = str(e).replace("null for the default of all tenants", '"default"')
                raise self.wrong((*path, name), f"{problem} (got {_quoted(value)})") from None
        return found

    def _billing(self, table: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, str]:
        given = self._table(table, path)
        self._only(given, path, tuple(BILLING))
        for name, value in given.items():
            if not isinstance(value, str):
                raise self.wrong((*path, name), f"must be text (got {_quoted(value)})")
        return {name: given.get(name, "").strip() for name in BILLING}

    def _budgets(self, table: Mapping[str, Any], path: tuple[str, ...]) -> Budgets:
        given = self._table(table, path)
        self._only(given, path, tuple(names()))
        return {names()[name]: self._budget(value, (*path, name)) for name, value in given.items()}

    def _budget(self, value: Any, path: tuple[str, ...]) -> tuple[int, tuple[int, ...]]:
        amount, warn = value, list(USUAL_WARN)
        if isinstance(value, dict):
            self._only(value, path, ("amount", "warn"))
            if "amount" not in value:
                raise self.wrong(path, "needs an amount")
            amount, warn = value["amount"], value.get("warn", warn)
        if not isinstance(warn, list) or not all(_is_count(level) and 1 <= level <= 100 for level in warn):
            raise self.wrong((*path, "warn"), f"must be a list of percentages from 1 to 100 (got {_quoted(warn)})")
        try:
            if not isinstance(amount, str) and not (_is_number(amount) and abs(amount) < MOST_NUMBER):
                raise ValueError("a number")
            return amount_of(names()[path[-1]][1], str(amount)), tuple(sorted(set(warn)))
        except ValueError as e:
            raise self.wrong(path, f"must be {e} (got {_quoted(amount)})") from None

    def _table(self, table: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
        found = table.get(path[-1], {})
        if not isinstance(found, dict):
            raise self.wrong(path, f"must be a table (got {_quoted(found)})")
        return found

    def _only(self, table: Mapping[str, Any], path: tuple[str, ...], known: Sequence[str]) -> None:
        for key in table:
            if key not in known:
                raise self.wrong((*path, key), f"is unknown; choose from {', '.join(known)}")


def line_of(text: str, path: Sequence[str]) -> int:
    """The line that has a key, or else the table it is in; 1 if none is found."""
    wanted = tuple(path)
    table: tuple[str, ...] = ()
    found = 1
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if header := _HEADER.fullmatch(line):
            keys = table = _dotted(header[1])
        elif key := _KEY.match(line):
            keys = table + _dotted(key[1])
        else:
            continue
        if keys[: len(wanted)] == wanted:
            return number
        if keys and wanted[: len(keys)] == keys:
            found = number
    return found


def _dotted(text: str) -> tuple[str, ...]:
    """The parts of a dotted key; () if it is none."""
    if len(text) > MOST_KEY_CHARACTERS:
        return ()
    try:
        found: Any = tomllib.loads(f"{text} = 0")
    except (ValueError, RecursionError):
        return ()
    parts = []
    while isinstance(found, dict) and found:
        [(part, found)] = found.items()
        parts.append(part)
    return tuple(parts)


def _decimal(text: str) -> Decimal:
    """Raises ValueError."""
    try:
        return Decimal(text)
    except ArithmeticError:
        raise ValueError(f"cannot read the number {quoted(text)}") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool) and Decimal(value).is_finite()


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _quoted(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    try:
        return quoted(value) if isinstance(value, str) else quoted(str(value))[1:-1]
    except ValueError:  # more digits than Python writes
        return "a number"


# ---- writing -------------------------------------------------------------------------------------------------------


def team_text(tenants: Sequence[dict[str, Any]], budgets: Sequence[dict[str, Any]], currency: str) -> str:
    """The file for tenants and budgets as the admin API tells them."""
    tables = {tenant["name"]: _tenant_table(tenant, budgets) for tenant in tenants}
    return _HEAD + tomli_w.dumps({"currency": currency, "tenants": tables}, multiline_strings=True)


def _tenant_table(tenant: dict[str, Any], budgets: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        **{name: tenant[name] for name in SETTINGS},
        "limits": {name: value for name, value in tenant["limits"].items() if value is not None},
        "billing": {name: text for name in BILLING if (text := tenant["billing"].get(name))},
        "budgets": dict(_budget_entries(budgets_of(tenant["name"], budgets))),
    }


def budgets_of(tenant: str, budgets: Sequence[dict[str, Any]]) -> Budgets:
    """Those of a tenant, without those of its keys."""
    own = (one for one in budgets if one["tenant"] == tenant and one["key_id"] is None)
    return {(one["period"], one["unit"]): (one["amount"], tuple(sorted(one["warn"]))) for one in own}


def _budget_entries(budgets: Budgets) -> Iterator[tuple[str, Any]]:
    for (period, unit), (amount, warn) in budgets.items():
        number = amount if unit == "tokens" else Decimal(plain(unit, amount))
        yield name_of(period, unit), number if warn == USUAL_WARN else {"amount": number, "warn": list(warn)}
