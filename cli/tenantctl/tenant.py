"""`tenantctl tenant`: who may use the model, and how much of it."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from tenantctl.client import url
from tenantctl.options import Json, NewTenantArgument, TenantArgument, connect, examples, finite, words
from tenantctl.render import message, print_fields, print_json, print_table
from tenantctl.units import NOTHING, moment
from tenantd.errors import TenantdError

app = typer.Typer(name="tenant", help="Who may use the model, and how much of it.", no_args_is_help=True)


class Priority(StrEnum):
    """A class of service: high counts eightfold, low an eighth."""

    HIGH = "high"
    STANDARD = "standard"
    LOW = "low"


class OnLimit(StrEnum):
    """What becomes of a request over a limit per minute."""

    REJECT = "reject"
    QUEUE = "queue"


_LIMIT = "N|none"
Weight = Annotated[
    float | None,
    typer.Option(metavar="NUMBER", help="Its share of the engine, next to the others'.", callback=finite),
]
PriorityOption = Annotated[
    Priority | None, typer.Option(metavar="high|standard|low", help="high counts eightfold, low an eighth.")
]
Uids = Annotated[
    list[str] | None,
    typer.Option("--uid", metavar="UID|none", help="A Unix user who acts as it; may be repeated."),
]
Adapter = Annotated[
    str | None,
    typer.Option(metavar="FILE|none", help="LoRA adapter (GGUF) that all its requests run with."),
]
MaxConcurrent = Annotated[str | None, typer.Option(metavar=_LIMIT, help="Requests that run at the same time.")]
MaxQueued = Annotated[str | None, typer.Option(metavar=_LIMIT, help="Requests that wait; more are refused.")]
MaxTokens = Annotated[str | None, typer.Option(metavar=_LIMIT, help="Output tokens of one request.")]
MaxContext = Annotated[str | None, typer.Option(metavar=_LIMIT, help="Prompt and output tokens of one request.")]
RequestsPerMinute = Annotated[str | None, typer.Option(metavar=_LIMIT, help="Requests let in within any 60 s.")]
TokensPerMinute = Annotated[
    str | None, typer.Option(metavar=_LIMIT, help="Prompt and output tokens within any 60 s; streams are slowed down.")
]
ReservedSlots = Annotated[
    str | None, typer.Option(metavar=_LIMIT, help="Slots kept for it; lent to others while it needs none.")
]
OnLimitOption = Annotated[
    OnLimit | None,
    typer.Option(metavar="reject|queue", help="Requests over a limit per minute are refused, or wait."),
]
MaxWait = Annotated[str | None, typer.Option(metavar="SECONDS|none", help="With queue: refused after so long.")]


@app.command(
    epilog=examples(
        "tenantctl tenant add acme",
        "tenantctl tenant add globex --weight 2 --max-queued 20",
        "KEY=$(tenantctl tenant add initech)",
    )
)
def add(
    ctx: typer.Context,
    name: NewTenantArgument,
    weight: Weight = None,
    priority: PriorityOption = None,
    uid: Uids = None,
    adapter: Adapter = None,
    max_concurrent: MaxConcurrent = None,
    max_queued: MaxQueued = None,
    max_tokens_per_request: MaxTokens = None,
    max_context_tokens: MaxContext = None,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    reserved_slots: ReservedSlots = None,
    on_limit: OnLimitOption = None,
    max_wait: MaxWait = None,
    json: Json = False,
) -> None:
    """Add a tenant and print its key, which is shown this once."""
    limits = _limits(
        on_limit,
        max_concurrent=max_concurrent,
        max_queued=max_queued,
        max_tokens_per_request=max_tokens_per_request,
        max_context_tokens=max_context_tokens,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        reserved_slots=reserved_slots,
        max_wait_s=max_wait,
    )
    body = {"name": name, **_changes(weight, priority, uid, adapter, limits)}
    with connect(ctx) as client:
        answer = client.post(url("tenants"), body)
    if json:
        print_json(answer)
        return
    message(f"tenant {name} added; its key, shown this once:")
    print(answer["key"], flush=True)
    message(f'try: {words(ctx)} run --tenant {name} "Once upon a time"')


@app.command("list", epilog=examples("tenantctl tenant list", "tenantctl tenant list --json | jq '.tenants\\[].name'"))
def list_(ctx: typer.Context, json: Json = False) -> None:
    """List the tenants."""
    with connect(ctx) as client:
        answer = client.get(url("tenants"))
    if json:
        print_json(answer)
        return
    print_table(COLUMNS, [_row(tenant) for tenant in answer["tenants"]])
    if not answer["tenants"]:
        message(f"no tenants yet; add one: {words(ctx)} tenant add NAME")


@app.command(epilog=examples("tenantctl tenant show acme"))
def show(ctx: typer.Context, tenant: TenantArgument, json: Json = False) -> None:
    """Show one tenant."""
    with connect(ctx) as client:
        _print(client.get(url("tenants", tenant)), json)


@app.command(
    "set",
    epilog=examples(
        "tenantctl tenant set acme --weight 3 --priority high",
        "tenantctl tenant set acme --max-queued none    [dim]# no limit of its own[/]",
        "tenantctl tenant set acme --tokens-per-minute 60000 --on-limit queue --max-wait 30",
        "tenantctl tenant set acme --uid 1001 --uid 1002",
        "tenantctl tenant set acme --adapter acme-lora.gguf",
    ),
)
def set_(
    ctx: typer.Context,
    tenant: TenantArgument,
    weight: Weight = None,
    priority: PriorityOption = None,
    uid: Uids = None,
    adapter: Adapter = None,
    max_concurrent: MaxConcurrent = None,
    max_queued: MaxQueued = None,
    max_tokens_per_request: MaxTokens = None,
    max_context_tokens: MaxContext = None,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    reserved_slots: ReservedSlots = None,
    on_limit: OnLimitOption = None,
    max_wait: MaxWait = None,
    json: Json = False,
) -> None:
    """Change a tenant.

    Only what is named changes, from the next request on. `none` removes a limit, or all uids; a limit of 0 allows none.
    """
    limits = _limits(
        on_limit,
        max_concurrent=max_concurrent,
        max_queued=max_queued,
        max_tokens_per_request=max_tokens_per_request,
        max_context_tokens=max_context_tokens,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        reserved_slots=reserved_slots,
        max_wait_s=max_wait,
    )
    changes = _changes(weight, priority, uid, adapter, limits)
    if not changes:
        raise typer.BadParameter("nothing to change; name at least one option", param_hint="OPTIONS")
    with connect(ctx) as client:
        _print(client.patch(url("tenants", tenant), changes), json)


@app.command(epilog=examples("tenantctl tenant suspend acme"))
def suspend(ctx: typer.Context, tenant: TenantArgument, json: Json = False) -> None:
    """Refuse new requests; running ones finish."""
    with connect(ctx) as client:
        answer = client.post(url("tenants", tenant, "suspend"))
    _report(answer, json, f"{tenant} is suspended; undo: {words(ctx)} tenant resume {tenant}")


@app.command(epilog=examples("tenantctl tenant resume acme"))
def resume(ctx: typer.Context, tenant: TenantArgument, json: Json = False) -> None:
    """Take a suspended tenant's requests again."""
    with connect(ctx) as client:
        answer = client.post(url("tenants", tenant, "resume"))
    _report(answer, json, f"{tenant} is active")


@app.command(epilog=examples("tenantctl tenant remove acme", "tenantctl tenant remove acme --yes"))
def remove(
    ctx: typer.Context,
    tenant: TenantArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Remove a tenant and revoke its keys.

    What it used stays in the ledger and on invoices.
    """
    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter("there is no terminal to ask on; say --yes", param_hint="--yes")
        if not typer.confirm(f"Remove tenant {tenant} and revoke its keys?", err=True):
            raise TenantdError(f"{tenant} was not removed")
    with connect(ctx) as client:
        answer = client.delete(url("tenants", tenant))
    _report(answer, json, f"{tenant} is removed")


# ---- what is sent -----------------------------------------------------------------------------------------------


def _changes(
    weight: float | None,
    priority: Priority | None,
    uids: list[str] | None,
    adapter: str | None,
    limits: dict[str, int | str | None],
) -> dict[str, Any]:
    """Only what was named."""
    changes: dict[str, Any] = {}
    if weight is not None:
        changes["weight"] = weight
    if priority is not None:
        changes["priority"] = priority.value
    if uids:
        changes["uids"] = [] if uids == ["none"] else [_whole_number("--uid", uid) for uid in uids]
    if adapter is not None:
        changes["adapter"] = "" if adapter == "none" else os.path.abspath(adapter)
    if limits:
        changes["limits"] = limits
    return changes


def _limits(on_limit: OnLimit | None, **named: str | None) -> dict[str, int | str | None]:
    """Only the limits that were named; `none` becomes null."""
    limits: dict[str, int | str | None] = {
        name: None if text == "none" else _whole_number("--" + name.removesuffix("_s").replace("_", "-"), text)
        for name, text in named.items()
        if text is not None
    }
    if on_limit is not None:
        limits["on_limit"] = on_limit.value
    return limits


def _whole_number(option: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise typer.BadParameter(f"{text!r} is neither a whole number nor none", param_hint=option)
    return int(text)


# ---- what is shown ----------------------------------------------------------------------------------------------


def _report(answer: Any, json: bool, text: str) -> None:
    if json:
        print_json(answer)
    else:
        message(text)


def _print(answer: Any, json: bool) -> None:
    if json:
        print_json(answer)
        return
    tenant = answer["tenant"]
    print_fields(
        {
            "tenant": tenant["name"],
            "state": tenant["state"],
            "weight": f"{tenant['weight']:g}",
            "priority": tenant["priority"],
            "uids": _uids(tenant),
            "adapter": tenant.get("adapter") or NOTHING,
            **{name.replace("_", " "): value for name, value in tenant["limits"].items()},
            "created": moment(tenant["created_micros"]),
        }
    )


COLUMNS: Final = [
    *("tenant", "state", "weight>", "priority", "reserved>", "concurrent>", "queued>", "tokens>", "context>"),
    *("requests/min>", "tokens/min>", "then", "uids"),
]


def _row(tenant: dict[str, Any]) -> list[object]:
    limits = tenant["limits"]
    names = ("reserved_slots", "max_concurrent", "max_queued", "max_tokens_per_request", "max_context_tokens")
    return [
        tenant["name"],
        tenant["state"],
        f"{tenant['weight']:g}",
        tenant["priority"],
        *[limits[name] for name in names],
        limits["requests_per_minute"],
        limits["tokens_per_minute"],
        limits["on_limit"],
        _uids(tenant),
    ]


def _uids(tenant: dict[str, Any]) -> str:
    return ",".join(map(str, tenant["uids"])) or NOTHING
