"""What a tenant writes is in no log, however verbose, no metric, no status and no error of anybody else."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.process.test_events import CANARY, send_canaries
from tests.support.daemon import Daemon, wait_until
from tests.support.tiny_gguf import write_tiny_gguf

SECRET = CANARY[7:]
TELLTALE = """
import os
from tenantd.engine.fake import FakeCompute

run = FakeCompute.run

def telling(self, chunks):
    for chunk in chunks:
        text = bytes(token for token in chunk.tokens if token < 256)
        if b"canary" in text:
            print("RuntimeError: cannot compute", text.decode(), flush=True)
            os.abort()
    return run(self, chunks)

FakeCompute.run = telling
"""


def shown_to_others(daemon: Daemon, key: str) -> str:
    """All that an administrator and another tenant can see without asking for a tenant's own answers."""
    by_key = {"authorization": f"Bearer {key}"}
    pages = ["/metrics", "/admin/v1/status", "/admin/v1/tenants", "/admin/v1/usage", "/readyz", "/openapi.json"]
    texts = [daemon.get(page).text for page in pages]
    texts += [daemon.get(page, headers=by_key).text for page in ("/v1/queue", "/v1/models", "/readyz", "/v1/nowhere")]
    texts.append(daemon.post("/v1/completions", {"prompt": "x", "max_tokens": "many"}, headers=by_key).text)
    return "\n".join(texts)


@pytest.mark.parametrize("backend", ["fake", "llama"])
def test_a_prompt_is_in_no_log_metric_status_or_error_of_another_tenant(tmp_path: Path, backend: str) -> None:
    engine: dict[str, Any] = {"backend": backend, "fake_step_micros": 2000, "context_tokens": 512}
    model = {"path": str(write_tiny_gguf(tmp_path / "tiny.gguf"))} if backend == "llama" else {}
    with Daemon(tmp_path, engine=engine, model=model, log={"level": "debug"}) as daemon:
        key, other = daemon.add_tenant("acme", cache="on"), daemon.add_tenant("globex", cache="on")
        assert {200, 400, 401, 403, 404} <= set(send_canaries(daemon, key))
        running = daemon.stream("acme", CANARY, max_tokens=300, ignore_eos=True, stop=[CANARY]).begun(2)
        waiting = [daemon.stream("acme", f"{CANARY} {n}", max_tokens=300, ignore_eos=True) for n in range(6)]
        seen = shown_to_others(daemon, other)
        os.kill(daemon.engine_pid(), signal.SIGKILL)
        for stream in (running, *waiting):
            stream.join()
        seen += shown_to_others(daemon, other)
        assert daemon.stop() == 0
        assert SECRET not in seen.lower()
        assert SECRET not in daemon.log.read_text().lower()
        rows = [value for row in daemon.rows() for value in row.values() if isinstance(value, str)]
        assert SECRET not in "".join(rows).lower()


def test_what_an_engine_says_before_it_dies_is_shown_to_administrators_alone(tmp_path: Path) -> None:
    engine = {"max_crashes": 2, "restart_delay_s": 5}
    daemon = Daemon(tmp_path, engine=engine)
    (tmp_path / "sitecustomize.py").write_text(TELLTALE)
    daemon.environment["PYTHONPATH"] = str(tmp_path)
    with daemon:
        other = {"authorization": f"Bearer {daemon.add_tenant('globex')}"}
        daemon.add_tenant("acme")
        own = daemon.stream("acme", CANARY, max_tokens=5)
        beside = daemon.stream("globex", "hello", max_tokens=3000, ignore_eos=True)
        status = wait_until(lambda: SECRET in (now := daemon.status())["reason"] and now, "what it said")
        assert status["state"] == "restarting"
        seen = [daemon.get("/readyz", headers=other).text]
        for stream in (own, beside):
            stream.join()
            seen.append(str(stream.error))
        assert "killed by signal 6" in seen[0] and "killed by signal 6" in seen[1]
        assert SECRET not in "".join(seen)
