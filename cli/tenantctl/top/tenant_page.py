"""The page of one tenant: what it gets, what slows it down, its limits, budgets and requests; and the help. Pure."""

from __future__ import annotations

import textwrap
from typing import Any, Final

from rich.text import Text

from tenantctl.budget_table import label as budget_name
from tenantctl.budget_table import percent as used_percent
from tenantctl.queue_table import wait_of
from tenantctl.render import SHORT_ID_DIGITS
from tenantctl.standing import amount
from tenantctl.top.choices import Choices
from tenantctl.top.columns import Column, Grid, window
from tenantctl.top.live_rows import Row, View, limits_of, recent
from tenantctl.top.painting import COUNTED, DOT, ended_cells, per_second
from tenantctl.top.samples import Ended
from tenantctl.top.slow_reasons import ordinal
from tenantctl.units import count, lasting
from tenantd.printable import one_line

LABEL_CELLS: Final = 10
NO_BREAK: Final = "\u00a0"
MOST_REASONS: Final = 4
LEAST_REQUESTS: Final = 6
"""Lines that are left to the requests, whatever there is to say of the tenant."""
_REQUESTS: Final = [
    Column("request", 8, is_right=False),
    Column("state", 12, is_right=False),
    Column("prompt", 11),
    Column("output", 11),
    Column("1st", 7),
    Column("time", 7),
    Column("", 16, is_right=False, grows=True),
]
HELP: Final = """\
Who is using the engine now, and what slows each tenant down.

↑ ↓ j k   select         PgUp PgDn Home End  move further
Enter     open a tenant  Esc                 go back
s         sort by the next column            r  reverse the order
/         show only tenants with what you type in their names
c         cancel the selected request, on the page of its tenant; asks first
S         suspend the tenant or let it resume; asks first
space     stop or resume updates             Ctrl-Z  suspend top; fg resumes
?         this page                          q  quit

run, paus, queue  requests with a slot; paused for other tenants; waiting
tok/s, in/s       tokens generated, prompt tokens computed, in the last seconds
share/entitled    share of the service in the last seconds, and the share (┃)
                  due by weight, among tenants with work
1st p50, p99      time to the first token, of requests of the last 5 minutes
limit, budget     how much is used of the fullest limit or budget
slow because      the main reason; Enter shows all"""


def help_page(height: int) -> list[Text]:
    """What the keys and columns are."""
    return [Text(each) for each in HELP.splitlines()[:height]]


def tenant_page(view: View, row: Row | None, choices: Choices, width: int, height: int) -> list[Text]:
    """All that is known of a tenant, in at most `height` lines."""
    if row is None:
        return [Text(f"tenant {one_line(choices.tenant or '', 63)} no longer exists; Esc goes back", "yellow")]
    lines = [_title(row), *_labelled("service", _served(row), width)]
    for number, reason in enumerate(row.why[:MOST_REASONS]):
        lines += _labelled("" if number else "slow", [reason.whole], width, "red" if reason.is_grave else "yellow")
    if not row.why:
        lines += _labelled("slow", ["nothing slows it down"], width, "dim")
    lines += _labelled("limits", _limits(row.told) or ["none"], width)
    lines += _labelled("budgets", _budgets(row.told) or ["none"], width)
    lines = lines[: max(1, height - LEAST_REQUESTS)]
    requests = [each for each in view.sample.requests if each["tenant"] == row.name]
    room = height - len(lines) - 2
    return [*lines, Text(""), *_request_table(requests, recent(view.sample, row.name), choices, width, room)]


def _title(row: Row) -> Text:
    told = row.told
    title = Text.assemble((one_line(row.name), "bold"), f"  {told['state']}")
    if "weight" in told:
        title.append(f"  weight {told['weight']:g}, priority {told['priority']}")
        if told["full_weight"] != told["weight"]:
            title.append(f" (together {told['full_weight']:g})")
    if told.get("adapter"):
        title.append(f"  adapter {one_line(told['adapter'])}")
    return title


def _served(row: Row) -> list[str]:
    told = row.told
    parts = [", ".join(f"{told[state]} {word}" for state, word in COUNTED.items())]
    parts.append(f"{per_second(row.output_per_s)} tok/s out, {per_second(row.input_per_s)} in")
    if row.entitled is not None or row.share:
        entitled = "" if row.entitled is None else f", entitled to {row.entitled:.0%}"
        parts.append(f"{row.share or 0:.0%} of the service{entitled}")
    if row.first_p50_micros is not None:
        parts.append(f"first token p50 {lasting(row.first_p50_micros)}, p99 {lasting(row.first_p99_micros)}")
    tokens = f"{count(told['prompt_tokens'])} tokens in, {count(told['completion_tokens'])} out"
    parts.append(f"since the daemon started {tokens}, {lasting(told['engine_micros'])} of engine time")
    return parts


def _limits(told: dict[str, Any]) -> list[str]:
    uses = limits_of(told)
    parts = [f"{use.what} {use.used:,} of {use.allowed:,}" for use in uses]
    shown = {use.what for use in uses}
    for name, value in told["limits"].items():
        words = name.replace("_", " ")
        if value is not None and words not in shown and isinstance(value, int):
            parts.append(f"{words} {value:,}")
    return parts


def _budgets(told: dict[str, Any]) -> list[str]:
    parts = []
    for one in told["budgets"]:
        unit, cap = one["unit"], one["amount"] + one["topped_up"]
        whose = f" ({one['key_id']})" if one["key_id"] else ""
        amounts = f"{amount(one['used'], unit)} of {amount(cap, unit)} used ({used_percent(one['used'], cap)}%)"
        parts.append(f"{budget_name(one, 'money')}{whose}: {amounts}")
    return parts


def _labelled(label: str, parts: list[str], width: int, style: str = "") -> list[Text]:
    """The parts beside a label, in lines that end between parts, or between words of one that is longer than a line."""
    room = max(20, width - LABEL_CELLS)
    kept = [part if len(part) > room - len(DOT) else part.replace(" ", NO_BREAK) for part in map(one_line, parts)]
    wrapped = textwrap.wrap(DOT.replace(" ", NO_BREAK, 1).join(kept), room, break_on_hyphens=False) or [""]
    wrapped = [line.replace(NO_BREAK, " ") for line in wrapped]
    labels = [label, *[""] * (len(wrapped) - 1)]
    return [
        Text.assemble((f"{name:<{LABEL_CELLS}}", "cyan"), (text, style))
        for name, text in zip(labels, wrapped, strict=True)
    ]


def _request_table(
    live: list[dict[str, Any]], ended: list[Ended], choices: Choices, width: int, most: int
) -> list[Text]:
    """Its requests that are live, of which one is selected, and then those that have ended."""
    grid = Grid(_REQUESTS, width)
    lines = [grid.head()]
    for at in window([each["id"] for each in live], choices.request, most):
        text = grid.row(_live_cells(live[at]))
        if live[at]["id"] == choices.request:
            text.stylize("reverse")
        lines.append(text)
    for each in ended[: max(0, most - len(live))]:
        text = grid.row(ended_cells(each))
        text.stylize("dim")
        lines.append(text)
    if len(lines) == 1:
        lines.append(Text("no requests in the last five minutes", "dim"))
    return lines


def _live_cells(each: dict[str, Any]) -> list[Text | str]:
    done, whole = each["prompt_tokens"] + each["cached_tokens"], each["prompt_length_tokens"]
    state = "computing" if each["state"] == "waiting" and each["has_slot"] else each["state"]
    note = ""
    if each["position"] is not None and not each["has_slot"]:
        note = f"{ordinal(each['position'])}, {wait_of(each)}"
    return [
        each["id"][-SHORT_ID_DIGITS:],
        Text(state, {"running": "green", "paused": "yellow"}.get(state, "")),
        count(whole) if done >= whole else f"{count(done)}/{count(whole)}",
        f"{count(each['completion_tokens'])}/{count(each['max_tokens'])}",
        lasting(each["first_token_micros"]),
        lasting(each["age_ms"] * 1000),
        note,
    ]
