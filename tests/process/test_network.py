"""A daemon on TCP, from start to end: what keeps it from starting, certificates that change, sockets from systemd, and
`tenantctl` at a URL."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support.certificates import Authority
from tests.support.daemon import Daemon, wait_until
from tests.support.hooks import refusing_address
from tests.support.network import logged, urls
from tests.support.program import tenantctl

TENANT = {"prompt": "Hi", "max_tokens": 2}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def listening(*listeners: dict[str, Any]) -> dict[str, Any]:
    return {"server": {"listen": list(listeners)}}


# -- starting


def refused(folder: Path, *listeners: dict[str, Any]) -> str:
    """Why a daemon does not start."""
    daemon = Daemon(folder, **listening(*listeners))
    daemon.launch()
    assert daemon.running.wait(120) == 78
    assert not daemon.socket.exists(), "nothing is left behind"
    return daemon.log.read_text()


def test_what_cannot_be_listened_on_is_said_with_what_to_do(tmp_path: Path, authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = refused(tmp_path, {"address": "127.0.0.1:0"}, {"address": address})
        entry = f"{tmp_path / 'config.toml'}: server.listen, entry 2"
        assert f"{entry}: address: cannot listen on {address}: another program already listens there" in said
    said = refused(tmp_path, {"address": "192.0.2.1:8080", "plaintext": True})
    assert (
        "server.listen, entry 1: address: cannot listen on 192.0.2.1:8080: this machine does not have this address"
        in said
    )
    said = refused(tmp_path, {"address": "0.0.0.0:8080"})
    assert "server.listen, entry 1: other machines can reach 0.0.0.0:8080: set cert and key for TLS" in said
    issued = authority.issue("mismatch")
    said = refused(tmp_path, {"address": "127.0.0.1:0", "cert": issued["cert"], "key": authority.issue("m2")["key"]})
    assert "is not the private key of" in said
    assert "cannot read /none: No such file" in refused(
        tmp_path, {"address": "127.0.0.1:0", "cert": "/none", "key": "/x"}
    )


def test_what_others_can_read_is_warned_of_at_each_start(tmp_path: Path) -> None:
    with Daemon(
        tmp_path, **listening({"address": "0.0.0.0:0", "plaintext": True}, {"address": "127.0.0.1:0"})
    ) as daemon:
        for starts in (1, 2):
            assert daemon.log.read_text().count("is not encrypted: anyone on the network path can read keys") == starts
            if starts == 1:
                daemon.stop()
                daemon.start()
        assert len(urls(daemon)) == 4
        key, port = daemon.add_tenant("acme"), urls(daemon)[2].rpartition(":")[2]
        headers = {"authorization": f"Bearer {key}"}
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=TENANT, headers=headers, timeout=120)
        assert answer.status_code == 200


# -- certificates


def served_name(url: str) -> bytes:
    """The certificate that is shown there."""
    host, _, port = url.partition("://")[2].rpartition(":")
    return ssl.get_server_certificate((host, int(port)), timeout=60).encode()


def test_certificates_are_read_again_and_a_bad_one_changes_nothing(tmp_path: Path, authority: Authority) -> None:
    issued = authority.issue("renewed")
    with Daemon(tmp_path, **listening({"address": "127.0.0.1:0", **issued})) as daemon:
        key = daemon.add_tenant("acme")
        [url] = urls(daemon)
        assert url.startswith("https://")
        first = served_name(url)
        headers = {"authorization": f"Bearer {key}"}
        with httpx.Client(base_url=url, verify=authority.trust, timeout=120, trust_env=False) as client:
            assert client.post("/v1/completions", json=TENANT, headers=headers).status_code == 200
            Path(issued["cert"]).write_text("not a certificate")
            daemon.running.send_signal(signal.SIGHUP)
            logged(
                daemon, "cannot use the new certificate, so the previous one stays in use: server.listen, entry 1: cert"
            )
            assert served_name(url) == first
            authority.issue("renewed")
            daemon.running.send_signal(signal.SIGHUP)
            wait_until(lambda: served_name(url) != first, "the new certificate")
            assert client.post("/v1/completions", json=TENANT, headers=headers).status_code == 200
        with openai.OpenAI(
            api_key=key,
            base_url=f"{url}/v1",
            max_retries=0,
            http_client=openai.DefaultHttpxClient(verify=authority.trust),
        ) as official:
            chunks = list(official.completions.create(model="fake", prompt="Hi", max_tokens=3, stream=True))
            assert chunks[0].system_fingerprint == "fp_fake"


def test_a_reload_changes_origins_and_not_addresses(tmp_path: Path) -> None:
    with Daemon(tmp_path, **listening({"address": "127.0.0.1:0"})) as daemon:
        [url] = urls(daemon)
        page = {"origin": "https://chat.example.org"}
        assert "access-control-allow-origin" not in httpx.get(f"{url}/healthz", headers=page, timeout=120).headers
        daemon.configure(**listening({"address": "127.0.0.1:0", "origins": [page["origin"]]}))
        daemon.running.send_signal(signal.SIGHUP)
        logged(daemon, "configuration and tenants reloaded")
        allowed = httpx.get(f"{url}/healthz", headers=page, timeout=120).headers["access-control-allow-origin"]
        assert allowed == page["origin"]
        daemon.configure(**listening())
        daemon.running.send_signal(signal.SIGHUP)
        logged(daemon, "server.listen has changed; it takes effect at the next start")
        assert httpx.get(f"{url}/healthz", timeout=120).status_code == 200


# -- sockets from systemd

PASS_ON = """
import os, sys
for number, descriptor in enumerate(map(int, sys.argv[1].split(","))):
    os.dup2(descriptor, 3 + number, inheritable=True)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = str(number + 1)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


def start_with(daemon: Daemon, *socks: socket.socket) -> subprocess.Popen[bytes]:
    """As systemd would."""
    high = [fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD, 100) for sock in socks]  # away from 3 and what follows
    arguments = [",".join(map(str, high)), "-m", "tenantd", "--config", str(daemon.config)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TENANTD_")}
    with daemon.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", PASS_ON, *arguments], env=environment, pass_fds=high, stderr=log, stdout=log
        )
    for descriptor in high:
        os.close(descriptor)
    return process


@pytest.fixture
def passing(tmp_path: Path) -> Iterator[tuple[Daemon, socket.socket, socket.socket]]:
    """A daemon that is not started, and sockets for it."""
    with socket.socket(socket.AF_UNIX) as unix, socket.create_server(("127.0.0.1", 0)) as tcp:
        unix.bind(str(tmp_path / "tenantd.sock"))
        unix.listen()
        yield Daemon(tmp_path, **listening({"address": f"127.0.0.1:{tcp.getsockname()[1]}"})), unix, tcp


def test_passed_sockets_are_those_that_the_configuration_names(
    passing: tuple[Daemon, socket.socket, socket.socket],
) -> None:
    daemon, unix, tcp = passing
    url = f"http://127.0.0.1:{tcp.getsockname()[1]}"
    process = start_with(daemon, tcp, unix)
    try:
        assert httpx.get(f"{url}/healthz", timeout=240).status_code == 200, "it waits until there is somebody to answer"
        wait_until(lambda: daemon.get("/readyz").status_code == 200, "readiness")
        with openai.OpenAI(api_key=daemon.add_tenant("acme"), base_url=f"{url}/v1") as client:
            assert client.completions.create(model="fake", prompt="Hi", max_tokens=2).usage is not None
    finally:
        process.terminate()
        assert process.wait(120) == 0
    assert daemon.socket.exists(), "systemd keeps it, for the next start"


def test_a_passed_socket_that_nothing_names_is_refused(passing: tuple[Daemon, socket.socket, socket.socket]) -> None:
    daemon, unix, tcp = passing
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert start_with(daemon, unix, tcp, other).wait(120) == 78
        address = f"127.0.0.1:{other.getsockname()[1]}"
    said = daemon.log.read_text()
    assert f'does not name: {address}; add a table [[server.listen]] with address = "{address}"' in said
    assert daemon.socket.exists()


# -- the command line


@pytest.fixture(scope="module")
def daemon(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    listeners = {"address": "127.0.0.1:0", **authority.issue("cli")}, {"address": "127.0.0.1:0"}
    with Daemon(tmp_path_factory.mktemp("cli"), **listening(*listeners)) as daemon:
        yield daemon


def test_commands_work_at_a_url_as_at_the_socket(daemon: Daemon, authority: Authority) -> None:
    secure, plain = urls(daemon)
    made = tenantctl(daemon, "key", "create", "--admin", "--json")
    admin = json.loads(made.stdout)["secret"]
    key = tenantctl(
        daemon,
        "tenant",
        "add",
        "cli",
        TENANTD_URL=f"{secure}/v1/",
        TENANTD_CA=str(authority.file),
        TENANTD_API_KEY=admin,
    )
    assert key.returncode == 0, key.stderr
    at_secure = ("--url", secure, "--ca", str(authority.file))
    run = tenantctl(daemon, *at_secure, "run", "Hi", "--max-tokens", "2", TENANTD_API_KEY=key.stdout.strip())
    assert run.returncode == 0, run.stderr
    listed = tenantctl(daemon, "--url", plain, "tenant", "list", "--json", TENANTD_API_KEY=admin)
    assert [tenant["name"] for tenant in json.loads(listed.stdout)["tenants"]] == ["cli"]
    assert listed.stderr == "", "nobody can listen in on loopback"
    assert tenantctl(daemon, *at_secure, "status", "--wait", "60", TENANTD_API_KEY=admin).returncode == 0
    assert tenantctl(daemon, *at_secure, "_tenants", TENANTD_API_KEY=admin).stdout == "cli\n"
    names = tenantctl(daemon, "--url", plain, "requests", "--json", TENANTD_API_KEY=admin)
    assert names.returncode == 0, names.stderr
    entries = daemon.get("/admin/v1/audit").json()["entries"]
    acts = {e["detail"]["action"]: e["detail"]["by"] for e in entries if e["event"] == "administered"}
    assert acts["tenant_added"]["address"] == "127.0.0.1", "a key administered from there"
    assert "address" not in acts["key_created"], "on the socket it is the user"
    assert all("address" not in e["detail"] for e in entries if e["event"] == "entered")


def test_what_goes_wrong_on_the_way_is_said_with_what_to_do(daemon: Daemon, authority: Authority) -> None:
    secure, plain = urls(daemon)
    key = {"TENANTD_API_KEY": "td_wrong"}
    with refusing_address() as nobody:
        done = tenantctl(daemon, "--url", f"http://{nobody}", "status", **key, COLUMNS="200", TERMINAL_WIDTH="200")
    assert f"cannot reach http://{nobody}: Connection refused" in " ".join(done.stderr.split()), done.stderr
    assert (done.returncode, done.stdout) == (69, "")
    for arguments, environment, code, said in (
        (["--url", secure, "status"], key, 77, "is not trusted: "),
        (["--url", plain.replace("http", "https"), "status"], key, 69, "does not speak TLS"),
        (["--url", secure.replace("https", "http"), "status"], key, 2, "this port speaks TLS; use https://"),
        (["--url", secure, "--ca", "/none", "status"], key, 1, "--ca: cannot use /none: No such file"),
        (["--url", secure, "--ca", str(daemon.config), "status"], key, 1, "no certificates in PEM format"),
        (["--url", plain, "status"], {}, 77, "set TENANTD_API_KEY to an API key"),
        (["--url", plain, "status"], key, 77, "the API key in TENANTD_API_KEY is unknown"),
        (["--url", plain, "--admin", "status"], key, 2, "--admin acts as your Unix user"),
        (["--url", "nonsense", "status"], key, 2, "write it like https://llm.example.org:8080"),
        (["--url", "http://u:p@h", "status"], key, 2, "leave out user and password"),
        (["--url", "http://nowhere.invalid", "status"], key, 69, "cannot find the host of http://nowhere.invalid"),
        (["--url", plain, "--socket", "/s", "status"], key, 2, "choose one of --socket and --url"),
        (["--url", plain, "serve"], key, 2, "serve works on this machine only"),
        (["--url", plain, "ledger", "check"], key, 2, "run it on the daemon's machine"),
        (["--url", plain, "audit", "verify"], key, 2, "run it on the daemon's machine"),
        (["status"], {"TENANTD_URL": "ftp://x", **key}, 2, "TENANTD_URL: 'ftp://x' is not the URL"),
    ):
        done = tenantctl(daemon, *arguments, **environment, COLUMNS="200", TERMINAL_WIDTH="200")
        assert (done.returncode, done.stdout) == (code, ""), (arguments, done.stderr)
        assert said in " ".join(done.stderr.split()), done.stderr


def test_a_socket_that_is_given_goes_before_a_url_in_the_environment(daemon: Daemon) -> None:
    done = tenantctl(daemon, "--socket", str(daemon.socket), "status", "--json", TENANTD_URL="http://127.0.0.1:1")
    assert done.returncode == 0, done.stderr
