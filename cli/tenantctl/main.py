"""`tenantctl`: its commands, its global options, and how errors become exit codes."""

from __future__ import annotations

import inspect
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from tenantctl import plain_help
from tenantctl.commands import (
    alert_commands,
    anomaly,
    audit_trail,
    bench,
    budget_commands,
    compare,
    completion,
    demo,
    doctor,
    export,
    init,
    invoice,
    key,
    ledger_file,
    price,
    renew,
    run,
    serve,
    stats,
    status,
    tenant,
    usage,
)
from tenantctl.options import Globals, MonthCommand, examples
from tenantctl.render import complain
from tenantd import __version__, signals
from tenantd.errors import TenantdError

SIGPIPE_EXIT = 128 + 13
plain_help.use()


class Commands(TyperGroup):
    """Turns exceptions of a command into a message on standard error and an exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order a new user needs them."""
        return sorted(self.commands, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except typer.BadParameter as e:
            e.message = e.message.removeprefix("Value error, ")  # pydantic's words, which Typer passes on
            raise
        except TenantdError as e:
            complain(e.message)
            raise typer.Exit(e.exit_code) from e
        except BrokenPipeError:
            _discard_output()  # the reader of the pipe has left, as `head` does
            raise typer.Exit(SIGPIPE_EXIT) from None
        except OSError as e:
            if e.filename is None:  # not a file the command opened: standard output cannot be written
                _discard_output()
            complain(f"{e.filename}: {e.strerror}" if e.filename else str(e.strerror or e))
            raise typer.Exit(1) from e
        return result


def _discard_output() -> None:
    """Drop what is still buffered for standard output; otherwise the interpreter fails while flushing it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


app = typer.Typer(
    name="tenantctl",
    cls=Commands,
    help="Serve one model to many tenants and track what each one uses.",
    epilog=examples(
        "tenantctl init --model model.gguf && tenantctl serve",
        "tenantctl tenant add acme",
        'tenantctl run --tenant acme "Once upon a time"',
        "tenantctl invoice --month",
    ),
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DAEMON, TENANTS, REQUESTS, BILLING, AUDIT, SHELL = (
    "The daemon",
    "Tenants",
    "Requests",
    "Usage and bills",
    "Audit",
    "Shell",
)
ORDER = (
    "init",
    "serve",
    "demo",
    "status",
    "doctor",
    "tenant",
    "key",
    "run",
    "requests",
    "cancel",
    "anomalies",
    "alerts",
    "stats",
    "compare",
    "usage",
    "budget",
    "price",
    "invoice",
    "export",
    "ledger",
    "audit",
    "bench",
    "completion",
)

app.command(epilog=init.EXAMPLES, rich_help_panel=DAEMON)(init.init)
app.command(epilog=serve.EXAMPLES, rich_help_panel=DAEMON)(serve.serve)
app.command(epilog=demo.EXAMPLES, rich_help_panel=DAEMON)(demo.demo)
app.command(epilog=status.EXAMPLES, rich_help_panel=DAEMON)(status.status)
app.command(epilog=doctor.EXAMPLES, rich_help_panel=DAEMON)(doctor.doctor)
app.add_typer(tenant.app, rich_help_panel=TENANTS)
app.add_typer(key.app, rich_help_panel=TENANTS)
app.add_typer(anomaly.app, rich_help_panel=TENANTS)
app.add_typer(alert_commands.app, rich_help_panel=DAEMON)
app.command(epilog=run.EXAMPLES, rich_help_panel=REQUESTS)(run.run)
app.command(epilog=usage.REQUESTS_EXAMPLES, rich_help_panel=REQUESTS)(usage.requests)
app.command(epilog=usage.CANCEL_EXAMPLES, rich_help_panel=REQUESTS)(usage.cancel)
app.command(epilog=stats.EXAMPLES, rich_help_panel=BILLING, cls=MonthCommand)(stats.stats)
app.command(epilog=compare.EXAMPLES, rich_help_panel=BILLING)(compare.compare)
app.command(epilog=usage.USAGE_EXAMPLES, rich_help_panel=BILLING, cls=MonthCommand)(usage.usage)
app.add_typer(budget_commands.app, rich_help_panel=BILLING)
app.add_typer(invoice.app, rich_help_panel=BILLING)
app.command(epilog=export.EXAMPLES, rich_help_panel=BILLING, cls=MonthCommand)(export.export)
app.add_typer(price.app, rich_help_panel=BILLING)
ledger_file.app.command(epilog=renew.EXAMPLES)(renew.renew)
app.add_typer(ledger_file.app, rich_help_panel=BILLING)
app.add_typer(audit_trail.app, rich_help_panel=AUDIT)
app.command(epilog=bench.EXAMPLES, rich_help_panel=DAEMON)(bench.bench)
app.command(epilog=completion.EXAMPLES, rich_help_panel=SHELL)(completion.completion)
app.command("_tenants", hidden=True)(completion.tenant_names)


def _join_lines(group: typer.Typer) -> None:
    """Make each paragraph of the commands' help one line: Typer keeps line breaks, whatever the terminal's width."""
    for command in group.registered_commands:
        command.help = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(command.callback) or "")


for group in (
    app,
    tenant.app,
    key.app,
    price.app,
    invoice.app,
    anomaly.app,
    ledger_file.app,
    alert_commands.app,
    budget_commands.app,
    audit_trail.app,
):
    _join_lines(group)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"tenantctl {__version__}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    socket: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Socket of the daemon. Default: TENANTD_SOCKET or the configuration."),
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="Ignore TENANTD_API_KEY and act as your Unix user.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    ctx.obj = Globals(socket, admin)
    if ctx.invoked_subcommand != "serve":
        signals.release()


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # print ? for characters the terminal lacks
    app()


if __name__ == "__main__":
    main()
