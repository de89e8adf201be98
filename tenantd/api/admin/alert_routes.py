"""The routes of alerts: how they fare, and a test of their delivery."""

from __future__ import annotations

from typing import TypedDict

from starlette.responses import Response

from tenantd.api.operations import Operation
from tenantd.api.replies import reply
from tenantd.watching.webhook import Outcome, Webhook


class AlertStatus(TypedDict):
    """`is_on`: alerts.url is set. Counts are since the start: `dropped` alerts gave way to newer ones, `failed` ones
    were given up. `trouble` is why the last attempt failed, "" if it did not."""

    is_on: bool
    delivered: int
    failed: int
    dropped: int
    waiting: int
    trouble: str


def alert_operations(webhook: Webhook) -> list[Operation]:
    """Show how alerts fare, and send one."""

    async def show_alerts() -> Response:
        """Show whether alerts are sent, and how many were delivered."""
        return reply(webhook.status())

    async def test_alerts() -> Response:
        """Send a test alert now, without retries, and report whether it was delivered."""
        return reply(await webhook.test())

    return [
        Operation("GET", "/admin/v1/alerts", show_alerts, AlertStatus),
        Operation("POST", "/admin/v1/alerts/test", test_alerts, Outcome),
    ]
