"""`tenantctl tenant`: manage who may use the model and how much."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from tenantctl import budget_table, cache_options, system_prompt_options
from tenantctl.billing_options import with_billing
from tenantctl.cache_options import Cache
from tenantctl.client import url
from tenantctl.commands import team_commands
from tenantctl.confirming import confirm
from tenantctl.limit_options import with_limits
from tenantctl.options import Json, NewTenantArgument, TenantArgument, connect, examples, finite, number, words
from tenantctl.plain_values import quoted
from tenantctl.render import message, print_json, print_table
from tenantctl.system_prompt_options import System, SystemCompletions
from tenantctl.tenant_table import COLUMNS, SPARE, print_tenant, row
from tenantd.errors import NotFound, TenantdError

app = typer.Typer(name="tenant", help="Manage tenants and their limits.", no_args_is_help=True)


class Priority(StrEnum):
    """Class of service; high multiplies the weight by 8, low divides it by 8."""

    HIGH = "high"
    STANDARD = "standard"
    LOW = "low"


class OnAnomaly(StrEnum):
    """What to do with a tenant that may be copying the model."""

    LOG = "log"
    THROTTLE = "throttle"
    SUSPEND = "suspend"


_RIGHTS_PANEL = "Billing and rights"
Weight = Annotated[
    float | None,
    typer.Option(
        metavar="NUMBER",
        help="Share of the engine relative to other tenants (default 1).",
        parser=number,
        callback=finite,
    ),
]
PriorityOption = Annotated[
    Priority | None, typer.Option(metavar="high|standard|low", help="Multiplies the weight: high ×8, low ÷8.")
]
Uids = Annotated[
    list[str] | None,
    typer.Option("--uid", metavar="UID|none", help="Unix user id that may use this tenant; may be repeated."),
]
Adapter = Annotated[
    str | None,
    typer.Option(metavar="FILE|none", help="LoRA adapter (GGUF) for all its requests."),
]
Unbilled = Annotated[
    bool | None,
    typer.Option(
        "--unbilled/--billed",
        help="Leave its requests off invoices, or bill them.",
        rich_help_panel=_RIGHTS_PANEL,
    ),
]
AllowSpecial = Annotated[
    bool | None,
    typer.Option(
        "--allow-special/--no-allow-special",
        help="Let plain prompts contain special tokens (parse_special), or not.",
        rich_help_panel=_RIGHTS_PANEL,
    ),
]

OnAnomalyOption = Annotated[
    OnAnomaly | None,
    typer.Option(
        "--on-anomaly",
        metavar="log|throttle|suspend",
        help="If it seems to be copying the model: only log it, give it 1/8 of its weight, or suspend it.",
        rich_help_panel=_RIGHTS_PANEL,
    ),
]


@app.command(
    epilog=examples(
        "tenantctl tenant add acme",
        "tenantctl tenant add globex --weight 2 --max-queued 20",
        "KEY=$(tenantctl tenant add initech)",
    )
)
@with_limits
@with_billing
def add(
    ctx: typer.Context,
    name: NewTenantArgument,
    weight: Weight = None,
    priority: PriorityOption = None,
    uid: Uids = None,
    adapter: Adapter = None,
    cache: Cache = None,
    unbilled: Unbilled = None,
    allow_special: AllowSpecial = None,
    on_anomaly: OnAnomalyOption = None,
    system: System = None,
    system_completions: SystemCompletions = None,
    *,
    limits: dict[str, int | str | None],
    billing: dict[str, str],
    json: Json = False,
) -> None:
    """Add a tenant and print its key, which is shown only once."""
    body = {"name": name, **_changes(weight, priority, uid, adapter, unbilled, allow_special, on_anomaly, limits)}
    body |= cache_options.changes(cache) | system_prompt_options.changes(system, system_completions)
    body |= {"billing": billing} if billing else {}
    with connect(ctx) as client:
        answer = client.post(url("tenants"), body)
    if json:
        print_json(answer)
        return
    message(f"added tenant {name}; its key, shown only once:")
    print(answer["key"], flush=True)
    message(f'try: {words(ctx)} run --tenant {name} "Once upon a time"')


@app.command("list", epilog=examples("tenantctl tenant list", "tenantctl tenant list --json | jq '.tenants\\[].name'"))
def list_(ctx: typer.Context, json: Json = False) -> None:
    """List all tenants."""
    with connect(ctx) as client:
        answer = client.get(url("tenants"))
    if json:
        print_json(answer)
        return
    print_table(COLUMNS, [row(tenant) for tenant in answer["tenants"]], SPARE)
    if not answer["tenants"]:
        message(f"no tenants yet; add one: {words(ctx)} tenant add NAME")


@app.command(epilog=examples("tenantctl tenant show acme"))
def show(ctx: typer.Context, tenant: TenantArgument, json: Json = False) -> None:
    """Show one tenant."""
    with connect(ctx) as client:
        answer = client.get(url("tenants", tenant))
        budgets = {} if json else budget_table.fields(client.get(url("tenants", tenant, "budgets")))
    print_tenant(answer, json, budgets)


@app.command(
    "set",
    epilog=examples(
        "tenantctl tenant set acme --weight 3 --priority high",
        "tenantctl tenant set acme --requests-per-minute none       [dim]# no limit[/]",
        "tenantctl tenant set acme --requests-per-minute default    [dim]# back to the default[/]",
        "tenantctl tenant set acme --tokens-per-minute 60000 --on-limit queue --max-wait 30",
        "tenantctl tenant set acme --uid 1001 --uid 1002",
        "tenantctl tenant set acme --adapter acme-lora.gguf",
        "tenantctl tenant set acme --cache on",
        "tenantctl tenant set acme --system @policy.txt --system-completions",
        "tenantctl tenant set acme --billing-name 'Acme Ltd' --billing-address '1 High St\\nLondon'",
    ),
)
@with_limits
@with_billing
def set_(
    ctx: typer.Context,
    tenant: TenantArgument,
    weight: Weight = None,
    priority: PriorityOption = None,
    uid: Uids = None,
    adapter: Adapter = None,
    cache: Cache = None,
    unbilled: Unbilled = None,
    allow_special: AllowSpecial = None,
    on_anomaly: OnAnomalyOption = None,
    system: System = None,
    system_completions: SystemCompletions = None,
    *,
    limits: dict[str, int | str | None],
    billing: dict[str, str],
    json: Json = False,
) -> None:
    """Change a tenant.

    Changes only the options you pass; takes effect with the next request. A limit of `none` is no limit, and `default`
    takes the limit for all tenants from the configuration. 0 blocks all requests; for --max-queued it only removes the
    queue. `none` also removes all uids, the adapter or the system prompt.
    """
    changes = _changes(weight, priority, uid, adapter, unbilled, allow_special, on_anomaly, limits)
    changes |= cache_options.changes(cache) | system_prompt_options.changes(system, system_completions)
    changes |= {"billing": billing} if billing else {}
    if not changes:
        raise typer.BadParameter("nothing to change; pass at least one option")
    with connect(ctx) as client:
        print_tenant(client.patch(url("tenants", tenant), changes), json)


@app.command(epilog=examples("tenantctl tenant suspend acme"))
def suspend(ctx: typer.Context, tenant: TenantArgument, json: Json = False) -> None:
    """Refuse new requests; running ones finish."""
    with connect(ctx) as client:
        answer = client.post(url("tenants", tenant, "suspend"))
    _report(answer, json, f"{tenant} is suspended; undo: {words(ctx)} tenant resume {tenant}")


@app.command(epilog=examples("tenantctl tenant resume acme"))
def resume(ctx: typer.Context, tenant: TenantArgument, json: Json = False) -> None:
    """Let a suspended tenant send requests again."""
    with connect(ctx) as client:
        answer = client.post(url("tenants", tenant, "resume"))
    _report(answer, json, f"{tenant} is active")


@app.command(epilog=examples("tenantctl tenant rename acme acme-corp"))
def rename(ctx: typer.Context, tenant: TenantArgument, new_name: NewTenantArgument, json: Json = False) -> None:
    """Rename a suspended tenant that has no requests.

    Its keys stay valid. An invoice shows the tenant's name at its last request of the month.
    """
    with connect(ctx) as client:
        answer = client.post(url("tenants", tenant, "rename"), {"name": new_name})
    _report(answer, json, f"{tenant} is now {new_name}; let it send requests: {words(ctx)} tenant resume {new_name}")


@app.command(epilog=examples("tenantctl tenant remove acme", "tenantctl tenant remove acme --yes"))
def remove(
    ctx: typer.Context,
    tenant: TenantArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    json: Json = False,
) -> None:
    """Remove a tenant and revoke its keys.

    Its past usage stays in the ledger and on invoices.
    """
    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter("not a terminal; pass --yes to confirm")
        with connect(ctx) as client:
            client.get(url("tenants", tenant))  # nobody is asked about a tenant that does not exist
        if not confirm(f"Remove tenant {tenant} and revoke its keys?"):
            raise TenantdError(f"{tenant} was not removed")
    with connect(ctx) as client:
        answer = client.delete(url("tenants", tenant))
    _report(answer, json, f"{tenant} is removed")


@app.command(epilog=examples("tenantctl tenant forget acme", "tenantctl tenant forget acme --id 3 --yes"))
def forget(
    ctx: typer.Context,
    tenant: TenantArgument,
    id: Annotated[int | None, typer.Option(metavar="N", min=1, help="Id of a removed tenant of this name.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    json: Json = False,
) -> None:
    """Make a tenant's hashes in the audit trail unmatchable.

    Deletes the key that made them, even if the tenant was removed. Prompts and answers can then no longer be matched
    with its past entries; the entries stay, and the trail still verifies. A tenant that was not removed gets a new key
    for its next requests. Backups of the ledger keep the old key.
    """
    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter("not a terminal; pass --yes to confirm")
        number = id or _id_of(ctx, tenant)
        if not confirm(
            f"Make the hashes of {tenant} (id {number}) in the audit trail unmatchable? This cannot be undone."
        ):
            raise TenantdError(f"{tenant} was not forgotten")
    path = url("tenants", tenant, "forget")
    with connect(ctx) as client:
        answer = client.post(path if id is None else f"{path}?id={id}")
    done = f"{tenant}'s past hashes can no longer be matched (id {answer['id']})"
    if not answer["had_key"]:
        done = f"{tenant} (id {answer['id']}) was already forgotten"
    _report(answer, json, done if answer["is_removed"] else f"{done}; its next requests use a new key")


def _id_of(ctx: typer.Context, tenant: str) -> str:
    """The id of the tenant that has the name, or of the last removed one that the audit trail knows."""
    with connect(ctx) as client:
        try:
            return str(client.get(url("tenants", tenant))["id"])
        except NotFound:
            entries = client.get(url("audit"), tenant=tenant, limit=1)["entries"]
            return str(entries[0]["tenant_id"]) if entries else "unknown"


# ---- request bodies -----------------------------------------------------------------------------------------------


def _changes(
    weight: float | None,
    priority: Priority | None,
    uids: list[str] | None,
    adapter: str | None,
    unbilled: bool | None,
    allow_special: bool | None,
    on_anomaly: OnAnomaly | None,
    limits: dict[str, int | str | None],
) -> dict[str, Any]:
    """The fields for the options that were passed."""
    changes: dict[str, Any] = {}
    if weight is not None:
        changes["weight"] = weight
    if priority is not None:
        changes["priority"] = priority.value
    if uids:
        changes["uids"] = [] if uids == ["none"] else [_whole_number("--uid", uid) for uid in uids]
    if adapter is not None:
        changes["adapter"] = "" if adapter == "none" else os.path.abspath(adapter)
    if unbilled is not None:
        changes["unbilled"] = unbilled
    if allow_special is not None:
        changes["allow_special"] = allow_special
    if on_anomaly is not None:
        changes["on_anomaly"] = on_anomaly.value
    if limits:
        changes["limits"] = limits
    return changes


def _whole_number(option: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise typer.BadParameter(
            f"must be a user id, as id -u NAME prints it, or none (got {quoted(text)})", param_hint=option
        )
    return int(text)


# ---- output ----------------------------------------------------------------------------------------------


def _report(answer: Any, json: bool, text: str) -> None:
    if json:
        print_json(answer)
    else:
        message(text)


# ---- as a file -------------------------------------------------------------------------------------------

app.command(epilog=team_commands.EXPORT_EXAMPLES)(team_commands.export)
app.command(epilog=team_commands.APPLY_EXAMPLES)(team_commands.apply)
