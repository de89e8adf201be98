"""Two tenants send a prompt at the same time; each gets its answer and its own bill.

    python examples/two_tenants.py            (while a daemon runs, as its user or root)

Uses the daemon's Unix socket and httpx.
"""

import json
import threading

import httpx

from tenantd.config import default_socket

QUESTIONS = {"acme": "Write a line about the sea.", "globex": "Write a line about the mountains."}


def connect() -> httpx.Client:
    """A client for the daemon. The host in the URL is ignored; the socket is the address."""
    return httpx.Client(
        transport=httpx.HTTPTransport(uds=str(default_socket())), base_url="http://tenantd", timeout=300
    )


def ask(tenant: str, question: str, answers: dict[str, str]) -> None:
    """Stream one answer. An administrator names the tenant; other clients send its key instead."""
    body = {"prompt": question, "max_tokens": 48, "stream": True}
    with (
        connect() as client,
        client.stream("POST", "/v1/completions", json=body, headers={"X-Tenant": tenant}) as reply,
    ):
        reply.raise_for_status()
        events = (line.removeprefix("data: ") for line in reply.iter_lines() if line.startswith("data: "))
        answers[tenant] = "".join(json.loads(event)["choices"][0]["text"] for event in events if event != "[DONE]")


def main() -> None:
    with connect() as client:
        known = {tenant["name"] for tenant in client.get("/admin/v1/tenants").raise_for_status().json()["tenants"]}
        for name, weight in (("acme", 2), ("globex", 1)):
            if name not in known:
                client.post("/admin/v1/tenants", json={"name": name, "weight": weight}).raise_for_status()
        answers: dict[str, str] = {}
        threads = [threading.Thread(target=ask, args=(*item, answers)) for item in QUESTIONS.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for tenant, answer in answers.items():
            print(f"{tenant}: {QUESTIONS[tenant]} {answer.strip()}")
        invoice = client.get("/admin/v1/invoices/this").raise_for_status().json()
        for line in invoice["tenants"]:
            tokens = line["prompt_tokens"] + line["completion_tokens"]
            print(f"{line['tenant']}: {tokens} tokens, {line['total_nanos'] / 1e9:.9f} {invoice['currency']}")


if __name__ == "__main__":
    main()
