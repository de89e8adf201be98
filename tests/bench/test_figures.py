from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantctl.bench.figures import (
    Curve,
    Quantile,
    backlogged,
    inter_token_s,
    largest_gap,
    output_tokens,
    overlap,
    ttft_quantile,
)
from tenantctl.bench.observed import Outcome
from tests.bench.kit import measurement, record

# ---- waiting -----------------------------------------------------------------------------------------------------


def test_quantiles_of_answered_requests_are_waits_that_happened() -> None:
    records = [record(0, [(t, 1)]) for t in (0.4, 0.1, 0.3, 0.2)]
    assert ttft_quantile(records, 0.5, 9) == Quantile(0.2)
    assert ttft_quantile(records, 0.99, 9) == Quantile(0.4)
    assert ttft_quantile([], 0.5, 9) is None


def test_requests_that_never_got_an_answer_make_the_wait_longer() -> None:
    quick = [record(0, [(0.1, 1)])]
    stuck = [record(0, outcome=Outcome.CUT, done_s=5.0) for _ in range(3)]
    assert ttft_quantile(quick + stuck, 0.25, 5) == Quantile(0.1)
    assert ttft_quantile(quick + stuck, 0.5, 5) == Quantile(5.0, at_least=True)


def test_a_request_of_the_last_moment_does_not_make_it_shorter() -> None:
    slow = [record(0, [(2.0, 1)]) for _ in range(3)]
    late = [record(9.99, outcome=Outcome.CUT, done_s=10.0) for _ in range(20)]
    assert ttft_quantile(slow + late, 0.5, 10) == Quantile(2.0)


def test_refused_and_failed_requests_have_no_wait() -> None:
    records = [record(0, [(0.3, 1)]), record(0, outcome=Outcome.REFUSED), record(0, outcome=Outcome.FAILED)]
    assert ttft_quantile(records, 0.99, 9) == Quantile(0.3)


def test_a_request_that_still_waits_counts_until_the_end() -> None:
    assert ttft_quantile([record(1, outcome=Outcome.WAITING)], 0.5, 4) == Quantile(3.0, at_least=True)


def test_tokens_of_one_write_are_0_apart() -> None:
    assert inter_token_s([record(0, [(1.0, 2), (1.5, 1)]), record(0, [(3.0, 1)])]).tolist() == [0.0, 0.5]


# ---- service -----------------------------------------------------------------------------------------------------


def test_input_counts_once_with_the_first_token_and_output_twice() -> None:
    curve = Curve([record(0, [(1.0, 1), (2.0, 3)], prompt_tokens=10)])
    assert curve.at([0.9, 1.0, 1.9, 2.0, 9.0]).tolist() == [0, 12, 12, 18, 18]
    assert curve.between((1.0, 2.0)) == 6


def test_tokens_without_text_count_when_the_server_has_told_of_them() -> None:
    curve = Curve([record(0, [(1.0, 2)], done_s=3.0, output_tokens=5)])
    assert curve.at([2.9, 3.0]).tolist() == [14, 20]
    assert output_tokens([record(0, [(1.0, 2)], done_s=3.0, output_tokens=5)], (0, 3)) == 5


def test_what_a_cut_request_got_counts() -> None:
    cut = record(0, [(1.0, 4)], Outcome.CUT, done_s=2.0)
    assert cut.output_tokens == 4
    assert Curve([cut]).at([5.0]).tolist() == [18]
    assert Curve([record(0, outcome=Outcome.CUT, done_s=2.0)]).at([5.0]).tolist() == [0]


def test_rates_and_shares_leave_out_the_warm_up() -> None:
    made = measurement({"a": [record(0, [(0.5, 50), (5.0, 9)])], "b": [record(0, [(6.0, 4)], prompt_tokens=2)]}, 10)
    a, b = made.figures["a"], made.figures["b"]
    assert (a.service, b.service) == (18, 10)
    assert a.share == pytest.approx(18 / 28)
    assert a.output_tokens_per_s == 1.0
    assert made.service_per_s == pytest.approx(28 / 9)
    assert made.output_tokens_per_s == pytest.approx(13 / 9)


def test_outcomes_and_short_answers_are_counted() -> None:
    short = record(0, [(1.0, 5)])
    short.max_tokens = 6
    kinds = [Outcome.DONE, Outcome.REFUSED, Outcome.REFUSED, Outcome.FAILED, Outcome.CUT]
    made = measurement({"a": [short, *(record(0, outcome=kind) for kind in kinds)]}, 10)
    f = made.figures["a"]
    assert (f.requests, f.done, f.refused, f.failed, f.cut, f.short) == (6, 2, 2, 1, 1, 1)


# ---- how far apart -----------------------------------------------------------------------------------------------


def test_backlogged_is_from_sending_to_the_first_token_without_overlap() -> None:
    records = [
        record(5, [(6, 1)]),
        record(0, [(2, 1), (4, 1)]),
        record(1, [(3, 1)]),
        record(7, outcome=Outcome.REFUSED, done_s=7.5),
        record(8, outcome=Outcome.WAITING),
    ]
    assert backlogged(records, 9) == [(0, 3), (5, 6), (7, 7.5), (8, 9)]


SPANS = st.lists(st.integers(0, 60), max_size=12, unique=True).map(
    lambda edges: list(zip(sorted(edges)[::2], sorted(edges)[1::2], strict=False))
)


@given(SPANS, SPANS)
def test_the_overlap_is_where_both_are(ours: list[tuple[float, float]], theirs: list[tuple[float, float]]) -> None:
    def covers(spans: list[tuple[float, float]], moment: float) -> bool:
        return any(begin <= moment < end for begin, end in spans)

    both = overlap(ours, theirs)
    for moment in (i + 0.5 for i in range(60)):
        assert covers(both, moment) == (covers(ours, moment) and covers(theirs, moment))


def test_the_gap_is_what_one_was_served_while_the_other_waited() -> None:
    hungry = [record(0, outcome=Outcome.CUT, done_s=10)]
    fed = [record(0, outcome=Outcome.CUT, done_s=10), record(0, [(2, 1), (4, 10)], prompt_tokens=10)]
    gap = largest_gap({"hungry": (1, hungry), "fed": (1, fed)}, 10)
    assert gap.service == 10 + 2 + 20
    assert (gap.of, gap.from_s, gap.to_s) == (("hungry", "fed"), 0, 4)


def test_service_is_divided_by_the_weight() -> None:
    waits = record(0, outcome=Outcome.CUT, done_s=10)
    heavy = [waits, record(0, [(2, 20)], prompt_tokens=0)]
    light = [waits, record(0, [(2, 10)], prompt_tokens=0)]
    assert largest_gap({"heavy": (2, heavy), "light": (1, light)}, 10).service == 0
    assert largest_gap({"heavy": (1, heavy), "light": (1, light)}, 10).service == 20


def test_a_lead_from_before_both_waited_is_no_gap() -> None:
    early = [record(0, [(1, 100)]), record(5, outcome=Outcome.CUT, done_s=10)]
    late = [record(5, outcome=Outcome.CUT, done_s=10)]
    gap = largest_gap({"early": (1, early), "late": (1, late)}, 10)
    assert (gap.service, gap.of) == (0, ())


def test_a_gap_that_is_made_up_for_was_there() -> None:
    waits = record(0, outcome=Outcome.CUT, done_s=10)
    first = [waits, record(0, [(2, 10)], prompt_tokens=0)]
    second = [waits, record(0, [(4, 25)], prompt_tokens=0)]
    gap = largest_gap({"first": (1, first), "second": (1, second)}, 10)
    assert gap.service == 50  # from 20 ahead to 30 behind
    assert (gap.from_s, gap.to_s) == (2, 4)
