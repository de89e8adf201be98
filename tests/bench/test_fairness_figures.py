"""What benchmarks/fairness.py works out, on records with known answers."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from tenantctl.bench.measurement import Measurement, Plan
from tenantctl.bench.observed import Outcome, Record
from tenantctl.bench.suites import SUITES
from tests.bench.kit import record

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("fairness_figures")


def run(suite: str, length_s: float = 10.0, **records: list[Record]) -> Measurement:
    by_tenant = {t.name: records.get(t.name.replace("-", "_"), []) for t in SUITES[suite].tenants}
    return Measurement(Plan(SUITES[suite], length_s), "somewhere", by_tenant, length_s)


def waits(*ttft_s: float) -> list[Record]:
    return [record(2, [(2 + wait, 1)], prompt_tokens=8) for wait in ttft_s]


def served(*amounts: tuple[float, int]) -> list[Record]:
    """So much service at these times."""
    return [record(at_s, [(at_s, units // 2)], prompt_tokens=0) for at_s, units in amounts]


def table(figures: Any, *rounds: dict[str, list[Measurement]]) -> dict[tuple[str, str], Any]:
    by_suite = [{name: {m.plan.suite.name: m for m in runs} for name, runs in each.items()} for each in rounds]
    return {(line.suite, line.what): line for line in figures.lines(by_suite, list(rounds[0]))}


def test_a_noisy_neighbour_is_compared_to_solo_and_to_itself(figures: Any) -> None:
    alone = run("flood-alone", 20.0, noisy=served((5, 2040)))  # as much in every second
    both = run("flood", quiet=waits(0.12, 0.12), noisy=served((5, 900)))
    lines = table(figures, {"tenantd": [run("solo", quiet=waits(0.1, 0.1)), both, alone]})
    ratio = lines["flood", "quiet's first token, p50, to solo"]
    assert ratio.medians["tenantd"].number == pytest.approx(1.2)
    assert ratio.met is True
    kept = lines["flood", "noisy's service, to alone less quiet's"]
    assert kept.medians["tenantd"].number == pytest.approx(900 / (1020 - 20))
    assert kept.met is False
    assert lines["flood", "refused or failed"].met is True
    assert ("long-prompts", "refused or failed") not in lines


def test_waits_count_from_the_newcomers_arrival_on(figures: Any) -> None:
    first = [record(1, [(9, 1)]), record(5.1, [(5.2, 1)]), record(7, [(7.3, 1)])]
    lines = table(figures, {"tenantd": [run("solo", quiet=waits(0.2, 0.2)), run("newcomer", first=first)]})
    assert lines["newcomer", "first's first token since then, p50"].medians["tenantd"].number == pytest.approx(0.1)
    ratio = lines["newcomer", "first's first token since then, p99, to solo"]
    assert ratio.medians["tenantd"].number == pytest.approx(1.5)
    assert ratio.met is True


def test_a_wait_without_end_is_not_taken_for_a_known_one(figures: Any) -> None:
    stuck = [record(2, outcome=Outcome.CUT, done_s=10)]
    lines = table(figures, {"tenantd": [run("solo", quiet=waits(0.1)), run("flood", quiet=stuck)]})
    line = lines["flood", "quiet's first token, p50, to solo"]
    assert line.medians["tenantd"].at_least
    assert line.met is False
    assert "≥ 80.00 ×" in figures.markdown([line], ["tenantd"])


def test_medians_are_of_the_rounds(figures: Any) -> None:
    rounds = [{"tenantd": [run("overload", six=served((5, 100)), twelve=served((5, n)))]} for n in (102, 150, 104)]
    line = table(figures, *rounds)["overload", "service apart"]
    assert [v.number for v in line.rounds["tenantd"]] == pytest.approx([0.02, 0.5, 0.04])
    assert line.medians["tenantd"].number == pytest.approx(0.04)
    assert (line.target, line.met) == ("≤ 3.0%", False)


def test_shares_are_compared_to_weights(figures: Any) -> None:
    parts = {"weight_1": served((5, 100)), "weight_2": served((5, 200)), "weight_4": served((5, 400))}
    [line] = table(figures, {"tenantd": [run("weighted", **parts)]}).values()
    assert line.medians["tenantd"].number == pytest.approx(0)
    parts["weight_1"] = served((5, 200))
    [line] = table(figures, {"tenantd": [run("weighted", **parts)]}).values()
    assert line.medians["tenantd"].number == pytest.approx(0.75)


def test_on_and_off_are_looked_at_apart(figures: Any) -> None:
    steady = served((1, 40), (3, 100), (6, 50), (8, 100))
    lines = table(figures, {"tenantd": [run("on-off", steady=steady, burst=served((2, 60), (7, 50)))]})
    share = lines["on-off", "steady's least share while both are on"]
    assert share.medians["tenantd"].number == pytest.approx(0.4)
    assert share.met is False
    off = lines["on-off", "output tokens/s while one is off, to both on"]
    assert off.medians["tenantd"].number == pytest.approx(1.0)
    assert off.met is True


def test_speed_is_compared_to_llama_server_and_gaps_to_fifo(figures: Any) -> None:
    def gap(service: int) -> Measurement:
        waiting = [record(0, outcome=Outcome.CUT, done_s=10)]
        return run("vtc-overload", tenant_1=waiting, tenant_2=[*waiting, *served((5, service))])

    lines = table(
        figures,
        {
            "tenantd": [run("peak", peak=served((5, 990))), gap(100)],
            "fifo": [run("peak", peak=served((5, 1000))), gap(400)],
            "llama-server": [run("peak", peak=served((5, 1000)))],
        },
    )
    speed = lines["peak", "output tokens/s, to llama-server"]
    assert speed.medians["tenantd"].number == pytest.approx(0.99)
    assert speed.met is False
    ratio = lines["vtc-overload", "largest gap, to fifo"]
    assert ratio.medians["tenantd"].number == pytest.approx(0.25)
    assert list(ratio.medians) == ["tenantd"]
    text = figures.markdown(list(lines.values()), ["tenantd", "fifo", "llama-server"])
    assert "| peak | output tokens/s, to llama-server | ≥ 1.00 × | 0.99 × | 1.00 × |  | **missed** |" in text
    assert {line.count("|") for line in text.splitlines()} == {8}
