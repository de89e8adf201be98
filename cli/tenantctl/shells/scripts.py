"""Completion scripts for bash, zsh and fish, made from the commands.

The scripts contain every command and option, so that completion does not start Python, except to list tenants.
"""

from __future__ import annotations

from typing import Final

from tenantctl.shells import bash, fish, zsh
from tenantctl.shells.tree import Command

FILES: Final = {"bash": "tenantctl.bash", "zsh": "_tenantctl", "fish": "tenantctl.fish"}
"""File name of each shell's script in completions/."""


def script(shell: str, root: Command) -> str:
    """The completion script for `bash`, `zsh` or `fish`."""
    write = {"bash": bash.script, "zsh": zsh.script, "fish": fish.script}
    return write[shell](root)
