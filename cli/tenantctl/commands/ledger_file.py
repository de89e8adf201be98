"""`tenantctl ledger`: check, back up, restore and prune the ledger."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tenantctl.check_lines import check_lines, result_line
from tenantctl.client import url
from tenantctl.commands import renew
from tenantctl.confirming import confirm
from tenantctl.installed import configured_anchor
from tenantctl.ledger_place import LEDGER_NAME, StateDir, progress, state_dir
from tenantctl.options import Json, connect, examples
from tenantctl.plain_values import quoted
from tenantctl.render import message, print_fields, print_json
from tenantctl.units import moment
from tenantd.errors import ConfigError, TenantdError

if TYPE_CHECKING:
    from tenantd.ledger.restoring import Comparison, Content

app = typer.Typer(name="ledger", help="Check, back up, restore and prune the ledger.", no_args_is_help=True)

BUSY_TIMEOUT_MS: Final = 1000
MOST_NAMED: Final = 20
PRUNE_TIMEOUT_S: Final = 24 * 3600.0
_MONTH: Final = re.compile("[0-9]{4}-(0[1-9]|1[0-2])|last|this")
app.command(epilog=renew.EXAMPLES)(renew.renew)
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")]


@app.command(epilog=examples("tenantctl ledger check", "tenantctl ledger check --state-dir /mnt/backup/tenantd --json"))
def check(ctx: typer.Context, state_dir: StateDir = None, json: Json = False) -> None:
    """Check everything that must hold in the ledger, and say what to do about each breach.

    Looks for damage and checks the references, states, prices and amounts of all requests, hourly sums against rows,
    budgets, free quotas, invoices, idempotency keys and the audit trail. Prints a line for each check: what it looked
    at, and whether it passed or how many breaches it found. Reads the file directly, even while the daemon runs, and
    delays no requests. Exits with 1 if something is wrong.
    """
    import msgspec

    from tenantd.ledger.inspection import inspect_file

    path = _folder(ctx, state_dir) / LEDGER_NAME
    with progress("checking") as on_progress:
        found = inspect_file(path, on_progress)
    if json:
        print_json({"ledger": str(path), **msgspec.to_builtins(found)})
    else:
        print_fields({"ledger": path, "result": result_line(found), **check_lines(found)})
        for breach in found.breaches:
            message(f"{breach.check.value}: {breach.what}; {breach.todo}")
        if found.more:
            message(f"and {found.more} more")
    if found.breaches:
        raise typer.Exit(1)


@app.command(
    epilog=examples("tenantctl ledger backup /mnt/backup/tenantd-2026-11-29.db", "tenantctl ledger backup /mnt/backup")
)
def backup(
    ctx: typer.Context,
    target: Annotated[
        Path, typer.Argument(metavar="FILE|DIR", help="New file, with a name that ends in .db, or an existing folder.")
    ],
    state_dir: StateDir = None,
    json: Json = False,
) -> None:
    """Copy the ledger, even while the daemon runs.

    The copy is one consistent state, readable only by you, and checked for damage. An existing file is never
    overwritten. Keep it on another disk.
    """
    import msgspec

    from tenantd.ledger.copies import back_up
    from tenantd.ledger.files import dated
    from tenantd.ledger.restoring import content_of_file

    ledger = _folder(ctx, state_dir) / LEDGER_NAME
    if target.is_dir():
        target = dated(target, "ledger", ".db")
    with progress("copying") as on_progress:
        back_up(ledger, target, BUSY_TIMEOUT_MS, lambda done, of: on_progress("", done, of))
    found = content_of_file(target)
    if json:
        print_json({"backup": str(target), "bytes": target.stat().st_size, **msgspec.to_builtins(found)})
        return
    print_fields({"backup": target, "size": f"{target.stat().st_size / 1e6:.1f} MB", **_described(found)})


def _described(content: Content) -> dict[str, object]:
    newest = f", the newest of {moment(content.newest_micros)}" if content.newest_micros else ""
    return {
        "schema": content.schema,
        "requests": f"{content.requests}{newest}",
        "invoices": content.invoice,
        "audit": f"up to entry {content.entry} {content.hash}" if content.entry else "nothing",
    }


@app.command(
    epilog=examples(
        "tenantctl ledger restore /mnt/backup/tenantd-2026-11-29.db",
        "tenantctl ledger restore ~/.local/state/tenantd/ledger.db.schema7.bak --yes",
    )
)
def restore(
    ctx: typer.Context,
    backup: Annotated[Path, typer.Argument(metavar="FILE", help="A backup of the ledger.")],
    anchor: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Anchor file, to see what would be lost. Default: security.anchor."),
    ] = None,
    state_dir: StateDir = None,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Replace the ledger with a backup. Stop the daemon first.

    First shows which requests, invoices and entries of the audit trail would be lost because the backup lacks them, and
    warns if it is not a copy of this ledger. --json names up to 1000 of the requests. The replaced ledger is kept
    beside the new one.
    """
    import msgspec

    from tenantd.api.listener import FileLock
    from tenantd.clock import now_micros
    from tenantd.ledger.anchored import Anchors
    from tenantd.ledger.half_done import undo_half_done
    from tenantd.ledger.restoring import compare
    from tenantd.ledger.restoring import restore as put_back

    folder = _folder(ctx, state_dir)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; create it with: mkdir -m 700 -p {folder}")
    ledger = folder / LEDGER_NAME
    lock = FileLock(folder / "daemon.lock", owned=f"state folder {folder}")
    try:
        kept_elsewhere = anchor if anchor is not None else configured_anchor()
        anchors = None if kept_elsewhere is None else Anchors.read(kept_elsewhere)
        undo_half_done(ledger)
        compared = compare(backup, ledger, anchors)
        for line in _losses(compared):
            message(line)
        if not yes:
            _confirm(ledger)
        with progress("restoring") as on_progress:
            kept = put_back(backup, ledger, compared, now_micros(), lambda done, of: on_progress("", done, of))
    finally:
        lock.release()
    if json:
        print_json({"ledger": str(ledger), "kept": kept and str(kept), **msgspec.to_builtins(compared)})
        return
    print_fields({"restored": ledger, "kept": kept or "nothing: there was no ledger", **_described(compared.backup)})


def _confirm(ledger: Path) -> None:
    if not sys.stdin.isatty():
        raise typer.BadParameter("not a terminal; pass --yes to confirm")
    if not confirm(f"Replace {ledger}?"):
        raise TenantdError("nothing was restored")


def _losses(compared: Comparison) -> list[str]:
    """What is lost, in words."""
    lines = []
    if compared.trouble:
        lines.append(f"the current ledger cannot be read, so it is not known what will be lost: {compared.trouble}")
    if compared.is_other:
        lines.append(
            "this is not a backup of the current ledger: it is from another installation, or they have diverged since"
        )
    if compared.has_log:
        lines.append("there is a write-ahead log beside this file; its contents are restored, too")
    if compared.is_plain:
        lines.append(
            "this file was not made by tenantctl ledger backup; if it was copied from a ledger in use, the contents of "
            "its log, ledger.db-wal, are missing"
        )
    if count := compared.lost_requests:
        what = "1 request" if count == 1 else f"{count} requests"
        more = f", and {count - MOST_NAMED} more" if count > MOST_NAMED else ""
        named = ", ".join(compared.lost_ids[:MOST_NAMED])
        lines.append(f"{what} will be lost and never billed; newest first: {named}{more}")
    if compared.lost_invoices:
        numbers = ", ".join(map(str, compared.lost_invoices[:MOST_NAMED]))
        lines.append(f"finalised invoices will be lost, and their numbers used again: {numbers}")
    if compared.lost_entries:
        what = "1 entry" if compared.lost_entries == 1 else f"{compared.lost_entries} entries"
        lines.append(f"the audit trail will lose {what}: in the backup, it ends at entry {compared.backup.entry}")
    return lines


@app.command(epilog=examples("tenantctl ledger prune --before 2026-09", "tenantctl ledger prune --before last --yes"))
def prune(
    ctx: typer.Context,
    before: Annotated[
        str,
        typer.Option(
            "--before", metavar="TIME", help="Delete requests that ended before this month (YYYY-MM or last)."
        ),
    ],
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Delete the requests of past months.

    Hourly sums, finalised invoices and the audit trail stay, so usage, statistics and invoices remain. The requests
    can no longer be listed, and reports on those months can begin and end only on the hour.
    """
    if not _MONTH.fullmatch(before):
        raise typer.BadParameter(
            f"must be YYYY-MM such as 2026-09, or 'last' (got {quoted(before)})", param_hint="--before"
        )
    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter("not a terminal; pass --yes to confirm")
        if not confirm(f"Delete all requests that ended before {before}?"):
            raise TenantdError("nothing was pruned")
    with connect(ctx) as client, client.another(PRUNE_TIMEOUT_S) as patient:
        answer = patient.post(url("ledger", "prune"), {"before": before})
    if json:
        print_json(answer)
        return
    if not answer["requests"]:
        message(f"nothing was pruned: no request ended before {answer['before']}")
        return
    print_fields(
        {
            "pruned": f"{answer['requests']} requests that ended before {answer['before']}",
            "kept": f"hourly sums, invoices, audit trail, and {answer['kept']} requests",
            "freed": f"{answer['freed_bytes'] / 1e6:.1f} MB within the file, for new requests",
        }
    )
    if answer["unfinalised"]:
        message(f"without finalised invoices for that time: {', '.join(answer['unfinalised'])}")


def _folder(ctx: typer.Context, given: Path | None) -> Path:
    return state_dir(ctx, given)
