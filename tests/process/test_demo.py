"""`tenantctl demo` on a model of 100 kB: its answers mean nothing, everything else is real."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.daemon import wait_until
from tests.support.tiny_gguf import write_tiny_gguf


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_gguf(path)
    return path


def demo(model: Path, folder: Path) -> subprocess.Popen[str]:
    """Run it; whatever it leaves behind is in `folder`."""
    return subprocess.Popen(
        [sys.executable, "-m", "tenantctl", "demo", "--model", str(model)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder), "TENANTD_SOCKET": "/nowhere/of-another"},
    )


def test_it_shows_answers_shares_and_an_invoice_that_adds_up(model: Path, tmp_path: Path) -> None:
    out, err = demo(model, tmp_path).communicate(timeout=600)
    assert err == ""
    assert "4 slots of 512 tokens" in out
    ids = re.findall(r"^(?:acme|globex) +(req_[0-9a-f]{32}) +\d+ +32 ", out, re.MULTILINE)
    assert len(set(ids)) == 16
    acme, globex = map(int, re.findall(r"acme (\d+)% \(weight 2\), globex (\d+)% \(weight 1\)", out)[0])
    assert 99 <= acme + globex <= 101
    assert "The 16 requests above add up to the invoice: USD 0." in out
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_nothing_behind(model: Path, tmp_path: Path) -> None:
    program = demo(model, tmp_path)
    children = wait_until(psutil.Process(program.pid).children, "its daemon")
    program.send_signal(signal.SIGINT)
    out, err = program.communicate(timeout=600)
    assert program.returncode == 130
    assert "Traceback" not in out + err
    left = [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert not psutil.wait_procs(left, timeout=120)[1], left
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_served_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    program = demo(tmp_path / "m.gguf", tmp_path)
    _, err = program.communicate(timeout=600)
    assert program.returncode == 1
    assert "m.gguf" in err and "Traceback" not in err
