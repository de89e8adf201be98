"""Entries of the audit trail as lines for people."""

from __future__ import annotations

from typing import Any

import pytest

from tenantctl.audit_lines import changes, line, rows, what


def entry(event: str, detail: dict[str, Any], **columns: Any) -> dict[str, Any]:
    usual = {"number": 7, "at_micros": 1_795_000_000_000_000, "tenant": "acme", "tenant_id": 1, "request_id": None}
    return {**usual, **columns, "event": event, "detail": detail}


def administered(by: dict[str, Any], before: Any, after: Any, **more: Any) -> dict[str, Any]:
    detail = {"action": "tenant_changed", "by": by, "before": before, "after": after, **more}
    return entry("administered", detail)


def test_a_change_is_told_with_its_fields_from_what_to_what_by_whom() -> None:
    before = {"limits": {"requests_per_minute": 60, "max_queued": 5}, "uids": [], "unbilled": False}
    after = {"limits": {"requests_per_minute": 30, "max_queued": 5}, "uids": [7, 8], "unbilled": True}
    changed = administered({"uid": 0, "pid": 1, "key_id": None}, before, after)
    told = "requests_per_minute 60 → 30, uids none → 7,8, unbilled no → yes"
    assert what(changed) == f"tenant_changed: {told}, by uid 0"
    changed["detail"]["by"]["key_id"] = "key_QxBq"
    assert what(changed, {"key_QxBq": "deploy"}.__getitem__) == f"tenant_changed: {told}, by key_QxBq (deploy)"
    assert what(changed, lambda key_id: "").endswith(", by key_QxBq")


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (None, {"weight": 1.0}, []),
        ({"weight": 1.0}, None, []),
        ({}, {}, []),
        ({"limits": {}}, {"limits": {"max_queued": 9}}, ["max_queued none → 9"]),
        ({"limits": {"max_queued": 9}}, {"limits": {}}, ["max_queued 9 → none"]),
        ({"adapter": ""}, {"adapter": "x" * 300}, [f"adapter none → {'x' * 199}…"]),
    ],
)
def test_only_fields_that_differ_are_told(before: Any, after: Any, told: list[str]) -> None:
    assert changes(before, after) == told


def test_what_is_added_is_told_without_its_fields_and_a_key_by_its_id() -> None:
    created = administered({"uid": 0}, None, {"label": "x"}, action="key_created", key_id="key_1")
    assert what(created) == "key_created key_1 by uid 0"


def test_refusals_name_who_was_refused() -> None:
    refused = {"cause": "bad_request", "count": 2, "keys": ["key_1"], "uids": [0, 7]}
    assert what(entry("refused", refused)) == "2 × bad_request by key_1, uid 0, uid 7"
    assert what(entry("refused", {"cause": "bad_request", "count": 2})) == "2 × bad_request"


def test_a_request_that_entered_tells_whether_it_was_flex() -> None:
    entered = {"prompt_tokens": 12, "uid": 1000, "pid": 7, "key_id": None}
    assert what(entry("entered", entered)) == "12 tokens by uid 1000"
    assert what(entry("entered", {**entered, "is_flex": False})) == "12 tokens by uid 1000"
    assert what(entry("entered", {**entered, "is_flex": True})) == "12 tokens by uid 1000, flex"


LONG = administered({"uid": 0}, {"adapter": "a" * 20}, {"adapter": " ".join(["b" * 20] * 3)})


def test_nothing_is_cut_in_a_pipe() -> None:
    assert rows([LONG])[0][-1] == what(LONG) and line(LONG).endswith(what(LONG)) and "\n" not in line(LONG)


def test_a_line_on_a_terminal_is_wrapped_under_its_last_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    first, *others = line(LONG).splitlines()
    start = first.index("tenant_changed")
    assert others and max(map(len, [first, *others])) <= 80
    assert all(other[:start].strip() == "" and other[start] != " " for other in others)
    words = " ".join([first[start:], *(other.strip() for other in others)])
    assert words == what(LONG)
    monkeypatch.setenv("COLUMNS", "40")
    assert "\n" not in line(LONG)
