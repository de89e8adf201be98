"""`tenantctl`: its global options, and how errors become messages and exit codes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import Abort, TyperException

from tenantctl import catalogue, plain_help, plain_values
from tenantctl.failures import in_options
from tenantctl.first_steps import first_steps
from tenantctl.options import Globals, examples
from tenantctl.render import complain
from tenantctl.usage_errors import words_of
from tenantd import __version__, signals
from tenantd.errors import TenantdError

SIGPIPE_EXIT = 128 + 13
_TYPED = "tenantctl.typed"
"""Where the context keeps the command line."""
plain_help.use()
plain_values.use()


class Commands(TyperGroup):
    """All commands. Turns their exceptions into a message on standard error and an exit code."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "commands": catalogue.Commands()})

    def main(self, *args: Any, standalone_mode: bool = True, **options: Any) -> Any:
        options["standalone_mode"] = False
        if not standalone_mode:
            return super().main(*args, **options)
        try:
            code = super().main(*args, **options)
        except TyperException as e:
            if said := words_of(e):
                complain(said)
            code = e.exit_code
        except Abort:
            complain("aborted")
            code = 1
        sys.exit(code if isinstance(code, int) else 0)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            print(first_steps())
            ctx.exit(2)
        ctx.meta[_TYPED] = tuple(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except TenantdError as e:
            complain(in_options(e.message, ctx.meta.get(_TYPED, ())))
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
        "tenantctl invoice --month this",
    ),
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

HERE = ("init", "serve", "service", "demo", "model", "completion")
"""Commands that speak to no daemon, or to one of their own."""


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
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Daemon on the network, with the key in TENANTD_API_KEY. Default: TENANTD_URL."
        ),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Certificates to trust for --url. Default: TENANTD_CA or the system's."),
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="Ignore TENANTD_API_KEY and act as your Unix user.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    if url is not None and socket is not None:
        raise typer.BadParameter("choose one of --socket and --url", param_hint="--url")
    if url is not None and ctx.invoked_subcommand in HERE:
        raise typer.BadParameter(f"{ctx.invoked_subcommand} works on this machine only", param_hint="--url")
    ctx.obj = Globals(socket, admin, url, ca)
    if ctx.invoked_subcommand != "serve":
        signals.release()


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # it is if the shell closed it: >&-
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # print ? for characters that it lacks
    app(prog_name="tenantctl")


if __name__ == "__main__":
    main()
