"""Times as people type them."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta

import pytest
import typer

from tenantctl.times import bound, moment_of


def micros(*numbers: int, tz: object = None) -> int:
    return round(datetime(*numbers, tzinfo=tz).timestamp() * 1_000_000)  # type: ignore[misc, arg-type]


def test_a_date_and_a_time_are_local_unless_they_name_a_zone() -> None:
    assert moment_of("2026-11-29") == micros(2026, 11, 29)
    assert moment_of("2026-11-29 14:30") == moment_of("2026-11-29T14:30:00") == micros(2026, 11, 29, 14, 30)
    assert moment_of("2026-11-29T14:30Z") == moment_of("2026-11-29T15:30+01:00") == micros(2026, 11, 29, 14, 30, tz=UTC)
    assert moment_of("1960-01-01") == 0, "nothing was before 1970"


@pytest.mark.parametrize(("text", "ago", "at"), [("today", 0, ""), ("yesterday", 1, ""), ("14:30", 0, " 14:30")])
def test_words_and_times_without_a_date_are_of_today_and_yesterday(text: str, ago: int, at: str) -> None:
    days = [date.today()]
    found = moment_of(text)
    days.append(date.today())  # another one if it was midnight in between
    assert found in [moment_of((day - timedelta(days=ago)).isoformat() + at) for day in days]


def test_words_are_left_to_the_daemon_where_the_billing_time_zone_counts_and_a_time_needs_a_date() -> None:
    assert bound("today") == "today" and bound("yesterday") == "yesterday"
    with pytest.raises(typer.BadParameter, match="needs a date"):
        bound("14:30")


@pytest.mark.parametrize(
    ("text", "ago_s"), [("30s", 30), ("45m", 2700), ("2h", 7200), ("7d", 604_800), ("1w", 604_800)]
)
def test_a_duration_is_that_long_ago(text: str, ago_s: int) -> None:
    assert abs(moment_of(text) - (time.time() - ago_s) * 1e6) < 10e6


@pytest.mark.parametrize(
    "text", ["", "tomorrow", "Yesterday", "2026-02-31", "2026-13-01", "29.11.2026", "-1h", "2h ago", "1_0h", "٣h"]
)
def test_anything_else_is_refused_with_what_would_do(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="must be a time such as 2026-11-29"):
        moment_of(text)


def test_ages_before_1970_are_the_beginning() -> None:
    assert moment_of("999999999w") == 0
