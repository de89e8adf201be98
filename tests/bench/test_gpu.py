"""benchmarks/gpu.py on a tiny model, for its form, and what it does with parts that fail."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.tiny_gguf import write_tiny_gguf

ROOT = Path(__file__).parent.parent.parent
LITTLE = {
    "sequences": "1,3", "prompt": 16, "output": 24, "depth": 32, "swapped": "16,40", "rounds": 1, "run-s": 2,
    "chat-scale": 0.05, "set": "threads=1",
}  # fmt: skip


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("gpu")


def setup(script: ModuleType) -> Any:
    return script.Setup(Path("none.gguf"), (1, 2), 8, 8, 8, (8,), 1, 1.0, 1.0, {})


def run(tmp_path: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """The command on a tiny model, and its JSON."""
    model = write_tiny_gguf(tmp_path / "tiny.gguf", heads=2)  # 32 values a head, as many as a block of q8_0
    command = [sys.executable, "benchmarks/gpu.py", "--model", model, "--json", tmp_path / "deep" / "x.json"]
    command += ["--page", tmp_path / "page.md", "--set", "gpu_layers=0"]
    command += [f"--{name}={value}" for name, value in LITTLE.items()] + [*arguments]
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=850, check=False)
    assert (tmp_path / "page.md").read_text() == done.stdout, done.stderr
    return done, json.loads((tmp_path / "deep" / "x.json").read_text())


def test_every_part_measures_something_on_a_tiny_model(tmp_path: Path, script: ModuleType) -> None:
    done, content = run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {name: part["figures"] for name, part in content["parts"].items()}
    assert list(found) == list(script.PARTS)
    assert found["devices"]["device"] == "CPU" and content["about"]["tenantd"]
    assert found["start"]["engine"]["slots"] == 3 and len(found["start"]["ready_s"]) == 1
    memory = found["memory"]
    assert (
        memory["needed"] == sum(memory["plan"][name] for name in ("weights", "kv", "compute")) and memory["taken"] > 0
    )
    assert {buffer["what"] for buffer in memory["buffers"]} >= {"KV", "compute"}
    for name in ("raw", "served"):
        assert set(found[name]["tokens_per_s"]) == {"1", "3"} and min(found[name]["tokens_per_s"].values()) > 0
    assert set(content["ratios"]) == {"1", "3"}
    for figures in found["outside"].values():
        assert figures["passes"] >= 10 and 0 < figures["outside_ms"] < figures["pass_ms"]
    assert found["flood"]["noisy_keeps"] > 0 and found["flood"]["p50"]["alone_s"] > 0
    cached = {turn["target"]: turn["cached_tokens"] for turn in found["chats"]["runs"]}
    assert cached["cache on"] > 0 == cached["cache off"]
    assert min(found["streams"][kv]["tokens_per_s"] for kv in ("streams", "unified")) > 0
    assert min(found["types"][kind]["tokens_per_s"] for kind in ("f16", "q8_0", "q4_0")) > 0
    swapped = found["swap"]
    assert swapped["40"]["size_bytes"] > swapped["16"]["size_bytes"] > 0 and swapped["40"]["recompute_ms"] > 0
    sampling = found["sampling"]
    assert sampling["greedy_is_the_same"] and sampling["host_ms"] > 0 < sampling["device_ms"]
    assert 0 < sampling["last_token_expected"] < sampling["draws"]
    assert "Aim: at least 0.95 with 3 at once" in done.stdout


def test_a_part_that_fails_loses_no_other(tmp_path: Path) -> None:
    """Sequences longer than the model was trained for fail; the parts around them run."""
    done, content = run(tmp_path, "--only", "types,swap,devices", "--swapped=4096")
    assert done.returncode == 1
    assert list(content["parts"]) == ["devices", "swap", "types"], "in the order of the page"
    assert "trained for" in content["parts"]["swap"]["failed"] and "**failed**: ModelError" in done.stdout
    assert content["parts"]["types"]["figures"]["f16"]["tokens_per_s"] > 0


def test_a_part_that_dies_or_hangs_is_told(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("gpu_engine"), "swap", lambda _: os.kill(os.getpid(), signal.SIGKILL))
    monkeypatch.setattr(importlib.import_module("gpu_raw"), "types", lambda _: signal.pause())
    died = script.run_part("swap", setup(script), 60)
    assert died["failed"] == "its process ended with SIGKILL"
    hung = script.run_part("types", setup(script), 0.2)
    assert hung["failed"] == "took longer than 0.2 s"


def test_the_page_compares_with_the_raw_loop(script: ModuleType) -> None:
    def results(rate: float) -> dict[str, Any]:
        speeds = {"served": {1: 90.0, 64: rate}, "raw": {1: 100.0, 64: 1000.0}}
        return {name: {"took_s": 1, "lines": [], "figures": {"tokens_per_s": of}} for name, of in speeds.items()}

    assert script.compared(results(960)) == {1: 0.9, 64: 0.96}
    assert "Aim: at least 0.95 with 64 at once, met." in script.page({}, results(960))
    assert "Aim: at least 0.95 with 64 at once, **missed**." in script.page({}, results(940))
    assert script.compared({"raw": results(1)["raw"], "served": {"took_s": 1, "failed": "x"}}) == {}


def test_parts_are_chosen_by_name(script: ModuleType) -> None:
    assert script.parts("served,raw") == ["raw", "served"]
    with pytest.raises(argparse.ArgumentTypeError, match="no part speed; choose from devices, start, memory, raw"):
        script.parts("raw,speed")
