"""`tenantctl audit`: read, follow, check and export the audit trail."""

from __future__ import annotations

import csv
import json as json_lines
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tenantctl.audit_lines import COLUMNS, LabelOf, line, rows
from tenantctl.audit_reading import KeyLabels, entries_after, following, newest_entries, wanted
from tenantctl.client import url
from tenantctl.confirming import confirm
from tenantctl.ledger_place import LEDGER_NAME, StateDir, progress
from tenantctl.ledger_place import state_dir as folder_of
from tenantctl.options import Json, TenantFilter, connect, examples, optional_tenant
from tenantctl.prompt_input import text_or_file
from tenantctl.render import message, print_fields, print_json, print_table
from tenantctl.times import Since, Until, moment_of, time_range
from tenantctl.units import moment
from tenantd.errors import ConfigError, TenantdError

if TYPE_CHECKING:
    from tenantd.ledger.verify import Verdict

app = typer.Typer(name="audit", help="Read and check the audit trail: who did what, and when.", no_args_is_help=True)

USUALLY_SHOWN: Final = 50
MOST_SHOWN: Final = 100_000
SIGINT_EXIT: Final = 128 + 2
REPORT_TIMEOUT_S: Final = 3600.0
Event = Annotated[
    str | None,
    typer.Option(metavar="EVENT", help="Only this kind of event, such as entered, response, refused or administered."),
]
RequestFilter = Annotated[
    str | None,
    typer.Option(
        "--request", metavar="REQUEST", help="Only this request: its id, or at least 8 digits of its start or end."
    ),
]
RequiredTenant = Annotated[
    str, typer.Option("--tenant", metavar="NAME", help="Tenant whose requests to search.", callback=optional_tenant)
]
RemovedId = Annotated[int | None, typer.Option("--id", metavar="N", min=1, help="Id of a removed tenant of this name.")]


@app.command(
    epilog=examples(
        "tenantctl audit log --tenant acme --since 2h",
        "tenantctl audit log --event administered --since 2026-11-01",
        "tenantctl audit log --request req_0123456789abcdef0123456789abcdef --json",
        "tenantctl audit log --follow --json | jq .event",
    )
)
def log(
    ctx: typer.Context,
    tenant: TenantFilter = None,
    since: Since = None,
    until: Until = None,
    event: Event = None,
    request: RequestFilter = None,
    id: RemovedId = None,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=MOST_SHOWN,
            help="Show the newest N entries. Default: 50, or all with --since or --until.",
            show_default=False,
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing new entries as they come.")] = False,
    json: Json = False,
) -> None:
    """Show the newest entries of the audit trail, oldest first.

    With --since or --until it shows all in that range, up to 100,000. With --follow, --json prints one object per line.
    """
    if follow and until is not None:
        raise typer.BadParameter("cannot be used with --follow", param_hint="--until")
    filters = wanted(tenant, since, until, event, request, id)
    most = limit or (USUALLY_SHOWN if since is until is None else MOST_SHOWN)
    with connect(ctx) as client:
        label_of = KeyLabels(client)
        entries, head, is_complete = newest_entries(client, filters, most)
        if not is_complete and (limit is None or since is not None or until is not None):
            message(f"showing only the newest {most}; to see others, pass --limit N or --until")
        if not follow:
            _print(entries, label_of, is_complete=is_complete, json=json)
            return
        try:
            for entry in entries:
                _print_one(entry, label_of, json)
            for entry in following(client, filters, head):
                _print_one(entry, label_of, json)
        except KeyboardInterrupt:
            raise typer.Exit(SIGINT_EXIT) from None


def _print_one(entry: dict[str, Any], label_of: LabelOf, json: bool) -> None:
    print(json_lines.dumps(entry) if json else line(entry, label_of), flush=True)


def _print(entries: list[dict[str, Any]], label_of: LabelOf, *, is_complete: bool, json: bool) -> None:
    if json:
        print_json({"entries": entries, "is_complete": is_complete})
        return
    print_table(COLUMNS, rows(entries, label_of))
    if not entries:
        message("no such entries")


@app.command(
    epilog=examples(
        "tenantctl audit match --tenant acme --response @answer.txt",
        "tenantctl audit match --tenant acme --prompt 'What is our password?' --since 30d",
    )
)
def match(
    ctx: typer.Context,
    tenant: RequiredTenant,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Find requests with this prompt. @FILE reads it from a file.")
    ] = None,
    response: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Find requests with this complete answer. @FILE reads it from a file."),
    ] = None,
    since: Since = None,
    until: Until = None,
    id: RemovedId = None,
    json: Json = False,
) -> None:
    """Find requests by the text of their prompt or answer.

    Tries a prompt both as a plain prompt and as a chat of one message, with the tenant's current system prompt and
    without one. An answer must be complete. Both are tried with and without a trailing newline. Only hashes are
    compared, so requests from before the tenant was forgotten are not found. Exits with 1 if nothing matches.
    """
    if (prompt is None) == (response is None):
        raise typer.BadParameter("pass either --prompt or --response", param_hint="--prompt")
    since_micros, until_micros = time_range(since, until)
    body = {
        "tenant": tenant,
        "id": id,
        "prompts": [] if prompt is None else _ways_to_write(prompt, "--prompt"),
        "responses": [] if response is None else _ways_to_write(response, "--response"),
        "since_micros": since_micros,
        "until_micros": until_micros,
    }
    with connect(ctx) as client, client.another(REPORT_TIMEOUT_S) as patient:
        answer = patient.post(url("audit", "match"), body)
    if json:
        print_json(answer)
    elif answer["entries"]:
        print_table(COLUMNS, rows(answer["entries"]))
    if not answer["entries"]:
        message(f"no request of {tenant} (id {answer['tenant_id']}) matches")
        _hint_at_file(prompt if prompt is not None else response or "")
        raise typer.Exit(1)
    if not json and not answer["is_complete"]:
        message("these are the oldest; to see more, pass --since")


def _hint_at_file(text: str) -> None:
    try:
        is_file = Path(text).is_file()
    except (OSError, ValueError):  # too long for a name
        is_file = False
    if is_file:
        message(f"{text} is the name of a file; did you mean @{text}?")


def _ways_to_write(value: str, option: str) -> list[str]:
    """The text, and without the line end that editors add to a file. Raises BadParameter if it is empty."""
    text = text_or_file(value, option)
    if not text:
        raise typer.BadParameter("must not be empty", param_hint=option)
    return list(dict.fromkeys(way for way in (text, text.removesuffix("\n")) if way))


# ---- verify -------------------------------------------------------------------------------------------------------

WHAT_NOW: Final = (
    "keep a copy of the ledger's files as they are now, and compare the entry with a backup or an earlier export; "
    "anybody who can write these files may have altered them"
)


@app.command(
    epilog=examples(
        "tenantctl audit verify",
        "tenantctl audit verify --anchor /mnt/other-disk/tenantd.anchor",
        "tenantctl audit verify --state-dir /mnt/backup/tenantd --json",
    )
)
def verify(
    ctx: typer.Context,
    anchor: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Anchor file to compare with (see security.anchor).")
    ] = None,
    state_dir: StateDir = None,
    json: Json = False,
) -> None:
    """Check that no entry was edited, deleted, moved or inserted.

    Reads the ledger's file, so it also works while the daemon is stopped, and on a backup. Names the first bad entry
    and exits with 1 if there is one. Only with --anchor can it detect that the whole trail was replaced.
    """
    import msgspec

    from tenantd.ledger.anchored import Anchors
    from tenantd.ledger.verify import verify_file

    path = folder_of(ctx, state_dir) / LEDGER_NAME
    if not path.exists():
        raise ConfigError(
            f"{path}: no such file; tenantd has not run with this state folder yet, or pass --state-dir DIR"
        )
    anchors = None if anchor is None else Anchors.read(anchor)
    with progress("verifying") as on_progress:
        verdict = verify_file(path, anchors, lambda done, of: on_progress("", done, of))
    if json:
        print_json({"ledger": str(path), **msgspec.to_builtins(verdict)})
    else:
        _print_verdict(path, verdict, anchor)
    if verdict.finding is not None:
        message(f"tenantctl: the audit trail was altered; {WHAT_NOW}")
        raise typer.Exit(1)


def _print_verdict(path: Path, verdict: Verdict, anchor: Path | None) -> None:
    finding = verdict.finding
    fields: dict[str, object] = {"ledger": path}
    if finding is None:
        fields["result"] = "intact"
    else:
        fields["result"] = f"{finding.kind.value} at entry {finding.number}"
        fields["finding"] = finding.message
    for later in verdict.later:
        fields[f"and at {later.number}"] = f"{later.kind.value}: {later.message}"
    fields["entries"] = f"{verdict.entries} verified" + (f", {verdict.pruned} pruned" if verdict.pruned else "")
    if finding is None:
        fields["newest"] = f"{verdict.number} {verdict.hash}"
    elif finding.number > 1:
        fields["intact"] = f"up to entry {finding.number - 1}"
    if anchor is not None:
        fields["anchors"] = f"{verdict.anchors} agree"
    print_fields(fields)
    for note in verdict.notes:
        message(f"note: {note}")


# ---- export and prune ---------------------------------------------------------------------------------------------


class Format(StrEnum):
    """Of an export."""

    JSONL = "jsonl"
    CSV = "csv"


@app.command(
    epilog=examples(
        "tenantctl audit export > audit.jsonl",
        "tenantctl audit export --since 2026-11-01 --until 2026-12-01 --format csv > november.csv",
    )
)
def export(
    ctx: typer.Context,
    format: Annotated[Format, typer.Option(metavar="jsonl|csv", help="One JSON object a line, or CSV.")] = Format.JSONL,
    tenant: TenantFilter = None,
    since: Since = None,
    until: Until = None,
    event: Event = None,
    request: RequestFilter = None,
    id: RemovedId = None,
) -> None:
    """Print all entries, or those that match, oldest first.

    `detail` is the text exactly as stored. To check the chain of hashes, run `tenantctl audit verify`.
    """
    filters = wanted(tenant, since, until, event, request, id)
    with connect(ctx) as client:
        entries = entries_after(client, filters, 0)
        if format is Format.JSONL:
            for entry in entries:
                print(_as_stored(entry))
        else:
            _print_csv(entries)


def _as_stored(entry: dict[str, Any]) -> str:
    """One line of JSON, with the bytes of the detail that are stored, unless somebody has made them unfit for that."""
    stored = entry["detail_text"]
    is_fit = "unreadable" not in entry["detail"] and stored.splitlines() == [stored]
    cells = {name: json_lines.dumps(value) for name, value in entry.items() if name != "detail_text"}
    if is_fit:
        cells["detail"] = stored
    return "{" + ", ".join(f'"{name}": {cell}' for name, cell in cells.items()) + "}"


def _print_csv(entries: Iterator[dict[str, Any]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["number", "time", "event", "tenant_id", "tenant", "request_id", "detail", "hash"])
    for entry in entries:
        at = datetime.fromtimestamp(entry["at_micros"] / 1e6, UTC).isoformat(timespec="microseconds")
        columns = [entry[name] for name in ("event", "tenant_id", "tenant", "request_id", "detail_text", "hash")]
        writer.writerow([entry["number"], at, *columns])


@app.command(epilog=examples("tenantctl audit prune --before 2026-01-01", "tenantctl audit prune --before 52w --yes"))
def prune(
    ctx: typer.Context,
    before: Annotated[
        str,
        typer.Option("--before", metavar="TIME", help="Delete entries older than this: a time, or an age such as 52w."),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    json: Json = False,
) -> None:
    """Delete the oldest entries, except those of a month that is not over.

    The rest still verifies: an entry records what was pruned, and by whom. See also security.audit_keep_days.
    """
    before_micros = moment_of(before, "--before")
    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter("not a terminal; pass --yes to confirm")
        if not confirm(f"Delete the audit trail from before {moment(before_micros)}?"):
            raise TenantdError("nothing was pruned")
    with connect(ctx) as client, client.another(REPORT_TIMEOUT_S) as patient:
        answer = patient.post(url("audit", "prune"), {"before_micros": before_micros})
    if json:
        print_json(answer)
    elif not answer["entries"]:
        message("nothing was pruned: no entry is older than that")
    else:
        message(f"pruned {answer['entries']} entries; the trail now begins after entry {answer['through']}")
