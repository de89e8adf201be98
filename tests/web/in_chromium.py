"""The web page in Chromium, with pictures: python -m tests.web.in_chromium FOLDER (make web-test).

In the folder there is playwright-core in node_modules, and afterwards pictures to look at. Names, texts and ids are
markup wherever a name may be anything: those of the model, adapters, keys, clients' requests, and on invoices.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from tests.support.daemon import Daemon, wait_until
from tests.support.network import urls
from tests.support.tiny_gguf import write_tiny_lora

SCRIPT = Path(__file__).with_suffix(".mjs")
MARKUP = "<img src=x onerror=alert(1)>"
SETTINGS: dict[str, dict[str, Any]] = {
    "engine": {"fake_step_micros": 20_000, "slots": 4, "context_tokens": 200_000},
    "model": {"name": f"{MARKUP}</script>"},
    "server": {"listen": [{"address": "127.0.0.1:0"}]},
    "billing": {
        "input_price_per_million": 10,
        "output_price_per_million": 20,
        "issuer": f"<b>Issuer</b>{MARKUP}",
        "issuer_address": f"{MARKUP}\nTown",
        "issuer_tax_id": MARKUP,
        "tax_name": "<b>VAT</b>",
        "tax_percent": 19,
        "terms": MARKUP,
        "timezone": "Europe/Berlin",
    },
}
BILLING = {"name": MARKUP, "address": f"{MARKUP}\n<b>x</b>", "reference": "<b>y</b>"}
TENANTS: dict[str, dict[str, Any]] = {
    "acme": {"weight": 2, "limits": {"tokens_per_minute": 600_000, "requests_per_minute": 600}},
    "globex": {},
    "initech": {"priority": "low"},
}
AT_ONCE = {"acme": 4, "globex": 4, "initech": 1}


def load(daemon: Daemon, tenant: str, ended: threading.Event) -> None:
    """Send one request after the other, as a client whose own ids are markup."""
    headers = {"x-tenant": tenant, "x-client-request-id": MARKUP}
    with daemon.client(600) as client:
        number = 0
        while not ended.is_set():
            number += 1
            body = {"prompt": "x" * (37 * number % 500 + 20), "max_tokens": 41 * number % 120 + 20, "ignore_eos": True}
            client.post("/v1/completions", json=body, headers=headers)
            ended.wait(0.1)


def main(folder: Path) -> int:
    with tempfile.TemporaryDirectory() as home, Daemon(Path(home), **SETTINGS) as daemon:
        adapter = str(write_tiny_lora(Path(home) / f"{MARKUP}.gguf"))
        keys = {name: daemon.add_tenant(name, billing=BILLING, **more) for name, more in TENANTS.items()}
        for name in TENANTS:
            daemon.complete(name, max_tokens=1)  # without an adapter, so that invoices tell those with one apart
            daemon.request("PATCH", f"/admin/v1/tenants/{name}", json={"adapter": adapter}).raise_for_status()
            labelled = daemon.post(f"/admin/v1/tenants/{name}/keys", {"label": MARKUP}).json()
            keys[name] = labelled["secret"]
            budget = {"period": "monthly", "unit": "tokens", "amount": 10_000_000}
            change = {"key_id": labelled["key"]["id"], "budgets": [budget]}
            daemon.request("PATCH", f"/admin/v1/tenants/{name}/budgets", json=change).raise_for_status()
        ended = threading.Event()
        threads = [
            threading.Thread(target=load, args=(daemon, name, ended))
            for name, count in AT_ONCE.items()
            for _ in range(count)
        ]
        for thread in threads:
            thread.start()
        try:
            history = "/admin/v1/history"
            wait_until(lambda: len(daemon.get(history).json()["tenants"]) == len(TENANTS), "samples of all tenants")
            owner = daemon.post("/admin/v1/web").json()["url"]
            given = {"owner": owner, "listener": urls(daemon)[0], "keys": keys, "markup": MARKUP}
            ran = subprocess.run(
                ["node", str(SCRIPT), str(folder.resolve())],
                cwd=folder,
                input=json.dumps(given),
                text=True,
                check=False,
            )
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        return ran.returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
