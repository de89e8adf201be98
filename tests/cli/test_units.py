from __future__ import annotations

import pytest

from tenantctl.units import decimals, duration, energy, milliseconds, moment, money, period_in, size


@pytest.mark.parametrize(
    ("nanos", "text"),
    [
        (0, "0.00"),
        (123_000, "0.000123"),
        (1, "0.000000001"),
        (1_500_000_000, "1.50"),
        (9_000_000_000_000_001, "9000000.000000001"),
        (-1_250_000_000, "-1.25"),
        (2**63 - 1, "9223372036.854775807"),
    ],
)
def test_money_is_shown_exactly(nanos: int, text: str) -> None:
    assert money(nanos) == text


def test_a_column_of_money_has_the_places_its_finest_amount_needs() -> None:
    amounts = [1_000_000_000, 123_000, 0]
    places = decimals(amounts)
    assert [money(nanos, places) for nanos in amounts] == ["1.000000", "0.000123", "0.000000"]


def test_places_never_cut_digits_off() -> None:
    assert money(123_000, places=2) == "0.000123"


def test_a_period_is_told_in_its_time_zone_with_seconds_if_it_has_any() -> None:
    november = (1_793_487_600_000_000, 1_796_079_600_000_000)
    assert period_in(*november, "Europe/Berlin") == "2026-11-01 00:00 to 2026-12-01 00:00 Europe/Berlin"
    assert period_in(0, 1_000_000, "UTC") == "1970-01-01 00:00:00 to 1970-01-01 00:00:01 UTC"
    assert period_in(0, 2**62, "UTC") == f"0 to {2**62}"


def test_no_amounts_need_two_places() -> None:
    assert decimals([]) == 2


def test_what_was_not_measured_is_a_dash() -> None:
    assert milliseconds(None) == "-"
    assert milliseconds(1_250) == "1.2"


@pytest.mark.parametrize("micros", [2**63 - 1, -(2**63), 300_000_000_000 * 1_000_000])
def test_a_time_outside_the_calendar_is_shown_as_it_is(micros: int) -> None:
    assert moment(micros) == str(micros)


@pytest.mark.parametrize(("total_s", "text"), [(5, "5 s"), (119, "119 s"), (180, "3 min"), (7200, "2 h"), (2e5, "2 d")])
def test_durations_have_one_unit(total_s: float, text: str) -> None:
    assert duration(total_s) == text


def test_sizes_grow_into_gibibytes() -> None:
    assert size(180 * 2**20) == "180 MiB"
    assert size(3 * 2**29) == "1.50 GiB"


@pytest.mark.parametrize(
    ("millijoules", "text"),
    [
        (1, "0.0 J"),
        (4_200, "4.2 J"),
        (612_345, "612 J"),
        (3_600_000, "1.00 Wh"),
        (45_678_000, "12.7 Wh"),
        (3_600_000_000, "1.00 kWh"),
        (12_345_600_000_000, "3,429 kWh"),
    ],
)
def test_energy_is_shown_in_joules_or_as_on_the_bill(millijoules: int, text: str) -> None:
    assert energy(millijoules) == text
