"""`tenantctl top` in front of a daemon, on a terminal and without one."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.top.terminal import USUAL_SCREEN, TopTerminal
from tests.support.daemon import Daemon, wait_until
from tests.support.program import tenantctl

LONG = {"max_tokens": 90_000, "ignore_eos": True}


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, str]]:
    """A daemon, and the key of acme, three of whose requests run or wait."""
    folder: Path = tmp_path_factory.mktemp("top")
    engine = {"slots": 2, "context_tokens": 100_000, "fake_step_micros": 5000}
    with Daemon(folder, engine=engine) as daemon:
        key = daemon.add_tenant("acme", limits={"max_concurrent": 2})
        daemon.add_tenant("globex", weight=2)
        assert daemon.complete("globex", max_tokens=3, ignore_eos=True).status_code == 200
        _fill(daemon)
        yield daemon, key


@pytest.fixture
def daemon(busy: tuple[Daemon, str], monkeypatch: pytest.MonkeyPatch) -> Daemon:
    monkeypatch.setenv("TENANTD_SOCKET", str(busy[0].socket))
    monkeypatch.setenv("TERM", "xterm-256color")
    return busy[0]


def _fill(daemon: Daemon) -> None:
    for number in range(3):
        daemon.stream("acme", f"prompt {number}", **LONG)
    wait_until(lambda: daemon.status()["running"] == 2 and daemon.status()["waiting"] == 1, "two to run, one to wait")


def live(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.get("/admin/v1/live").json()
    return found


def test_without_a_terminal_it_looks_once(daemon: Daemon, busy: tuple[Daemon, str]) -> None:
    done = tenantctl(daemon, "top", "--interval", "0.5")
    assert (done.returncode, done.stderr) == (0, "")
    header, acme, globex = done.stdout.splitlines()[-3:]
    assert header.split()[:5] == ["tenant", "running", "paused", "queued", "tok/s"]
    assert acme.split()[:4] == ["acme", "2", "0", "1"] and float(acme.split()[4]) > 0
    assert acme.split()[6:8] == ["100%", "100%"] and "limit: 2 at once" in acme
    assert globex.split()[:4] == ["globex", "0", "0", "0"]
    told = json.loads(tenantctl(daemon, "top", "--json", "--interval", "0.5").stdout)
    found = {tenant["name"]: tenant for tenant in told["tenants"]}
    assert (found["acme"]["share"], found["acme"]["entitled"], found["globex"]["entitled"]) == (1.0, 1.0, None)
    assert found["acme"]["slow_because"][0]["code"] == "concurrent" and told["busy"] > 0 and told["step_ms"] > 0
    assert [each["tenant"] for each in told["ended"]] == ["globex"] and len(told["requests"]) == 3

    own = json.loads(tenantctl(daemon, "top", "--json", "--interval", "0.5", TENANTD_API_KEY=busy[1]).stdout)
    assert [tenant["name"] for tenant in own["tenants"]] == ["acme"] and "engine" not in own
    assert own["tenants"][0]["output_tokens_per_s"] > 0 and own["tenants"][0]["share"] is None


def test_a_person_sorts_filters_opens_cancels_and_suspends(daemon: Daemon) -> None:
    with TopTerminal("--interval", "0.2") as terminal:
        lines = terminal.has_words("acme", "globex", "100/100%", "sort: tok/s", "limit: 2 at once")
        assert len(lines) == 24 and max(map(len, lines)) <= 80
        terminal.type("s")
        terminal.has_words("sort: share")
        terminal.type("r")
        terminal.frame(lambda f: _place(f, "globex") < _place(f, "acme"), "globex before acme")
        terminal.type("/ac\r")
        terminal.frame(lambda f: "filter: ac" in f[-1] and not any(x.startswith("globex") for x in f), "acme alone")
        terminal.type("\r")
        terminal.has_words("weight 1, priority standard", "running", "waiting", "max concurrent 2 of 2")
        terminal.type("c")
        terminal.has_words("Cancel request", "y/n")
        terminal.type("n")
        terminal.has_words("Esc back")
        assert len(live(daemon)["requests"]) == 3
        terminal.type("\x1b[Bcy")
        terminal.has_words("cancelled request")
        wait_until(lambda: len(live(daemon)["requests"]) == 2, "one request to be cancelled")
        terminal.type("Sy")
        terminal.has_words("suspended acme", "new requests are refused")
        assert daemon.get("/admin/v1/tenants/acme").json()["tenant"]["state"] == "suspended"
        terminal.type("Sy")
        terminal.has_words("resumed acme")
        terminal.type("\x1b")
        terminal.has_words("filter: ac", "share/entitled")
        terminal.resize(120, 40)
        assert len(terminal.has_words("1st p50", "budget")) == 40
        terminal.type("?")
        terminal.has_words("Who is using the engine now", "any key: back")
        terminal.type("xq")
        terminal.wait_for("left with 0")
        assert terminal.is_as_before()


def _place(lines: list[str], name: str) -> int:
    """The line of a tenant; far below if there is none."""
    return next((at for at, line in enumerate(lines) if line.startswith(name)), 1000)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_signals_give_the_terminal_back(number: signal.Signals, status: int, daemon: Daemon) -> None:
    with TopTerminal("--interval", "0.2") as terminal:
        terminal.has_words("acme")
        terminal.signal(number)
        terminal.wait_for(f"left with {status}")
        assert terminal.is_as_before() and "Traceback" not in terminal.text


def test_it_stops_and_goes_on_and_survives_the_daemon(daemon: Daemon) -> None:
    with TopTerminal("--interval", "0.2") as terminal:
        terminal.has_words("acme")
        terminal.type("\x1a")
        terminal.wait_for("left with 148")
        assert terminal.is_as_before()
        terminal.type("\n")
        terminal.has_words("acme", "every 0.2 s")
        daemon.kill()
        terminal.has_words("no answer since", "trying again")
        daemon.start()
        terminal.has_words("every 0.2 s", "acme")
        _fill(daemon)
        terminal.has_words("100/100%")
        terminal.type("q")
        terminal.wait_for("left with 0")
        assert terminal.text.count(USUAL_SCREEN) == 1 and terminal.is_as_before()


def test_a_daemon_that_does_not_run_is_an_error_at_the_start(tmp_path: Path) -> None:
    done = tenantctl(tmp_path / "nothing", "top")
    assert done.returncode == 69 and done.stderr.startswith("tenantctl: ")
