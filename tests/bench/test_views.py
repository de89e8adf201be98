"""Plots and the live view of records made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from tenantctl.bench.display import _Lines, _Rates, _table, next_to_newcomer, notes, quantile, seconds
from tenantctl.bench.figures import Quantile
from tenantctl.bench.load import Progress
from tenantctl.bench.measurement import Measurement, Plan
from tenantctl.bench.observed import Outcome, Tally
from tenantctl.bench.plot import new_figure, service_panel, ttft_panel, write_png
from tenantctl.bench.suites import SUITES
from tests.bench.kit import measurement, record, suite

MADE = measurement(
    {
        "quiet": [record(1, [(1.1, 1), (1.2, 1)]), record(3, [(3.1, 2)])],
        "noisy": [record(0, [(4.0, 5)]), record(1, outcome=Outcome.CUT, done_s=5), record(2, outcome=Outcome.REFUSED)],
    },
    5.0,
)


def test_a_png_is_written(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", MADE)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_without_requests_can_be_plotted(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", measurement({"a": []}, 5.0))
    assert (tmp_path / "a.png").stat().st_size > 0


def test_service_ends_where_the_figures_do() -> None:
    axes = new_figure(4, 3).subplots()
    service_panel(axes, MADE)
    assert [line.get_ydata()[-1] for line in axes.get_lines()] == [28, 20]


def test_requests_without_an_answer_are_plotted_as_such() -> None:
    axes = new_figure(4, 3).subplots()
    ttft_panel(axes, MADE)
    points = [collection.get_offsets().tolist() for collection in axes.collections]
    assert points[2:] == [[[0, 4]], [[1, 4]]]
    assert "none before" in axes.get_ylabel()


def progress(now_s: float, *, tokens: int = 0) -> Progress:
    tally = Tally(output_tokens=tokens)
    tally.outcomes[Outcome.WAITING] = 7
    return Progress(Plan(suite({"a": 1, "b": 1}), 20), {"a": tally, "b": Tally()}, lambda: now_s)


def test_a_pipe_gets_a_line_every_five_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    lines = _Lines()
    for now_s in (0, 4.9, 5.1, 5.3, 9.9, 10.2, 0.1, 5.0):  # the last two of another run
        lines.show(progress(now_s, tokens=10))
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said] == ["5 of 20 s", "10 of 20 s", "5 of 20 s"]
    assert "a 7 waiting, 0 running, 0 done, 100% of the service" in said[0]


def test_a_terminal_gets_a_table() -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        rates = _Rates()
        _table(progress(1.0, tokens=10), rates)
        console.print(_table(progress(2.0, tokens=40), rates))
    text = console.export_text()
    assert "made-up: 18 s to go" in text
    assert [word for word in text.splitlines()[2].split() if not word.startswith("█")] == (
        ["a", "7", "0", "0", "0", "0", "-", "30", "100%"]
    )


def test_figures_read_well() -> None:
    assert [seconds(s) for s in (None, 0.0123, 0.5, 1.234, 27.61)] == ["-", "12.3 ms", "500 ms", "1.23 s", "27.6 s"]
    assert quantile(Quantile(2, at_least=True)) == "≥2.00 s"


def test_notes_say_what_a_reader_must_know() -> None:
    short = record(0, [(1, 1)])
    short.max_tokens = 2
    failed = record(0, outcome=Outcome.FAILED)
    failed.message = "HTTP 400: no"
    made = measurement({"a": [short, failed, record(0, outcome=Outcome.CUT, done_s=5)]}, 5)
    made.interrupted = True
    said = "\n".join(notes(made))
    for part in (
        "ended early",
        "1 requests: HTTP 400: no",
        "1 requests were cut off at the end",
        "1 answers were shorter",
        "≥",
    ):
        assert part in said


def test_the_waits_since_the_newcomer_came_are_told_of_all_others() -> None:
    newcomer = SUITES["newcomer"]
    records = {"first": [record(1, [(9, 1)]), record(5.1, [(5.35, 1)])], "newcomer": [record(5, [(8, 1)])]}
    run = Measurement(Plan(newcomer, 10.0), "somewhere", records, 10.0)
    assert list(next_to_newcomer(run)) == ["first's first token after newcomer arrived: p50 250 ms, p99 250 ms"]
    before = Measurement(Plan(newcomer, 10.0), "somewhere", {name: [] for name in records}, 2.0, interrupted=True)
    assert list(next_to_newcomer(before)) == []
    assert list(next_to_newcomer(MADE)) == []
