"""Tenants as a file: what is written reads back, mistakes are told with their line, and differences are right."""

from __future__ import annotations

from typing import Any

import pytest

from tenantctl.team_difference import Step, difference, removals
from tenantctl.team_file import TeamFile, team_text
from tenantd.errors import InvalidRequest
from tenantd.limits import LIMITS


def tenant(name: str, **settings: Any) -> dict[str, Any]:
    """As the admin API tells it."""
    limits = {**dict.fromkeys(LIMITS), **settings.pop("limits", {})}
    billing = dict.fromkeys(("name", "address", "email", "tax_id", "reference"), "") | settings.pop("billing", {})
    usual = {"weight": 1.0, "priority": "standard", "uids": [], "adapter": "", "unbilled": False}
    usual |= {"allow_special": False, "on_anomaly": "log", "cache": "default"}
    return {"name": name, **usual, **settings, "limits": limits, "billing": billing, "secret": "td_x"}


def budget(name: str, period: str, unit: str, amount: int, warn: tuple[int, ...] = (80, 100)) -> dict[str, Any]:
    return {"tenant": name, "key_id": None, "period": period, "unit": unit, "amount": amount, "warn": list(warn)}


TENANTS = [
    tenant(
        "acme",
        weight=2.5,
        priority="high",
        uids=[1002, 1001],
        limits={"max_queued": 20, "requests_per_minute": "none", "on_limit": "queue", "reserved_slots": 2},
        billing={"name": 'Acme "Ltd"', "address": "1 High St\nLondon"},
    ),
    tenant("globex"),
]
BUDGETS = [
    budget("acme", "monthly", "money", 100_500_000_000),
    budget("acme", "daily", "tokens", 2_000_000, (50,)),
    budget("acme", "weekly", "engine", 1_500_000, ()),
    {**budget("acme", "daily", "money", 1), "key_id": "key_1"},
]


def steps(text: str) -> list[Step]:
    return difference(TeamFile(text, "team.toml"), TENANTS, BUDGETS)


def test_what_is_written_changes_nothing_when_it_is_read() -> None:
    text = team_text(TENANTS, BUDGETS, "USD")
    assert steps(text) == []
    assert removals(TeamFile(text, "f"), TENANTS) == []
    assert "td_x" not in text and "key_1" not in text
    assert "monthly = 100.50\n" in text
    lines = text.splitlines()
    assert lines[0].startswith("# ") and "[tenants.acme.budgets.daily-tokens]" in lines


def test_each_difference_is_a_change_and_a_request() -> None:
    [step] = steps(
        "[tenants.acme]\nweight = 3\nuids = [1001]\n[tenants.acme.limits]\nmax_queued = 20\nreserved_slots = 0\n"
        "[tenants.acme.budgets]\nmonthly = 100.5\ndaily-tokens = '3M'\n"
    )
    assert step.kind == "change"
    assert step.body == {
        "weight": 3.0,
        "uids": [1001],
        "limits": {"requests_per_minute": None, "reserved_slots": 0, "on_limit": None},
    }
    assert step.budgets == [
        {"budgets": [{"period": "weekly", "unit": "engine", "amount": None}]},
        {"budgets": [{"period": "daily", "unit": "tokens", "amount": 3_000_000}], "warn": [80, 100]},
    ]
    shown = {change.name: f"{change.before} → {change.after}" for change in step.changes}
    assert shown == {
        "weight": "2.5 → 3",
        "uids": "1001,1002 → 1001",
        "limits.requests_per_minute": "none → default",
        "limits.reserved_slots": "2 → 0",
        "limits.on_limit": "queue → default",
        "budgets.daily-tokens": "2000000 tokens (warns at 50%) → 3000000 tokens",
        "budgets.weekly-engine-seconds": "1.5 s (without warnings) → none",
    }


def test_slots_are_freed_before_they_are_reserved_again() -> None:
    text = "[tenants.{}.limits]\nreserved_slots = {}\n"
    found = steps(text.format("globex", 2) + text.format("new", 0) + text.format("acme", 0))
    assert [(step.tenant, step.kind) for step in found] == [("acme", "change"), ("new", "add"), ("globex", "change")]


def test_only_pruning_removes_who_is_not_named() -> None:
    assert steps("[tenants.acme]\n") == []
    assert removals(TeamFile("[tenants.acme]\n", "f"), TENANTS) == [Step("globex", "remove")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tenants.acme\n", "f: not valid TOML: Expected ']' at the end of a table declaration (at line 1, column 14)"),
        ("\n[tenant.acme]\n", "f, line 2: tenant is unknown; choose from currency, tenants"),
        ("\n[tenants.Acme]\n", "f, line 2: tenants.Acme must be 1–63 characters"),
        ("[tenants]\nacme = 3\n", "f, line 2: tenants.acme must be a table (got 3)"),
        ("[tenants.acme]\n# x\n wieght = 3\n", "f, line 3: tenants.acme.wieght is unknown; choose from weight, uids"),
        (
            "[tenants.acme]\nweight = '3'\n",
            "f, line 2: tenants.acme.weight must be a number from 1e-06 to 1000000 (got '3')",
        ),
        (
            f"[tenants.acme]\nweight = 1{'0' * 400}\n",
            "line 2: tenants.acme.weight must be a number from 1e-06 to 1000000",
        ),
        ("[tenants.acme]\nweight = nan\n", "line 2: tenants.acme.weight must be a number from 1e-06 to 1000000"),
        ("[tenants.acme]\nuids = [true]\n", "line 2: tenants.acme.uids must be a list of user ids"),
        ("[tenants.acme]\npriority = 'urgent'\n", 'priority must be "high" or "standard" or "low" (got \'urgent\')'),
        ("[tenants.acme]\nadapter = 'a.gguf'\n", "adapter must be an absolute path, or empty (got 'a.gguf')"),
        ("[tenants.acme]\nunbilled = 1\n", "unbilled must be true or false (got 1)"),
        ("[tenants.a]\n[tenants.b.limits]\nmax_queued = -1\n", "line 3: tenants.b.limits.max_queued must be a whole"),
        ("[tenants.b]\nlimits.on_limit = 1\n", 'line 2: tenants.b.limits.on_limit must be one of "reject", "queue"'),
        ("[tenants.b]\nlimits = { max_quued = 1 }\n", "line 2: tenants.b.limits.max_quued is unknown"),
        ("[tenants.b.budgets]\nmonthly = -1\n", "line 2: tenants.b.budgets.monthly must be a number such as 12.50"),
        ("[tenants.b.budgets]\nmonthly = true\n", "line 2: tenants.b.budgets.monthly must be a number (got true)"),
        ("[tenants.b.budgets.daily]\nwarn = [3]\n", "line 1: tenants.b.budgets.daily needs an amount"),
        ("[tenants.b.budgets.daily]\namount = 1\nwarn = [0]\n", "line 3: tenants.b.budgets.daily.warn must be a list"),
        (f"[tenants.b.budgets]\ndaily-tokens = 0x{'f' * 5000}\n", "line 2: tenants.b.budgets.daily-tokens must be"),
        (f"x = {'[' * 5000}\n", "f: not valid TOML"),
        (f"[tenants.a]\nuids = [0x{'f' * 5000}]\n", "line 2: tenants.a.uids must be a list of user ids"),
        (f"[tenants.a]\nweight = 1e{'9' * 30}\n", "f: not valid TOML: cannot read the number"),
        (f"x = '''\n{' ' * 50_000}\n[{' ' * 50_000}\n[a = {{}} # ]\n'''\ny = 1\n", "line 1: x is unknown"),
    ],
)
def test_mistakes_are_told_with_their_line(text: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        TeamFile(text, "f")
    assert said in caught.value.message and "\n" not in caught.value.message
