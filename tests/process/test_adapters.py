"""A tenant's LoRA adapter, in a real daemon on a real (tiny) model."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, wait_until
from tests.support.device import GPU_LAYERS
from tests.support.network import logged
from tests.support.tiny_gguf import write_tiny_gguf, write_tiny_lora

ENGINE: dict[str, Any] = {"backend": "llama", "slots": 4, "context_tokens": 512, "gpu_layers": GPU_LAYERS, "threads": 1}
GREEDY: dict[str, Any] = {"temperature": 0, "ignore_eos": True}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """acme has an adapter, globex none."""
    model, lora = write_tiny_gguf(tmp_path / "tiny.gguf"), write_tiny_lora(tmp_path / "lora.gguf")
    with Daemon(tmp_path, engine=ENGINE, model={"path": str(model)}) as daemon:
        daemon.add_tenant("acme", adapter=str(lora))
        daemon.add_tenant("globex")
        yield daemon


def text(daemon: Daemon, tenant: str, max_tokens: int = 12) -> str:
    answer = daemon.complete(tenant, "in the year", max_tokens=max_tokens, **GREEDY)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])


def set_adapter(daemon: Daemon, tenant: str, path: str) -> Any:
    return daemon.request("PATCH", f"/admin/v1/tenants/{tenant}", json={"adapter": path})


def test_a_tenants_requests_run_with_its_adapter_and_the_others_without(daemon: Daemon) -> None:
    adapted, plain = text(daemon, "acme"), text(daemon, "globex")
    assert adapted != plain
    streams = [daemon.stream(("acme", "globex")[i % 2], "in the year", max_tokens=12, **GREEDY) for i in range(12)]
    for i, stream in enumerate(streams):
        stream.join()
        assert stream.done and len(stream.text) > 0
        assert (stream.text[:4] == adapted[:4]) == (i % 2 == 0)  # later tokens may differ with the size of the batch
    assert set_adapter(daemon, "acme", "").status_code == 200
    assert text(daemon, "acme") == plain
    assert daemon.stop() == 0


def test_the_trail_tells_a_replaced_file_from_the_one_before(daemon: Daemon, tmp_path: Path) -> None:
    path = write_tiny_lora(tmp_path / "own.gguf", seed=1)
    daemon.add_tenant("hooli", adapter=str(path))

    def used() -> list[dict[str, Any]]:
        page = daemon.request("GET", "/admin/v1/audit?event=resources&tenant=hooli").json()
        return [entry["detail"] for entry in reversed(page["entries"])]

    for n in range(3):
        if n == 2:
            write_tiny_lora(tmp_path / "new.gguf", seed=2).replace(path)
        assert daemon.complete("hooli", max_tokens=1).status_code == 200
        wait_until(lambda n=n: len(used()) == n + 1, "its entry")  # type: ignore[misc]
    first, again, replaced = used()
    status = path.stat()
    assert replaced["adapter_version"] == f"{status.st_mtime_ns}-{status.st_size}-{status.st_ino}"
    assert first["adapter_version"] == again["adapter_version"] != replaced["adapter_version"]
    assert {one["adapter_sha256"] for one in used()} == {hashlib.sha256(os.fsencode(path)).hexdigest()}


def test_an_adapter_outlives_the_engine(daemon: Daemon) -> None:
    adapted = text(daemon, "acme", 300)
    stream = daemon.stream("acme", "in the year", max_tokens=300, **GREEDY).begun(5)
    pid = daemon.engine_pid()
    os.kill(pid, signal.SIGKILL)
    assert stream.join().done
    assert daemon.engine_pid() != pid
    assert stream.usage is not None and stream.usage["completion_tokens"] == 300
    assert stream.text[:8] == adapted[:8]


def test_a_file_that_is_no_adapter_is_refused_when_it_is_set_or_at_the_first_request(
    daemon: Daemon, tmp_path: Path
) -> None:
    for path, says in (
        (tmp_path / "missing", "no such file"),
        (tmp_path, "is a folder"),
        (daemon.config, "not a GGUF"),
        (tmp_path / "tiny.gguf", "is a model, not a LoRA adapter"),
    ):
        refused = set_adapter(daemon, "globex", str(path))
        assert refused.status_code == 400 and says in refused.json()["error"]["message"]
    assert set_adapter(daemon, "globex", "lora.gguf").status_code == 400  # not absolute
    plain = text(daemon, "globex")
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes((tmp_path / "lora.gguf").read_bytes()[:-1000])
    assert set_adapter(daemon, "globex", str(damaged)).status_code == 200  # its head is that of an adapter
    for _ in range(3):
        refused = daemon.complete("globex", "in the year", max_tokens=4)
        assert refused.status_code == 400
        assert refused.json()["error"]["message"] == "cannot load the tenant's adapter; ask your administrator"
    assert {row["error"] for row in daemon.rows() if row["state"] == "failed"} == {
        "cannot load the tenant's adapter; ask your administrator"
    }
    logged(daemon, "cannot load its adapter")
    [said] = [line for line in daemon.log.read_text().splitlines() if "cannot load its adapter" in line]
    assert "tenant globex" in said and f"{damaged}: " in said
    assert set_adapter(daemon, "globex", "").status_code == 200
    assert text(daemon, "globex") == plain
    (tmp_path / "lora.gguf").unlink()
    wait_until(lambda: daemon.complete("acme", max_tokens=1).status_code == 400, "the adapter to be missed")
