"""What benchmarks/evidence.py makes of its runs, and a run of all of it on a tiny model, for its form."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tenantctl.bench.measurement import Measurement, Plan
from tenantctl.bench.observed import Record
from tenantctl.bench.suites import SUITES
from tests.bench.kit import record
from tests.support.tiny_gguf import write_tiny_gguf

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("evidence_figures")


def run(suite: str, **records: list[Record]) -> Measurement:
    return Measurement(Plan(SUITES[suite], 10.0), "somewhere", records, 10.0)


def runs(alone_s: float, flooded_s: float, six: int, twelve: int) -> dict[str, list[Measurement]]:
    """Two rounds in which every request waits as long, and tokens arrive in the middle."""

    def waits(wait_s: float) -> list[Record]:
        return [record(2, [(2 + wait_s, 1)], prompt_tokens=8) for _ in range(5)]

    def served(tokens: int) -> list[Record]:
        return [record(5, [(5, tokens)], prompt_tokens=0)]

    return {
        "solo": [run("solo", quiet=waits(alone_s))] * 2,
        "flood": [run("flood", quiet=waits(flooded_s), noisy=served(100))] * 2,
        "overload": [run("overload", six=served(six), twelve=served(twelve))] * 2,
    }


def test_a_ratio_of_rounds_has_students_interval_of_its_logarithms(figures: Any) -> None:
    estimate = figures.of_rounds([0.5, 2.0])
    assert estimate.value == pytest.approx(1.0)
    assert estimate.low == pytest.approx(1 / estimate.high) and estimate.high > 1000, "two rounds tell little"
    assert figures.of_rounds([0.9]) == figures.Estimate(0.9)
    same = figures.of_rounds([1.1] * 5)
    assert (same.low, same.high) == (pytest.approx(1.1), pytest.approx(1.1))


def test_a_ratio_of_waits_has_an_interval_that_narrows_with_their_number(figures: Any) -> None:
    few = figures.of_waits([1.0, 1.2, 1.4], [1.0, 1.1, 1.2], 0.5)
    many = figures.of_waits([1.0, 1.2, 1.4] * 40, [1.0, 1.1, 1.2] * 40, 0.5)
    assert few.value == many.value == pytest.approx(1.2 / 1.1)
    assert few.low <= many.low <= many.value <= many.high <= few.high
    assert many.high - many.low < few.high - few.low
    assert figures.quantile([3.0, 1.0, 2.0], 0.5) == 2.0 and figures.quantile([3.0, 1.0, 2.0], 0.99) == 3.0


def test_the_page_says_what_is_met_and_what_is_missed(figures: Any) -> None:
    ours, theirs = runs(0.1, 0.11, 50, 51), runs(0.1, 8.0, 50, 100)
    work = importlib.import_module("chats").Work
    chats = {"tenantd": [work(2.0, 0.1, 100, 80, 9)] * 2, "llama-server": [work(1.0, 0.2, 100, 90, 9)] * 2}
    table = {row.what: row for row in figures.rows(ours, theirs, chats)}
    flooded = table["tenantd: quiet's first token next to a flood ÷ alone, p50"]
    assert (flooded.estimate.value, flooded.met, flooded.aim) == (pytest.approx(1.1), True, "≤ 1.15")
    theirs_flooded = table["llama-server: quiet's first token next to a flood ÷ alone, p50"]
    assert (theirs_flooded.estimate.value, theirs_flooded.met) == (pytest.approx(80), None)
    assert table["tenantd: service of 12 clients ÷ of 6 clients, equal weights"].met is True
    assert table["llama-server: service of 12 clients ÷ of 6 clients, equal weights"].estimate.value == 2
    speed = table["overload, service per second: tenantd ÷ llama-server"]
    assert (speed.estimate.value, speed.met) == (pytest.approx(101 / 150), False)
    total = table["growing chats, total time: tenantd ÷ llama-server"]
    assert (total.estimate.value, total.met, total.detail) == (2.0, False, "80% and 90% of prompt tokens cached")
    page = figures.page(
        {"model": "x"}, table.values(), [("tokens lost", "3", False), ("bill", "right", True), ("t", "?", None)]
    )
    assert (
        "| tokens lost | 3 | **no** |" in page and "| bill | right | yes |" in page and "| t | ? | not shown |" in page
    )
    assert "| overload, service per second: tenantd ÷ llama-server | 0.67 (0.67–0.67) | ≥ 1.00 | **no** |" in page
    assert [row.what for row in figures.rows(ours, None, {})] == list(table)[:3]


def test_all_of_it_runs_on_a_tiny_model_and_writes_a_page(tmp_path: Path) -> None:
    """Beside llama-server if LLAMA_SERVER names one."""
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    command = [sys.executable, "benchmarks/evidence.py", "--model", model, "--rounds", "1", "--run-s", "2"]
    command += [
        "--chat-scale",
        "0.1",
        "--slots",
        "2",
        "--page",
        tmp_path / "deep" / "page.md",
        "--json",
        tmp_path / "x.json",
    ]
    if server := os.environ.get("LLAMA_SERVER"):
        command += ["--llama-server", server]
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=850, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "deep" / "page.md").read_text() == done.stdout
    content = json.loads((tmp_path / "x.json").read_text())
    held = {promise["what"]: promise["held"] for promise in content["promises"]}
    assert len(held) == 10 and False not in held.values()
    assert all(held[what] for what in held if what != "isolation: timing"), "which a busy machine may hide"
    assert len(content["figures"]) == (11 if server else 3)
    assert {run["target"] for run in content["runs"]} == {"tenantd", *(["llama-server"] if server else [])}
