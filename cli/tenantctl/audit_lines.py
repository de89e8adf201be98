"""Entries of the audit trail as lines for people. `--json` has everything."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable
from typing import Any, Final

from tenantctl.budget_options import name_of
from tenantctl.budget_table import plain
from tenantctl.render import SHORT_ID_DIGITS
from tenantctl.units import moment
from tenantd.printable import one_line

COLUMNS: Final = ["number>", "time", "event", "tenant", "what"]
LEAST_FOR_WHAT: Final = 16
"""With less room than this beside the other columns, a line is not wrapped under its last column."""
MOST_OF_A_VALUE: Final = 200
_USUAL_WIDTHS: Final = (7, 19, 14, 10)
"""Of lines that are printed one by one, before it is known what comes."""
LabelOf = Callable[[str], str]
"""What a key is for, by its id; "" if it has no label."""


def _no_label(key_id: str) -> str:
    return ""


def rows(entries: Iterable[dict[str, Any]], label_of: LabelOf = _no_label) -> list[tuple[str, ...]]:
    """A table of `COLUMNS`. Nothing is cut: a terminal folds the last column, and a pipe has no width."""
    return [(*_fixed(entry), what(entry, label_of)) for entry in entries]


def line(entry: dict[str, Any], label_of: LabelOf = _no_label) -> str:
    """One entry, for a table that is never complete; wrapped on a terminal, under its last column."""
    number, *others = _fixed(entry)
    width, *widths = _USUAL_WIDTHS
    start = "  ".join([number.rjust(width), *(cell.ljust(w) for cell, w in zip(others, widths, strict=True))]) + "  "
    text = start + what(entry, label_of)
    if not sys.stdout.isatty():
        return text.rstrip()
    columns = shutil.get_terminal_size().columns
    if columns - len(start) < LEAST_FOR_WHAT:
        return text.rstrip()
    wrapped = textwrap.wrap(text[len(start) :], columns - len(start)) or [""]
    return f"\n{' ' * len(start)}".join([start + wrapped[0], *wrapped[1:]]).rstrip()


def what(entry: dict[str, Any], label_of: LabelOf = _no_label) -> str:
    """The most important of an entry's detail; requests by the end of their ids."""
    detail = entry["detail"]
    try:
        if entry["event"] == "administered":
            said = _administered(detail, label_of)
        else:
            said = _DESCRIBED.get(entry["event"], _plain)(detail)
    except (KeyError, TypeError, AttributeError):  # somebody has edited it, or an earlier version wrote it
        said = _plain(detail)
    tail = entry["request_id"][-SHORT_ID_DIGITS:] if entry["request_id"] else ""
    return one_line(" ".join(filter(None, (tail, said))))


def _fixed(entry: dict[str, Any]) -> tuple[str, str, str, str]:
    tenant = entry["tenant"] or ("unknown" if entry["event"] == "refused" else "-")
    return str(entry["number"]), moment(entry["at_micros"]), entry["event"], tenant


def _entered(detail: dict[str, Any]) -> str:
    in_the_background = ", flex" if detail.get("is_flex") else ""  # older entries do not say
    return f"{detail['prompt_tokens']} tokens by {_who(detail)}{in_the_background}"


def _response(detail: dict[str, Any]) -> str:
    cause = f" ({detail['cause']})" if detail["cause"] else ""
    return f"{detail['state']}{cause}, {detail['completion_tokens']} tokens"


def _resources(detail: dict[str, Any]) -> str:
    sequence = detail.get("sequence")
    return " ".join(filter(None, ("" if sequence is None else f"sequence {sequence}", detail["adapter"])))


def _refused(detail: dict[str, Any]) -> str:
    by = [*detail.get("keys", ()), *(f"uid {uid}" for uid in detail.get("uids", ()))]
    return f"{detail['count']} × {detail['cause']}" + (f" by {', '.join(by)}" if by else "")


def _administered(detail: dict[str, Any], label_of: LabelOf) -> str:
    by = _who(detail["by"])
    if label := label_of(detail["by"].get("key_id") or ""):
        by += f" ({label})"
    before, after = detail.get("before"), detail.get("after")
    budget = ""
    if named := detail.get("budget"):
        budget = name_of(named["period"], named["unit"])
        before, after = (_amounts(named["unit"], shown or {}) for shown in (before, after))
    subject = " ".join(filter(None, (detail["action"], detail.get("key_id"), budget)))
    changed = changes(before, after)
    if reason := detail.get("reason"):
        by += f": {reason}"
    return f"{subject}: {', '.join(changed)}, by {by}" if changed else f"{subject} by {by}"


def _amounts(unit: str, shown: dict[str, Any]) -> dict[str, Any]:
    """What is shown of a budget, with amounts as people write them."""
    return {name: plain(unit, value) if isinstance(value, int) else value for name, value in shown.items()}


def changes(before: dict[str, Any] | None, after: dict[str, Any] | None) -> list[str]:
    """The fields that differ, as `name 60 → 30`; none if something was added or removed. Limits by their own names."""
    if before is None or after is None:
        return []
    old, new = _fields(before), _fields(after)
    names = [name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)]
    return [f"{name} {_value(name, old.get(name))} → {_value(name, new.get(name))}" for name in names]


def _fields(shown: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in shown.items():
        fields |= value if isinstance(value, dict) else {name: value}
    return fields


def _value(name: str, value: Any) -> str:
    if value is None or value in ([], ""):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and name.endswith("_micros") and "." not in name:
        return moment(value)
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= MOST_OF_A_VALUE else text[: MOST_OF_A_VALUE - 1] + "…"


def _engine_started(detail: dict[str, Any]) -> str:
    return f"pid {detail['pid']}, {detail['slots']} slots"


def _engine_lost(detail: dict[str, Any]) -> str:
    return f"{detail['reason']}, {detail['live']} requests live"


def _who(by: dict[str, Any]) -> str:
    if by.get("part"):
        return f"the {by['part']}"
    if by.get("key_id"):
        return f"{by['key_id']} from {by['address']}" if by.get("address") else str(by["key_id"])
    return "the system" if by.get("uid") is None else f"uid {by['uid']}"


def _anomaly_found(detail: dict[str, Any]) -> str:
    return f"{detail['action']}: " + ", ".join(one["signal"] for one in detail["deviations"])


def _binding_broken(detail: dict[str, Any]) -> str:
    return f"found in the {detail['breach']}, stopped; the engine is restarted"


def _budget_reached(detail: dict[str, Any]) -> str:
    whose = " ".join(filter(None, (detail["key_id"], name_of(detail["period"], detail["unit"]))))
    used, cap = (plain(detail["unit"], detail[name]) for name in ("used", "cap"))
    return f"{whose}: {detail['level']}% reached, {used} of {cap} used"


def _plain(detail: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in detail.items() if isinstance(value, str | int | float))


_DESCRIBED: Final = {
    "entered": _entered,
    "response": _response,
    "resources": _resources,
    "refused": _refused,
    "engine_started": _engine_started,
    "engine_lost": _engine_lost,
    "anomaly_found": _anomaly_found,
    "binding_broken": _binding_broken,
    "budget_reached": _budget_reached,
}
