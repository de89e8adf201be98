"""The turn to check isolation: the daemon gives it to one client at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from tenantctl.client import Client, url
from tenantd.errors import TenantdError

RENEW_S: Final = 10.0


@contextmanager
def own_turn(client: Client) -> Iterator[str]:
    """Take the turn, renew it meanwhile, and end it. If this process is killed, it ends by itself within a minute.

    Raises CheckRunning: another client has it.
    """
    path = url("isolation", "turn")
    turn: str = client.post(path, {})["turn"]
    is_over = threading.Event()

    def renew() -> None:
        with client.another(RENEW_S) as own:
            while not is_over.wait(RENEW_S):
                with suppress(TenantdError):  # if the turn is lost, the daemon refuses the check
                    own.post(path, {"turn": turn})

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield turn
    finally:
        is_over.set()
        thread.join()
        with suppress(TenantdError):
            client.post(path, {"turn": turn, "end": True})
