"""What a neighbour notices of an attack: its p99 while it lasts, divided by its p99 alone.

    python benchmarks/attacks.py [--rounds 3] [--only WORDS] [--json FILE]

Runs the attacks of tests/attacks, each against a daemon of its own. The neighbour is a tenant that sends one small
request after the other; it is measured alone and under attack in turn, as long each time. Medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import machine

ROOT = Path(__file__).parent.parent
MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="attacks whose test matches, as pytest's -k")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    arguments = parser.parse_args()
    attacks: dict[str, list[dict[str, Any]]] = {}
    for _ in range(arguments.rounds):
        for line in one_round(arguments.only):
            attacks.setdefault(line["attack"].split("::")[-1], []).append(figures(line))
    print(f"{'attack':78} {'alone':>9} {'attacked':>9} {'ratio':>6} {'longest':>8} {'memory':>8}")
    results = {name: _median(rounds) for name, rounds in attacks.items()}
    for name, result in results.items():
        print(
            f"{name[:78]:78} {result['alone_p99_ms']:6.0f} ms {result['attacked_p99_ms']:6.0f} ms "
            f"{result['ratio']:6.2f} {result['longest_ms']:5.0f} ms {result['more_mib']:4.0f} MiB"
        )
    if arguments.json:
        everything = {"machine": machine(), "medians": results, "rounds": attacks}
        arguments.json.write_text(json.dumps(everything, indent=2) + "\n")


def one_round(only: str) -> list[dict[str, Any]]:
    """Every attack once. An attack whose test fails is measured all the same."""
    with tempfile.TemporaryDirectory(prefix="tenantd-attacks-") as folder:
        file = Path(folder) / "lines"
        command = [sys.executable, "-m", "pytest", "-q", "tests/attacks", "-p", "no:cacheprovider"]
        subprocess.run(
            [*command, *(["-k", only] if only else [])],
            cwd=ROOT,
            env={**os.environ, "TENANTD_ATTACKS": str(file)},
            check=False,
        )
        return [json.loads(line) for line in file.read_text().splitlines()]


def figures(line: dict[str, Any]) -> dict[str, float]:
    """Of one attack, in milliseconds and MiB."""
    alone, attacked = p99(line["alone_s"]), p99(line["attacked_s"])
    return {
        "alone_p99_ms": alone * 1000,
        "attacked_p99_ms": attacked * 1000,
        "ratio": attacked / alone,
        "longest_ms": max(line["attacked_s"]) * 1000,
        "requests": len(line["attacked_s"]),
        "refused": sum(status != 200 for status in line["statuses"]),
        "more_mib": max(line["more_bytes"].values()) / MIB,
    }


def p99(values: list[float]) -> float:
    """Nearest rank: a value that was measured."""
    return sorted(values)[-(-len(values) * 99 // 100) - 1]


def _median(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}


if __name__ == "__main__":
    main()
