"""Servers of one's own: they start, say why they do not, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from tenantctl.bench.launcher import OwnDaemon, Server, own_daemon, own_llama_server
from tenantctl.client import url
from tenantd.errors import TenantdError

FAKE = {"engine": {"backend": "fake", "slots": 2}}
LLAMA_SERVER = """#!{python}
import http.server, pathlib, sys
pathlib.Path(sys.argv[0]).with_suffix(".arguments").write_text(" ".join(sys.argv[1:]))
class Handler(http.server.BaseHTTPRequestHandler):
    asked = 0
    def do_GET(self):
        Handler.asked += 1
        self.send_response(200 if Handler.asked > 1 else 503)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


def test_a_daemon_is_ready_has_its_tenants_and_is_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENANTD_SOCKET", "/nowhere/of-another")
    seen: list[str] = []
    with own_daemon(FAKE, {"a": {"weight": 2.0}, "b": {}}, show=lambda state: seen.append(state["status"])) as daemon:
        assert seen[-1] == "ready"
        with daemon.admin() as client:
            status = client.get(url("status"))
        assert {tenant["name"]: tenant["weight"] for tenant in status["tenants"]} == {"a": 2.0, "b": 1.0}
        assert status["socket"] == str(daemon.socket)
        assert daemon.pids[:2] == (status["pid"], status["engine_pid"])
        processes = [psutil.Process(pid) for pid in daemon.pids]
        assert os.getsid(status["pid"]) == status["pid"], "Ctrl-C is not for it"
    assert not daemon.folder.exists()
    assert daemon.running.returncode == 0
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


def test_a_daemon_that_does_not_start_says_why() -> None:
    wrong = {"engine": {"backend": "fake", "slots": 0}}
    with pytest.raises(TenantdError, match=r"the daemon ended with status 78 .*\n.*slots"), own_daemon(wrong, {}):
        raise AssertionError("it has no slots")


def test_a_tenant_that_cannot_be_made_ends_the_daemon(tmp_path: Path) -> None:
    before = psutil.Process().children()
    with pytest.raises(TenantdError, match="weight"), own_daemon(FAKE, {"a": {"weight": -1}}):
        raise AssertionError("it has no such tenant")
    assert psutil.Process().children() == before


def test_a_daemon_runs_the_code_of_another_checkout(tmp_path: Path) -> None:
    package = tmp_path / "checkout" / "tenantd"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("raise SystemExit('the other code')")
    daemon = OwnDaemon(tmp_path, FAKE, checkout=tmp_path / "checkout")
    daemon.launch()
    with pytest.raises(TenantdError, match="the other code"):
        daemon.wait_ready()


def test_one_that_is_not_ready_in_time_is_an_error_with_its_log(tmp_path: Path) -> None:
    server = Server("it", tmp_path / "log")
    try:
        server.spawn([sys.executable, "-uc", "print('loading'); input_ = __import__('signal').pause()"], environment={})
        server.wait_until(lambda: "loading" in server.log.read_text(), timeout_s=120)
        with pytest.raises(TenantdError, match=r"it was not ready within 0\.5 s; it printed:\nloading"):
            server.wait_until(lambda: False, timeout_s=0.5)
    finally:
        server.kill()


def test_one_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    code = "import signal; signal.signal(signal.SIGTERM, lambda *_: None); print('deaf')\nwhile True: signal.pause()"
    server = Server("it", tmp_path / "log")
    server.spawn([sys.executable, "-uc", code], environment={})
    server.wait_until(lambda: "deaf" in server.log.read_text(), timeout_s=120)
    with pytest.raises(TenantdError, match="it did not stop within 1 s and was killed"):
        server.stop(timeout_s=1)
    assert server.running.returncode == -signal.SIGKILL


def test_a_llama_server_is_told_the_same_as_a_daemon(tmp_path: Path) -> None:
    binary = tmp_path / "llama-server"
    binary.write_text(LLAMA_SERVER.format(python=sys.executable))
    binary.chmod(0o755)
    with own_llama_server(binary, Path("m.gguf"), slots=4, context_tokens=512, threads=2) as (server, port):
        arguments = (tmp_path / "llama-server.arguments").read_text()
        assert server.pids == (server.running.pid,)
    assert f"-m m.gguf --host 127.0.0.1 --port {port} -np 4 -c 2048 -t 2 -tb 2" in arguments
    assert server.running.returncode == -signal.SIGTERM
