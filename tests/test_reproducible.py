"""What the tests with Hypothesis try is the same in every run, whatever ran before; at night it is something else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).with_name("conftest.py")
TEST = """
import sys
from hypothesis import given, strategies as st
import other
from tests.support.examples import examples

FOUND = []

@examples(50)
@given(st.integers(), st.text())
def test_something(number, text):
    FOUND.append(f"{number} {text!a}")

def test_what_was_tried():
    for line in FOUND:
        print("tried", line)
"""


def tried(folder: Path, other: str, **environment: str) -> list[str]:
    """By a test that is run beside other code."""
    folder.mkdir()
    (folder / "conftest.py").write_text(CONFTEST.read_text())
    (folder / "other.py").write_text(other)
    (folder / "test_it.py").write_text(TEST)
    clean = {name: value for name, value in os.environ.items() if name != "TENANTD_EXAMPLES"}
    command = [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider", "-p", "no:schemathesis"]
    done = subprocess.run(
        command, cwd=folder, env={**clean, **environment}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout
    return [line for line in done.stdout.splitlines() if "tried " in line]


def test_the_examples_are_the_same_whatever_code_there_is_but_at_night_many_more_and_others(tmp_path: Path) -> None:
    constants = "\n".join(f"A{n} = {n * 7919}, 'word {n}'" for n in range(20, 320))
    usual = tried(tmp_path / "1", "")
    assert len(usual) == 50
    assert tried(tmp_path / "2", constants, PYTHONHASHSEED="7") == usual
    at_night = tried(tmp_path / "3", "", TENANTD_EXAMPLES="3")
    assert len(at_night) == 150
    assert at_night[:50] != usual
