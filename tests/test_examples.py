"""The examples do what they say, with the commands as they are installed and the real model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from tenantd.config import Config, load_config
from tests.support.daemon import Daemon
from tests.support.models import gemma_path

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    engine = {"backend": "llama", "slots": 2, "context_tokens": 256}
    with Daemon(tmp_path_factory.mktemp("gemma"), engine=engine, model={"path": str(gemma_path())}) as running:
        yield running
        assert running.stop() == 0


def run(*command: str, **environment: str) -> str:
    """What it printed; it must succeed and have nothing to complain about."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TENANTD_")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=850, env={**clean, "PATH": path, **environment}, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_quickstart_goes_from_a_model_to_an_invoice_and_leaves_nothing_behind(tmp_path: Path) -> None:
    printed = run("bash", str(EXAMPLES / "quickstart.sh"), str(gemma_path()), TMPDIR=str(tmp_path))
    assert len(re.findall(r"td_\w+", printed)) >= 2, "each tenant's key is shown"
    assert re.search(r"^ .*yellow", printed, re.MULTILINE), "the primary colours"
    assert re.search(r"^ .*Wednesday", printed, re.MULTILINE), "the days of the week"
    usage, _, invoice = printed.partition("\nInvoice ")
    for tenant in ("acme", "globex"):
        assert re.search(rf"^{tenant} +1 +0 ", usage, re.MULTILINE), "one request, none failed"
        assert re.search(rf"^{tenant}: ", invoice, re.MULTILINE)
    parts = [Decimal(amount) for amount in re.findall(r"^total .* ([\d.]+)$", invoice, re.MULTILINE)]
    (total,) = re.findall(r"^Total: USD ([\d.]+)$", invoice, re.MULTILINE)
    assert len(parts) == 2 and sum(parts) == Decimal(total) > 0
    assert list(tmp_path.iterdir()) == []


def test_two_tenants_get_their_answers_and_their_bills(daemon: Daemon) -> None:
    for _ in range(2):  # the second time the tenants are there already
        printed = run(sys.executable, str(EXAMPLES / "two_tenants.py"), TENANTD_SOCKET=str(daemon.socket))
        assert re.search(r"^acme: Write a line about the sea\. .", printed, re.MULTILINE)
        assert re.search(r"^globex: Write a line about the mountains\. .", printed, re.MULTILINE)
    rows = daemon.rows()
    for name, tokens, cost in re.findall(r"^(\w+): (\d+) tokens, ([\d.]+) USD$", printed, re.MULTILINE):
        own = [row for row in rows if row["tenant"] == name]
        assert int(tokens) == sum(row["prompt_tokens"] + row["completion_tokens"] for row in own) > 0
        nanos = sum(row["prompt_tokens"] * 100 + row["completion_tokens"] * 400 for row in own)
        assert float(cost) == pytest.approx(nanos / 1e9, abs=1e-12)
    assert {row["tenant"] for row in rows} == {"acme", "globex"}


def test_the_official_client_completes_streams_and_is_refused(daemon: Daemon) -> None:
    key = daemon.add_tenant("client")
    printed = run(
        sys.executable, str(EXAMPLES / "openai_client.py"), TENANTD_SOCKET=str(daemon.socket), TENANTD_API_KEY=key
    )
    lines = printed.splitlines()
    assert lines[0] == f"model: {gemma_path().name.removesuffix('.gguf')}"
    assert re.fullmatch(r"completed: '.+' \(24 tokens\)", lines[1])
    assert re.search(r"^streamed: .*\S", printed, re.MULTILINE)
    assert re.search(r" \(\d+ tokens\)$", printed.split("streamed:")[1], re.MULTILINE)
    assert "temperature" in lines[-1] and lines[-1].startswith("refused: ")
    assert {row["tenant"] for row in daemon.rows()} >= {"client"}


def test_the_example_configuration_is_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TENANTD_SOCKET", "TENANTD_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert load_config(EXAMPLES / "tenantd.toml") == Config()
