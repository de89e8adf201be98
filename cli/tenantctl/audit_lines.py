"""Entries of the audit trail as lines for people. `--json` has everything."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from tenantctl.units import moment
from tenantd.printable import one_line

COLUMNS: Final = ["number>", "time", "event", "tenant", "what"]
MOST_COLUMNS: Final = 80
LEAST_FOR_WHAT: Final = 16
TAIL_CHARACTERS: Final = 8
_BETWEEN: Final = 2 * (len(COLUMNS) - 1)
_USUAL_WIDTHS: Final = (7, 19, 14, 10)
"""Of lines that are printed one by one, before it is known what comes."""


def rows(entries: Iterable[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A table of `COLUMNS` that fits MOST_COLUMNS, unless a tenant's name is long."""
    cells = [(*_fixed(entry), what(entry)) for entry in entries]
    widths = [max([len(name.rstrip(">")), *(len(row[i]) for row in cells)]) for i, name in enumerate(COLUMNS[:-1])]
    room = max(LEAST_FOR_WHAT, MOST_COLUMNS - sum(widths) - _BETWEEN)
    return [(*row[:-1], _cut(row[-1], room)) for row in cells]


def line(entry: dict[str, Any]) -> str:
    """One entry, for a table that is never complete."""
    number, *others = _fixed(entry)
    width, *widths = _USUAL_WIDTHS
    start = "  ".join([number.rjust(width), *(cell.ljust(w) for cell, w in zip(others, widths, strict=True))])
    return f"{start}  {_cut(what(entry), max(LEAST_FOR_WHAT, MOST_COLUMNS - len(start) - 2))}".rstrip()


def what(entry: dict[str, Any]) -> str:
    """The most important of an entry's detail; requests by the end of their ids."""
    detail = entry["detail"]
    describe = _DESCRIBED.get(entry["event"], _plain)
    try:
        said = describe(detail)
    except (KeyError, TypeError, AttributeError):  # somebody has edited it, or an earlier version wrote it
        said = _plain(detail)
    tail = entry["request_id"][-TAIL_CHARACTERS:] if entry["request_id"] else ""
    return one_line(" ".join(filter(None, (tail, said))))


def _fixed(entry: dict[str, Any]) -> tuple[str, str, str, str]:
    tenant = entry["tenant"] or ("unknown" if entry["event"] == "refused" else "-")
    return str(entry["number"]), moment(entry["at_micros"]), entry["event"], tenant


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _entered(detail: dict[str, Any]) -> str:
    return f"{detail['prompt_tokens']} tokens by {_who(detail)}"


def _response(detail: dict[str, Any]) -> str:
    cause = f" ({detail['cause']})" if detail["cause"] else ""
    return f"{detail['state']}{cause}, {detail['completion_tokens']} tokens"


def _resources(detail: dict[str, Any]) -> str:
    sequence = detail.get("sequence")
    return " ".join(filter(None, ("" if sequence is None else f"sequence {sequence}", detail["adapter"])))


def _refused(detail: dict[str, Any]) -> str:
    return f"{detail['count']} × {detail['cause']}"


def _administered(detail: dict[str, Any]) -> str:
    changed = ", ".join(detail["after"]) if detail.get("before") and detail.get("after") else ""
    return f"{detail['action']} by {_who(detail['by'])}" + (f": {changed}" if changed else "")


def _engine_started(detail: dict[str, Any]) -> str:
    return f"pid {detail['pid']}, {detail['slots']} slots"


def _engine_lost(detail: dict[str, Any]) -> str:
    return f"{detail['reason']}, {detail['live']} requests live"


def _who(by: dict[str, Any]) -> str:
    if by.get("part"):
        return f"the {by['part']}"
    if by.get("key_id"):
        return str(by["key_id"])
    return "the system" if by.get("uid") is None else f"uid {by['uid']}"


def _anomaly_found(detail: dict[str, Any]) -> str:
    return f"{detail['action']}: " + ", ".join(one["signal"] for one in detail["deviations"])


def _binding_broken(detail: dict[str, Any]) -> str:
    return f"found in the {detail['breach']}, stopped; the engine is restarted"


def _plain(detail: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in detail.items() if isinstance(value, str | int | float))


_DESCRIBED: Final = {
    "entered": _entered,
    "response": _response,
    "resources": _resources,
    "refused": _refused,
    "administered": _administered,
    "engine_started": _engine_started,
    "engine_lost": _engine_lost,
    "anomaly_found": _anomaly_found,
    "binding_broken": _binding_broken,
}
