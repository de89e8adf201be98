"""Sends a request for an answer; waits for a model that loads, and for an engine that restarts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final

from tenantctl.client import Client
from tenantctl.queue_place import waiting_shown
from tenantctl.readiness import wait_ready
from tenantd.errors import EngineUnavailable

ENGINE_WAIT_S: Final = 600.0
"""How long the engine is waited for; Ctrl-C ends that earlier."""


def start_answer(
    client: Client, stack: ExitStack, path: str, body: dict[str, Any], tenant: str | None, wait_s: float = ENGINE_WAIT_S
) -> tuple[str, Iterator[Any]]:
    """The id of the request and its events, streamed, as soon as its first token is there.

    The connection closes with the stack. Raises TenantdError: EngineUnavailable at once if the engine has failed for
    good, else after `wait_s`.
    """
    streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
    deadline_s = time.monotonic() + wait_s
    while True:
        try:
            with waiting_shown(client, tenant) as name:
                return stack.enter_context(client.stream(path, streamed, tenant, name))
        except EngineUnavailable:
            left_s = deadline_s - time.monotonic()
            if client.readiness()["status"] in ("ready", "failed") or left_s <= 0:
                raise
            wait_ready(client, left_s)
