"""`tenantctl tenant export` and `tenantctl tenant apply`: tenants as a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tenantctl.client import Client, url
from tenantctl.confirming import confirm
from tenantctl.options import connect, examples
from tenantctl.render import message
from tenantd.errors import InvalidRequest, TenantdError
from tenantd.printable import one_line

if TYPE_CHECKING:
    from tenantctl.team_difference import Step

EXPORT_EXAMPLES = examples("tenantctl tenant export > team.toml")
APPLY_EXAMPLES = examples(
    "tenantctl tenant apply team.toml --dry-run    [dim]# only show what would change[/]",
    "tenantctl tenant apply team.toml",
    "tenantctl tenant apply team.toml --prune     [dim]# also remove tenants that it does not name[/]",
)
MARKS: Final = {"add": ("+", "green"), "change": ("~", "yellow"), "remove": ("-", "red")}


def export(ctx: typer.Context) -> None:
    """Print all tenants with their settings, limits, billing details and budgets as TOML.

    Apply it with `tenantctl tenant apply`, here or on another daemon. Leaves out keys, system prompts and budgets of
    keys.
    """
    from tenantctl.team_file import team_text

    with connect(ctx) as client:
        tenants, budgets, currency = _now(client)
    print(team_text(tenants, budgets, currency), end="")


def apply(
    ctx: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="File in the format of `export`; - reads standard input.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the differences and change nothing.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove tenants that the file does not name.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before tenants are removed.")] = False,
) -> None:
    """Add and change tenants to match a file, and show what changes.

    Tenants that the file does not name stay as they are, unless --prune removes them. Settings that it leaves
    out stay, too. A table of limits, billing details or budgets is complete: what it leaves out is reset. The key of
    each new tenant is printed after its name, and shown only once.
    """
    from tenantctl.team_difference import difference, removals
    from tenantctl.team_file import TeamFile

    team = TeamFile(_read(file), "standard input" if str(file) == "-" else str(file))
    with connect(ctx) as client:
        tenants, budgets, currency = _now(client)
        if team.currency not in ("", currency):
            raise team.wrong(("currency",), f"is {team.currency}, but this daemon bills in {currency}")
        steps = [*(removals(team, tenants) if prune else []), *difference(team, tenants, budgets)]
        for step in steps:
            _show(step)
        if not steps:
            message("nothing to change")
            return
        if dry_run:
            message(f"would have {_summary(steps)}")
            return
        _confirm([step.tenant for step in steps if step.kind == "remove"], yes=yes)
        for number, step in enumerate(steps):
            try:
                _do(client, step)
            except TenantdError as e:
                raise type(e)(f"{step.tenant}: {e.message} ({number} of {len(steps)} changes were made)") from None
    message(_summary(steps))


def _now(client: Client) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str]:
    """Tenants, budgets and the currency."""
    budgets = client.get(url("budgets"))
    return client.get(url("tenants"))["tenants"], budgets["budgets"], budgets["currency"]


def _read(file: Path) -> str:
    from tenantctl.team_file import HOW_TO_GET_ONE, MOST_BYTES

    if str(file) == "-":
        data = sys.stdin.buffer.read(MOST_BYTES + 1)
    else:
        with file.open("rb") as opened:
            data = opened.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise InvalidRequest(f"{file}: not a team file: it is longer than {MOST_BYTES // 2**20} MiB; {HOW_TO_GET_ONE}")
    try:
        return data.decode()
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise InvalidRequest(f"{file}, line {line}: not a team file: it is not UTF-8; {HOW_TO_GET_ONE}") from None


def _confirm(names: Sequence[str], *, yes: bool) -> None:
    if not names or yes:
        return
    if not sys.stdin.isatty():
        raise typer.BadParameter("not a terminal; pass --yes to confirm that tenants are removed")
    if not confirm(f"Remove {', '.join(names)} and revoke their keys?"):
        raise TenantdError("nothing was changed")


def _do(client: Client, step: Step) -> None:
    if step.kind == "remove":
        client.delete(url("tenants", step.tenant))
        return
    if step.kind == "add":
        answer = client.post(url("tenants"), {"name": step.tenant, **step.body})
        message(f"added tenant {step.tenant}; its key, shown only once:")
        print(f"{step.tenant} {answer['key']}", flush=True)
    elif step.body:
        client.patch(url("tenants", step.tenant), step.body)
    for body in step.budgets:
        client.patch(url("tenants", step.tenant, "budgets"), body)


def _show(step: Step) -> None:
    """Print what happens to a tenant, on standard error: standard output is for keys."""
    mark, colour = MARKS[step.kind]
    lines = [f"{mark} {step.tenant}"]
    width = max((len(change.name) for change in step.changes), default=0)
    for change in step.changes:
        before = "" if step.kind == "add" else f"{change.before} → "
        lines.append(one_line(f"    {change.name:{width}}  {before}{change.after}"))
    if not sys.stderr.isatty():
        print("\n".join(lines), file=sys.stderr)
        return
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, highlight=False).print(Text("\n".join(lines), colour), soft_wrap=True)


def _summary(steps: Sequence[Step]) -> str:
    verbs = {"add": "added", "change": "changed", "remove": "removed"}
    count = {kind: sum(step.kind == kind for step in steps) for kind in verbs}
    return ", ".join(f"{verb} {count[kind]}" for kind, verb in verbs.items() if count[kind])
