"""`tenantctl alerts`: whether alerts are sent, and a test of their delivery."""

from __future__ import annotations

from typing import Final

import typer

from tenantctl.client import url
from tenantctl.options import Json, connect, examples, words
from tenantctl.render import message, print_fields, print_json
from tenantd.errors import TenantdError

EXAMPLES: Final = examples("tenantctl alerts", "tenantctl alerts test")
PATIENCE_S: Final = 330.0
"""Longer than one attempt may take (alerts.timeout_s)."""
app = typer.Typer(name="alerts", help="Show whether alerts reach your webhook, and send a test.", epilog=EXAMPLES)


@app.callback(invoke_without_command=True)
def show(ctx: typer.Context, json: Json = False) -> None:
    """Show whether alerts reach your webhook.

    The daemon sends one when a budget reaches a level, a tenant may be copying the model, the engine is lost, or
    isolation is broken. Set alerts.url in the configuration and reload it with SIGHUP.
    """
    if ctx.invoked_subcommand is not None:
        return
    with connect(ctx) as client:
        state = client.get(url("alerts"))
    if json:
        print_json(state)
        return
    print_fields(
        {
            "alerts": "sent to alerts.url" if state["is_on"] else "off (alerts.url is not set)",
            "delivered": state["delivered"],
            "given up": state["failed"],
            "dropped": state["dropped"],
            "waiting": state["waiting"],
            "trouble": state["trouble"] or "none",
        }
    )
    if state["is_on"]:
        message(f"to send one: {words(ctx)} alerts test")


@app.command(epilog=examples("tenantctl alerts test"))
def test(ctx: typer.Context, json: Json = False) -> None:
    """Send a test alert and wait for your webhook's answer.

    Exits with 1 if it was not delivered.
    """
    with connect(ctx) as client, client.another(PATIENCE_S) as patient:
        outcome = patient.post(url("alerts", "test"))
    if json:
        print_json(outcome)
        if outcome["trouble"]:
            raise typer.Exit(1)
    elif outcome["trouble"]:
        raise TenantdError(f"the test alert was not delivered: {outcome['trouble']}")
    else:
        message(f"delivered (HTTP {outcome['status']})")
