"""`tenantctl ledger renew`: begin the ledger anew in another currency."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from tenantctl.confirming import confirm
from tenantctl.ledger_place import LEDGER_NAME, StateDir
from tenantctl.ledger_place import state_dir as folder_of
from tenantctl.options import Json, examples
from tenantctl.render import message, print_fields, print_json
from tenantd.errors import ConfigError, TenantdError

EXAMPLES: Final = examples(
    "tenantctl ledger renew --currency EUR", "tenantctl ledger renew --currency EUR --yes --json"
)
MOST_CHARACTERS: Final = 8


def _currency(value: str) -> str:
    if not 1 <= len(value) <= MOST_CHARACTERS or not value.isprintable():
        raise typer.BadParameter(f"must be 1–{MOST_CHARACTERS} characters, such as EUR (got {value[:40]!r})")
    return value


def renew(
    ctx: typer.Context,
    currency: Annotated[
        str, typer.Option("--currency", metavar="TEXT", help="Currency of the new ledger.", callback=_currency)
    ],
    state_dir: StateDir = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    json: Json = False,
) -> None:
    """Start a new ledger in another currency. Stop the daemon first.

    Keeps tenants, keys, budgets in tokens and engine time, and the audit trail. Requests, prices, budgets in money and
    invoices stay in the old ledger, which is kept beside the new one. First bill what is still open.
    """
    import msgspec

    from tenantd.api.listener import FileLock
    from tenantd.clock import now_micros
    from tenantd.ledger.renewal import renew as begin_anew

    folder = folder_of(ctx, state_dir)
    ledger = folder / LEDGER_NAME
    if not ledger.is_file():
        raise ConfigError(f"{ledger}: no such file; pass --state-dir DIR")
    lock = FileLock(folder / "daemon.lock", owned=f"state folder {folder}")
    try:
        if not yes:
            _confirm(ledger, currency)
        renewed = begin_anew(ledger, currency, now_micros())
    finally:
        lock.release()
    if json:
        print_json(msgspec.to_builtins(renewed))
        return
    print_fields(
        {
            "new ledger": renewed.ledger,
            "old ledger": renewed.kept,
            "kept": f"{renewed.tenants} tenants and {renewed.keys} keys, and the audit trail",
            "left behind": f"{renewed.requests_left} requests and {renewed.invoices_left} invoices in "
            f"{renewed.currency_before}",
        }
    )
    message(f'next: set currency = "{currency}" and its prices in [billing], and start tenantd')
    if renewed.invoices_left:
        message("invoice numbers start again at 1; to tell them apart, set another billing.invoice_prefix")
    if renewed.tenants_with_own_prices:
        message(f"these tenants had their own prices; set them again: {', '.join(renewed.tenants_with_own_prices)}")
    if renewed.tenants_with_money_budgets:
        message(f"these tenants had budgets in money; set them again: {', '.join(renewed.tenants_with_money_budgets)}")


def _confirm(ledger: Path, currency: str) -> None:
    if not sys.stdin.isatty():
        raise typer.BadParameter("not a terminal; pass --yes to confirm")
    if not confirm(f"Start a new ledger at {ledger} in {currency}?"):
        raise TenantdError("nothing was renewed")
