"""How `pytest -n` runs these tests: several at a time, but those marked `alone` after the others and one at a time."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import LONGEST

CONFTEST = Path(__file__).with_name("conftest.py")
HEAD = """
import threading, time
from pathlib import Path
import pytest

def log(line):
    with Path("log").open("a") as file:
        file.write(line + "\\n")

def long(name):
    log(name + " begins")
    threading.Event().wait(0.3)
    log(name + " ends")

def meet(own, other):
    Path(own).touch()
    until_s = time.monotonic() + 200
    while not Path(other).exists():
        assert time.monotonic() < until_s, "the other test did not run meanwhile"
        threading.Event().wait(0.01)
    long(own)
"""
ALONE = "\n@pytest.mark.alone"
FILES = {
    "test_a": f"{ALONE}\ndef test_1(): long('a1')\n\ndef test_2(): log('a2')\n",
    "test_b": f"{ALONE}\ndef test_1(): long('b1')\n",
    "test_c": "\ndef test_1(): meet('c', 'd')\n",
    "test_d": "\ndef test_1(): meet('d', 'c')\n",
}
ARGUMENTS = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "-p", "no:cacheprovider")


def test_tests_run_beside_each_other_except_those_marked_alone(tmp_path: Path) -> None:
    shutil.copy(CONFTEST, tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  alone: nothing else runs\n")
    for name, text in FILES.items():
        (tmp_path / f"{name}.py").write_text(HEAD + text)
    command = [sys.executable, "-m", "pytest", *ARGUMENTS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=850, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"=+ 5 passed in .*=+$", done.stdout.strip()), "pytest's closing line"
    lines = (tmp_path / "log").read_text().splitlines()
    assert {line[0] for line in lines[:4]} == {"c", "d"}, lines
    for name in ("a1", "b1"):
        began = lines.index(f"{name} begins")
        assert began >= 4 and lines[began + 1] == f"{name} ends", lines


def test_the_files_that_begin_first_are_there() -> None:
    assert not [name for name in LONGEST if not (CONFTEST.parent / name).is_file()]
