"""Daemons for llama-server's tests, each set up as the flags of llama-server say, and kept for all tests with the same.

The flags that tenantd has something for become a configuration; others are ignored. Each time a new tenant is made, so
that no test sees what another one left.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import secrets
import socketserver
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tenantctl.bench.launcher import OwnDaemon
from tenantctl.client import url
from tests.support.network import urls
from tests.support.tiny_bert import write_tiny_bert
from tests.support.tiny_gguf import CHAT_TEMPLATE, write_tiny_gguf

EMBEDDING_TOKENS = 512
MOST_DAEMONS = 8
SOCKET = "farm.sock"


def parsed(flags: Sequence[str]) -> argparse.Namespace:
    """The flags that something can be made of; others are ignored."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--alias", default="tiny")
    parser.add_argument("--api-key")
    parser.add_argument("--temp", type=float, default=1.0)
    parser.add_argument("--ctx-size", type=int, default=0)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--n-predict", type=int, default=64)
    parser.add_argument("--kv-unified", action="store_true")
    parser.add_argument("--embedding", action="store_true")
    parser.add_argument("--pooling", default="mean")
    parser.add_argument("--chat-template-file", type=Path)
    return parser.parse_known_args(flags)[0]


def settings_of(flags: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Tables of a configuration file, but for the paths of models."""
    embeddings: dict[str, Any] = {}
    if flags.embedding:
        pooling = flags.pooling if flags.pooling in ("mean", "cls", "last") else "model"
        embeddings = {"name": flags.alias, "pooling": pooling, "max_input_tokens": EMBEDDING_TOKENS}
    return {
        "model": {"name": "generates" if flags.embedding else flags.alias},
        "engine": {
            "slots": flags.parallel,
            "context_tokens": flags.ctx_size // (1 if flags.kv_unified else flags.parallel),
            "batch_tokens": max(32, flags.batch_size),
            "kv": "unified" if flags.kv_unified else "streams",
        },
        "server": {"listen": [{"address": "127.0.0.1:0"}]},
        "sampling": {"temperature": flags.temp},
        "limits": {"default_max_tokens": max(1, flags.n_predict)},
        "embeddings": embeddings,
    }


class Farm:
    """Use as a context manager: it answers in `folder` what `relay.py` asks. `tests` is where those run."""

    def __init__(self, folder: Path, tests: Path) -> None:
        self._folder = folder
        self._tests = tests
        self._daemons: dict[str, OwnDaemon] = {}
        self._lock = threading.Lock()
        self._server: socketserver.ThreadingUnixStreamServer | None = None

    def __enter__(self) -> Farm:
        farm = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                answer = farm.given(json.loads(self.rfile.readline()))
                self.wfile.write(json.dumps(answer).encode() + b"\n")

        self._server = socketserver.ThreadingUnixStreamServer(str(self._folder / SOCKET), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        for daemon in self._daemons.values():
            daemon.kill()

    def given(self, arguments: Sequence[str]) -> dict[str, Any]:
        """What the relay needs for these flags."""
        flags = parsed(arguments)
        with self._lock:
            daemon = self._daemon(flags)
        with daemon.admin() as client:
            tenant = client.post(url("tenants"), {"name": f"t{secrets.token_hex(8)}", "cache": "on"})
        host, _, port = urls(daemon)[0].removeprefix("http://").rpartition(":")
        return {
            "address": [host, int(port)],
            "key": tenant["key"],
            "model": flags.alias,
            "hosts": [name.strip() for name in flags.host.split(",")],
            "port": flags.port,
            "secret": flags.api_key,
        }

    def _daemon(self, flags: argparse.Namespace) -> OwnDaemon:
        """A ready one for these flags, running already or started now."""
        settings = settings_of(flags)
        file = flags.chat_template_file
        template = None if file is None else (self._tests / file).read_text("utf-8")
        name = hashlib.sha256(json.dumps([settings, template]).encode()).hexdigest()[:12]
        if name not in self._daemons:
            if len(self._daemons) == MOST_DAEMONS:
                self._daemons.pop(next(iter(self._daemons))).kill()
            folder = Path(tempfile.mkdtemp(dir=self._folder))
            write_models(settings, folder, template)
            daemon = OwnDaemon(folder, settings)
            self._daemons[name] = daemon
            daemon.launch()
            daemon.wait_ready()
        return self._daemons[name]


def write_models(settings: dict[str, dict[str, Any]], folder: Path, template: str | None) -> None:
    """Write the models into the folder, and their paths into the settings."""
    path = write_tiny_gguf(folder / "tiny.gguf", chat_template=template or CHAT_TEMPLATE, context_length=8192)
    settings["model"]["path"] = str(path)
    if settings["embeddings"]:
        bert = write_tiny_bert(folder / "bert.gguf", context_length=EMBEDDING_TOKENS)
        settings["embeddings"]["model"] = str(bert)
