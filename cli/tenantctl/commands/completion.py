"""`tenantctl completion`: completion scripts for shells, and the hidden commands they call while you type."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from tenantctl.options import Globals, examples
from tenantctl.render import message

EXAMPLES = examples(
    "tenantctl completion --install",
    "tenantctl completion zsh --install",
    "tenantctl completion bash > /etc/bash_completion.d/tenantctl    [dim]# for all users[/]",
)


class Shell(StrEnum):
    """A supported shell."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    ctx: typer.Context,
    shell: Annotated[
        Shell | None,
        typer.Argument(
            metavar="bash|zsh|fish", help="Your shell. With --install, detected if omitted.", show_default=False
        ),
    ] = None,
    install: Annotated[bool, typer.Option("--install", help="Write the script where your shell looks for it.")] = False,
) -> None:
    """Print a completion script for your shell, or install it.

    Completes tenants' names and the ids of keys and requests while the daemon is running. Install the script again
    after an upgrade.
    """
    from tenantctl.shells import installing
    from tenantctl.shells.scripts import FILES, script
    from tenantctl.shells.tree import command_tree

    name = (installing.own_shell() if install else None) if shell is None else shell.value
    if name is None:
        raise typer.BadParameter(f"name your shell: {', '.join(FILES)}")
    text = script(name, command_tree(ctx.find_root().command))
    if not install:
        print(text, end="")
        return
    path, is_new = installing.install(name, text)
    message(f"wrote {path}" if is_new else f"{path} is up to date")
    if todo := installing.still_needed(name, path):
        message(todo)
    if is_new:
        message(f"start a new {name} to use it")


def tenants(ctx: typer.Context) -> None:
    """Print the names of tenants for completion."""
    _offer(ctx, "tenants")


def keys(ctx: typer.Context) -> None:
    """Print the ids of live keys for completion."""
    _offer(ctx, "keys")


def requests(ctx: typer.Context) -> None:
    """Print the ids of running and waiting requests for completion."""
    _offer(ctx, "requests")


def recent(ctx: typer.Context) -> None:
    """Print the ids of the newest requests, also of those that have ended, for completion."""
    _offer(ctx, "recent")


def _offer(ctx: typer.Context, what: str) -> None:
    from tenantctl.completing import print_offers

    print_offers(what, ctx.ensure_object(Globals).socket)
