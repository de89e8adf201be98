"""`tenantctl bench` as it is typed, on a real daemon with the engine that needs no model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tenantctl.bench import session
from tenantctl.bench.subjects import temporary_tenants
from tenantctl.bench.suites import SUITES
from tenantctl.client import Client
from tenantctl.main import app
from tests.support.daemon import Daemon, wait_until


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("bench"), engine={"fake_step_micros": 1000, "context_tokens": 512}) as daemon:
        yield daemon


def bench(*arguments: str, daemon: Daemon | None = None) -> Result:
    where = ["--socket", str(daemon.socket)] if daemon else []
    return CliRunner().invoke(app, [*where, "bench", *arguments], prog_name="tenantctl")


def measured(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def test_without_a_suite_they_are_listed() -> None:
    lines = bench().stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(SUITES)
    assert [suite["suite"] for suite in measured(bench("--json"))] == list(SUITES)  # type: ignore[index]


def test_a_flood_is_measured_and_plotted(daemon: Daemon, tmp_path: Path) -> None:
    png = tmp_path / "flood.png"
    content = measured(
        bench("flood", "--duration", "5", "--rate-scale", "4", "--json", "--png", str(png), daemon=daemon)
    )
    quiet, noisy = content["tenants"]
    assert (quiet["name"], noisy["name"]) == ("quiet", "noisy")
    assert quiet["done"] >= 2
    assert noisy["done"] > 0 and noisy["cut"] > 0
    assert quiet["failed"] == noisy["failed"] == quiet["refused"] == noisy["refused"] == quiet["short"] == 0
    assert quiet["share"] + noisy["share"] == pytest.approx(1)
    assert content["output_tokens_per_s"] > 10
    assert content["measured_s"] == 5
    assert png.read_bytes().startswith(b"\x89PNG")


def test_the_ledger_has_what_was_measured_and_the_tenants_are_gone(daemon: Daemon) -> None:
    before = {row["id"] for row in daemon.rows()}
    content = measured(bench("overload", "--duration", "3", "--length-scale", "0.25", "--json", daemon=daemon))
    assert daemon.get("/admin/v1/tenants").json() == {"tenants": []}
    rows = [row for row in daemon.rows() if row["id"] not in before and not row["tenant"].startswith("bench-warm-up-")]
    answered = [request for request in content["requests"] if request["first_s"] is not None]
    assert len(answered) <= len(rows) <= len(content["requests"]) == sum(t["requests"] for t in content["tenants"])
    assert {row["tenant"].rsplit("-", 1)[0] for row in rows} == {"bench-six", "bench-twelve"}
    whole = [row for row in rows if row["state"] == "length"]
    assert {(row["prompt_tokens"], row["completion_tokens"]) for row in whole} == {(32, 32)}
    assert sum(t["done"] for t in content["tenants"]) <= len(whole)


def test_temporary_tenants_are_on_no_invoice_and_have_no_limit_whatever_holds_for_everybody(tmp_path: Path) -> None:
    limits = {
        **dict.fromkeys(("requests_per_minute", "max_concurrent", "max_tokens_per_request"), 1),
        **dict.fromkeys(("tokens_per_minute", "max_context_tokens"), 3),
        **dict.fromkeys(("max_queued", "max_wait_s"), 0),
    }
    with Daemon(tmp_path, limits=limits) as daemon, Client(daemon.socket) as client:
        with temporary_tenants(client, SUITES["solo"]) as targets:
            tenants = daemon.get("/admin/v1/tenants").json()["tenants"]
            assert len(tenants) == len(targets) == 2
            for tenant in tenants:
                held = {name for name, value in tenant["effective_limits"].items() if value is not None}
                assert held == {"on_limit"}
                assert [daemon.complete(tenant["name"], max_tokens=9).status_code for _ in range(3)] == [200] * 3
        assert sum(row["requests"] for row in daemon.get("/admin/v1/usage").json()["tenants"]) == 6
        assert daemon.get("/admin/v1/invoices/this").json()["tenants"] == []


def test_figures_are_a_table_for_people(daemon: Daemon) -> None:
    result = bench("peak", "--duration", "0.5", daemon=daemon)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].split()[:3] == ["tenant", "weight", "requests"]
    assert "output tokens/s" in result.stdout
    assert "their requests stay in the ledger and appear on no invoice" in result.stderr
    assert "were cut off" in result.stderr


def test_rates_of_the_papers_suites_are_scaled_to_what_the_server_can_do(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "CALIBRATION_S", (3.0, 3.0))
    result = bench("vtc-weighted", "--duration", "3", "--length-scale", "0.1", "--json", daemon=daemon)
    assert "service/s; arrival rates multiplied by" in result.stderr
    content = measured(result)
    assert content["rate_scale"] > 1
    assert [t["weight"] for t in content["tenants"]] == [1, 2, 3, 4]
    assert sum(t["requests"] for t in content["tenants"]) > 8


def test_ctrl_c_ends_early_with_what_was_measured(daemon: Daemon) -> None:
    command = [sys.executable, "-m", "tenantctl.main", "--socket", str(daemon.socket), "bench", "flood-alone", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ) as program:

        def is_flooded() -> bool:
            tenants = daemon.status()["tenants"]
            return any(t["name"].startswith("bench-noisy-") and t["waiting"] for t in tenants)

        wait_until(is_flooded, "requests of the run")
        program.send_signal(signal.SIGINT)
        out, said = program.communicate(timeout=300)
    assert program.returncode == 130
    content = json.loads(out)
    assert content["interrupted"] is True
    assert content["measured_s"] < 30
    assert b"ended early" in said
    assert b"Traceback" not in said
    assert daemon.get("/admin/v1/tenants").json() == {"tenants": []}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nonsense"], "unknown suite; choose from solo"),
        (["solo", "--duration", "0"], "--duration"),
        (["solo", "--length-scale", "-1"], "more than 0"),
        (["solo", "--rate-scale", "nan"], "finite"),
        (["solo", "--vocabulary", "9-3"], "must be FIRST-LAST"),
        (["solo", "--extra", "a=1"], "only with --url"),
        (["solo", "--api-key", "k"], "only with --url"),
        (["solo", "--url", "http://x", "--extra", "a"], "name=value"),
        (["solo", "--url", "ftp://x"], "not an HTTP URL"),
        (["solo", "--png", "/nowhere/at/all.png"], "no such folder: /nowhere/at"),
        (["long-prompts"], "--length-scale 0.48"),
        (["solo", "--vocabulary", "1-999"], "the last token of this model is 257"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_measured_is_said_at_once(daemon: Daemon, arguments: list[str], says: str) -> None:
    result = bench(*arguments, daemon=daemon)
    assert result.exit_code == 2
    assert says in " ".join(result.output.replace("│", " ").split())


def test_no_server_is_a_failure_of_its_own(tmp_path: Path) -> None:
    assert bench("solo", "--url", "http://127.0.0.1:1/v1").exit_code == 69
    result = CliRunner().invoke(app, ["--socket", str(tmp_path / "s"), "bench", "solo"])
    assert result.exit_code == 69


def test_plots_say_what_they_need(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = bench("solo", "--png", "x.png", daemon=daemon)
    assert result.exit_code == 2
    assert "pip install '.[bench]'" in result.output
