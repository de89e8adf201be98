"""The options of `tenantctl tenant add` and `set` for whom invoices are addressed to, and how `show` shows it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Final

import typer

PANEL: Final = "Invoices"
FIELDS: Final = {
    "name": "Name on invoices",
    "address": "Address on invoices; \\n begins a new line",
    "email": "E-mail address on invoices",
    "tax_id": "Tax number on invoices",
    "reference": "Reference on invoices, such as a purchase order",
}


def with_billing(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the parameter `billing` of a command with one option for each field.

    The parameter gets the fields that were passed; `none` empties one.
    """

    @functools.wraps(command)
    def with_options(*arguments: Any, **given: Any) -> None:
        texts = {name: given.pop(f"billing_{name}") for name in FIELDS}
        billing = {name: _value(name, text) for name, text in texts.items() if text is not None}
        command(*arguments, **given, billing=billing)

    signature = inspect.signature(command, eval_str=True)
    parameters = list(signature.parameters.values())
    place = [parameter.name for parameter in parameters].index("billing")
    parameters[place : place + 1] = [_option(name, help) for name, help in FIELDS.items()]
    with_options.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return with_options


def shown(tenant: dict[str, Any]) -> dict[str, object]:
    """The fields that are not empty."""
    given = tenant.get("billing") or {}
    found = {name: given.get(name) for name in FIELDS}
    return {f"billing {name.replace('_', ' ')}": text.replace("\n", ", ") for name, text in found.items() if text}


def _option(name: str, help: str) -> inspect.Parameter:
    flag = f"--billing-{name.replace('_', '-')}"
    option = typer.Option(flag, metavar="TEXT|none", help=f"{help}.", rich_help_panel=PANEL)
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(f"billing_{name}", kind, default=None, annotation=Annotated[str | None, option])


def _value(name: str, text: str) -> str:
    if text == "none":
        return ""
    if not text.strip():
        raise typer.BadParameter("is empty; pass none to remove it", param_hint=f"--billing-{name.replace('_', '-')}")
    return text.replace("\\n", "\n") if name == "address" else text
