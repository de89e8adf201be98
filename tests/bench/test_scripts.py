"""Benchmarks on a tiny model, for their form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny_gguf import write_tiny_gguf

ROOT = Path(__file__).parent.parent.parent


def run(tmp_path: Path, script: str, *arguments: object) -> tuple[str, dict[str, Any]]:
    """What it prints, and its figures."""
    command = [sys.executable, f"benchmarks/{script}.py", *arguments, "--json", tmp_path / "x.json"]
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=850, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads((tmp_path / "x.json").read_text())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_gguf(tmp_path / "tiny.gguf")


def test_a_profile_tells_where_a_step_spends_its_time(tmp_path: Path, model: Path) -> None:
    table, content = run(tmp_path, "step_profile", "--model", model, "--sequences", "1,3", "--output", 900)
    assert "| llama_decode |" in table
    for count, profile in content["profiles"].items():
        engine, daemon = profile["engine"], profile["daemon"]
        assert profile["steps"] >= 20, f"steps with all {count} streams"
        for part in ("plans", "fills and checks the batch", "llama_decode", "samples", "books", "encodes the frame"):
            assert engine[part] >= 0, part
        assert engine["llama_decode"] > 0 and engine["plans"] > 0
        assert engine["outside llama_decode"] < engine["the whole step"]
        parts = ("decodes the frame", "books", "makes text", "makes events", "writes to clients")
        # a part that takes no longer than it takes to measure it comes to 0
        assert all(daemon[part] >= 0 for part in parts) and sum(daemon[part] for part in parts) > 0


def test_mixed_conversations_are_compared_on_all_servers(tmp_path: Path, model: Path) -> None:
    plot = tmp_path / "x.png"
    table, content = run(
        tmp_path, "mixed", "--model", model, "--minutes", 0.02, "--conversations", 6, "--scale", 0.1, "--plot", plot
    )
    assert [*content["figures"]] == ["tenantd", "tenantd, fifo"] and "| output tokens/s |" in table
    for figures in content["figures"].values():
        assert figures["failures"] == 0 and figures["answers"] >= 6 and figures["hits"] > 0
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_memory_is_watched_over_many_requests(tmp_path: Path) -> None:
    limits = ("--most-growth", 1, "--least-used", 0.7)  # so early, memory still grows, and one prefix is a large part
    _, content = run(tmp_path, "footprint", "--requests", 500, "--cache-bytes", 1 << 17, *limits)
    assert 0.7 <= content["last"] <= content["most"] <= 1
    assert len(content["rows"]) >= 10 and content["rows"][-1]["requests"] == 500


def test_waits_are_judged_without_a_model_and_with_one(tmp_path: Path, model: Path) -> None:
    _, content = run(tmp_path, "waits", "--duration", 12, "--seeds", 1, "--only", "overload")
    assert content["results"]["all"]["told"] > 50
    only = ("--duration", 1, "--only", "tokens-per-minute")
    table, content = run(tmp_path, "waits", "--model", model, *only)
    assert "inside" in table and content["model"] == model.name
