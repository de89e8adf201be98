"""`tenantctl completion`: completion scripts for shells, and the hidden command they call while you type."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import typer

from tenantctl.client import Client, find_socket, url
from tenantctl.options import Globals, examples
from tenantd.errors import TenantdError

EXAMPLES = examples(
    "tenantctl completion bash > ~/.local/share/bash-completion/completions/tenantctl",
    "tenantctl completion zsh > ~/.zfunc/_tenantctl    [dim]# a folder in fpath[/]",
    "tenantctl completion fish > ~/.config/fish/completions/tenantctl.fish",
)
NAMES_TIMEOUT_S: Final = 0.5


class Shell(StrEnum):
    """A supported shell."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    ctx: typer.Context,
    shell: Annotated[Shell, typer.Argument(metavar="bash|zsh|fish", help="Your shell.")],
) -> None:
    """Print a completion script for your shell.

    Tenant names complete while the daemon is running.
    """
    from tenantctl.shells.scripts import script
    from tenantctl.shells.tree import command_tree

    print(script(shell.value, command_tree(ctx.find_root().command)), end="")


def tenant_names(ctx: typer.Context) -> None:
    """Print the tenant names for completion. Print nothing, not even an error, if the daemon does not answer."""
    try:
        with Client(find_socket(ctx.ensure_object(Globals).socket, quiet=True), NAMES_TIMEOUT_S) as client:
            tenants = client.get(url("tenants"))["tenants"]
    except TenantdError:
        return  # a message would appear in the middle of the user's typing
    for tenant in tenants:
        print(tenant["name"])
