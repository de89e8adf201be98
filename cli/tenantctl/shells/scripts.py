"""Completion scripts for bash, zsh and fish, made from the commands.

The scripts hold every command and option, so that completing does not start Python; only names of tenants are asked
for.
"""

from __future__ import annotations

from typing import Final

from tenantctl.shells import bash, fish, zsh
from tenantctl.shells.tree import Command

FILES: Final = {"bash": "tenantctl.bash", "zsh": "_tenantctl", "fish": "tenantctl.fish"}
"""What each shell's script is called in the folder completions/."""


def script(shell: str, root: Command) -> str:
    """The completion script for `bash`, `zsh` or `fish`."""
    write = {"bash": bash.script, "zsh": zsh.script, "fish": fish.script}
    return write[shell](root)
