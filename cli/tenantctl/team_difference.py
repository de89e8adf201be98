"""What `tenantctl tenant apply` would change, and the requests that do it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from tenantctl.budget_options import name_of
from tenantctl.budget_table import with_unit
from tenantctl.team_file import USUAL_WARN, Budgets, TeamFile, Wish, budgets_of
from tenantctl.units import NOTHING


class Change(NamedTuple):
    """One setting, before and after, as it is shown."""

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class Step:
    """What happens to one tenant. `body` is that of its request; `budgets` are bodies of further ones."""

    tenant: str
    kind: Literal["add", "change", "remove"]
    changes: list[Change] = field(default_factory=list)
    body: dict[str, Any] = field(default_factory=dict)
    budgets: list[dict[str, Any]] = field(default_factory=list)
    freed_slots: int = 0
    """How many fewer slots it reserves afterwards."""


NEW: dict[str, Any] = {
    "weight": 1.0,
    "priority": "standard",
    "uids": [],
    "adapter": "",
    "unbilled": False,
    "allow_special": False,
    "on_anomaly": "log",
    "cache": "default",
    "limits": {},
    "billing": {},
}
"""A tenant that is added without any setting."""


def difference(team: TeamFile, tenants: Sequence[dict[str, Any]], budgets: Sequence[dict[str, Any]]) -> list[Step]:
    """The steps that make tenants as the file says, in an order in which reserved slots are free when they are needed.
    Tenants that it does not name stay."""
    there = {tenant["name"]: tenant for tenant in tenants}
    steps = [_step(wish, there.get(wish.name), budgets_of(wish.name, budgets), team.currency) for wish in team.tenants]
    return sorted((step for step in steps if step is not None), key=lambda step: -step.freed_slots)


def removals(team: TeamFile, tenants: Sequence[dict[str, Any]]) -> list[Step]:
    """The steps that remove the tenants that the file does not name."""
    named = {wish.name for wish in team.tenants}
    return [Step(tenant["name"], "remove") for tenant in tenants if tenant["name"] not in named]


def _step(wish: Wish, tenant: dict[str, Any] | None, budgets: Budgets, currency: str) -> Step | None:
    """None if there is nothing to do."""
    now = NEW if tenant is None else tenant
    body: dict[str, Any] = {}
    changes: list[Change] = []
    for name, wanted in wish.settings.items():
        before = sorted(now[name]) if name == "uids" else now[name]
        if before != wanted:
            body[name] = wanted
            changes.append(Change(name, _shown(before), _shown(wanted)))
    for table, wanted_table, empty in (("limits", wish.limits, None), ("billing", wish.billing, "")):
        for name, wanted in (wanted_table or {}).items():
            if (before := now[table].get(name, empty)) != wanted:
                body.setdefault(table, {})[name] = wanted
                nothing = "default" if table == "limits" else NOTHING
                changes.append(Change(f"{table}.{name}", _shown(before, nothing), _shown(wanted, nothing)))
    wanted_budgets = budgets if wish.budgets is None else wish.budgets
    changes += _budget_changes(budgets, wanted_budgets, currency)
    if tenant is not None and not changes:
        return None
    freed_slots = _slots(now["limits"]) - _slots({**now["limits"], **body.get("limits", {})})
    kind: Literal["add", "change"] = "add" if tenant is None else "change"
    return Step(wish.name, kind, changes, body, list(_budget_bodies(budgets, wanted_budgets)), freed_slots)


def _slots(limits: dict[str, Any]) -> int:
    found = limits.get("reserved_slots")
    return found if isinstance(found, int) else 0


def _budget_changes(before: Budgets, after: Budgets, currency: str) -> Iterator[Change]:
    for which in [*before, *(each for each in after if each not in before)]:
        if before.get(which) != after.get(which):
            unit = which[1]
            yield Change(
                f"budgets.{name_of(*which)}",
                _shown_budget(before.get(which), unit, currency),
                _shown_budget(after.get(which), unit, currency),
            )


def _budget_bodies(before: Budgets, after: Budgets) -> Iterator[dict[str, Any]]:
    """One request for all that are removed, and one for those that warn alike."""
    gone = [which for which in before if which not in after]
    if gone:
        yield {"budgets": [{"period": period, "unit": unit, "amount": None} for period, unit in gone]}
    alike: defaultdict[tuple[int, ...], list[dict[str, Any]]] = defaultdict(list)
    for (period, unit), (amount, warn) in after.items():
        if before.get((period, unit)) != (amount, warn):
            alike[warn].append({"period": period, "unit": unit, "amount": amount})
    for warn, amounts in alike.items():
        yield {"budgets": amounts, "warn": list(warn)}


def _shown_budget(budget: tuple[int, tuple[int, ...]] | None, unit: str, currency: str) -> str:
    if budget is None:
        return "none"
    amount, warn = budget
    warns = f"warns at {', '.join(f'{level}%' for level in warn)}" if warn else "without warnings"
    return with_unit(unit, amount, currency).strip() + ("" if warn == USUAL_WARN else f" ({warns})")


def _shown(value: Any, empty: str = NOTHING) -> str:
    if value is None or value == "" or value == []:
        return empty
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value).replace("\n", ", ")
