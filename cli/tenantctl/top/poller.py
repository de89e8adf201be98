"""Asks the daemon again and again in a thread of its own, so that the keyboard never waits for an answer."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from tenantctl.client import Client, url
from tenantctl.own_view import OwnView
from tenantctl.top.choices import Order
from tenantctl.top.samples import Sample, Samples
from tenantd.errors import TenantdError

ANSWER_TIMEOUT_S: Final = 5.0
MOST_NEWS: Final = 16
"""Kept; nobody looks while Ctrl-S stops the terminal."""
DONE: Final = {"cancel": "cancelled", "suspend": "suspended", "resume": "resumed"}


class Trouble(NamedTuple):
    """There is no sample, and why."""

    why: str


class Said(NamedTuple):
    """The outcome of an order."""

    text: str
    is_error: bool


class Poller:
    """`news` is the latest that has come since somebody looked; `wake` is called when there is some."""

    def __init__(self, client: Client, own: OwnView | None, every_s: float, wake: Callable[[], None]) -> None:
        another = client.another(ANSWER_TIMEOUT_S)
        self._client, self._own = another, own and OwnView(another, own.tenant)
        self._samples = Samples(self._client, self._own)
        self._every_s = every_s
        self._wake = wake
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._tenant: str | None = None
        self._is_paused = False
        self.news: deque[Sample | Trouble | Said] = deque(maxlen=MOST_NEWS)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def look_at(self, tenant: str | None, *, is_paused: bool) -> None:
        """Whose requests are wanted, and whether any news are; asks at once if that has changed."""
        if (tenant, is_paused) != (self._tenant, self._is_paused):
            self._tenant, self._is_paused = tenant, is_paused
            self._orders.put(None)

    def order(self, order: Order) -> None:
        """Have the daemon do it."""
        self._orders.put(order)

    def _run(self) -> None:
        next_s = time.monotonic()
        while True:
            try:
                order = self._orders.get(timeout=max(0.0, next_s - time.monotonic()))
            except queue.Empty:
                order = None
            if order is not None:
                self._tell(self._do(order))
            if not self._is_paused or order is not None:
                self._tell(self._look())
            next_s = time.monotonic() + self._every_s

    def _look(self) -> Sample | Trouble:
        try:
            return self._samples.take(self._tenant)
        except TenantdError as e:
            return Trouble(e.message)

    def _do(self, order: Order) -> Said:
        try:
            if order.what != "cancel":
                self._client.post(url("tenants", order.subject, order.what))
            elif self._own is None:
                self._client.post(url("requests", order.subject, "cancel"))
            else:
                self._own.post(f"/v1/requests/{order.subject}/cancel")
        except TenantdError as e:
            return Said(f"not {DONE[order.what]}: {e.message}", True)
        return Said(f"{DONE[order.what]} {order.name}", False)

    def _tell(self, news: Sample | Trouble | Said) -> None:
        self.news.append(news)
        self._wake()
