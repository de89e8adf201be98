"""Shows a request's position in the queue on a terminal until its first token arrives."""

from __future__ import annotations

import secrets
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from tenantctl.client import Client
from tenantctl.queue_table import wait_of
from tenantd.errors import TenantdError

QUIET_S: Final = 1.0
"""Show nothing for this long; most requests have their first token by then."""
POLL_S: Final = 1.0
ANSWER_TIMEOUT_S: Final = 2.0


@contextmanager
def waiting_shown(client: Client, tenant: str | None) -> Iterator[str]:
    """Yields the client request id to send, so that the request can be found in the queue. Exit at the first token."""
    name = f"tenantctl-{secrets.token_hex(8)}"
    if not sys.stderr.isatty():
        yield name
        return
    ended = threading.Event()
    another = client.another(ANSWER_TIMEOUT_S)
    thread = threading.Thread(target=_show, args=(another, tenant, name, ended), daemon=True)
    thread.start()
    try:
        yield name
    finally:
        ended.set()
        thread.join(ANSWER_TIMEOUT_S)


def _show(client: Client, tenant: str | None, name: str, ended: threading.Event) -> None:
    if ended.wait(QUIET_S):
        return
    from rich.console import Console

    with client, Console(stderr=True).status("waiting") as line:
        while not ended.is_set():
            try:
                line.update(_text(client.queue(tenant), name))
            except TenantdError:  # the request itself will report the problem
                line.update("waiting")
            ended.wait(POLL_S)


def _text(queue: list[dict[str, Any]], name: str) -> str:
    """The line to show for the request with this name."""
    for entry in queue:
        if entry["client_request_id"] == name:
            return f"waiting: {entry['position']} in the queue, {wait_of(entry)}"
    return "waiting"
