"""Where each shell looks for a user's completion scripts, and what is needed for it to look there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from tenantctl.shells.scripts import FILES
from tenantctl.whole_files import write_whole

BASH_COMPLETION: Final = ("/usr/share/bash-completion/bash_completion", "/etc/bash_completion")
"""What looks for bash's scripts; without it, bash does not."""


def own_shell() -> str | None:
    """The shell that this program was started from, or else the user's; None if there is no script for it."""
    try:
        parent = Path(f"/proc/{os.getppid()}/comm").read_text().strip().removeprefix("-")
    except OSError:
        parent = ""
    for name in (parent, Path(os.environ.get("SHELL", "")).name):
        if name in FILES:
            return name
    return None


def place_of(shell: str) -> Path:
    """The file of the user's script."""
    home = Path.home()
    match shell:
        case "bash":
            data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "bash-completion"
            return Path(os.environ.get("BASH_COMPLETION_USER_DIR") or data) / "completions" / "tenantctl"
        case "zsh":
            return Path(os.environ.get("ZDOTDIR") or home) / ".zfunc" / FILES["zsh"]
        case _:
            config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
            return config / "fish" / "completions" / FILES["fish"]


def install(shell: str, text: str) -> tuple[Path, bool]:
    """Write the script. Returns its file, and whether that has changed. Raises OSError."""
    path = place_of(shell)
    if path.is_file() and path.read_bytes() == text.encode():
        return path, False
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)
    return path, True


def still_needed(shell: str, path: Path) -> str | None:
    """What the user has to do so that the shell finds the script; None if nothing."""
    if shell == "bash" and not any(map(os.path.exists, BASH_COMPLETION)):
        return f"install the package bash-completion, or add this line to ~/.bashrc:\nsource {path}"
    if shell == "zsh":
        settings = path.parent.parent / ".zshrc"
        if not settings.is_file() or ".zfunc" not in settings.read_text("utf-8", "replace"):
            return f"add this line to {settings}, before compinit:\nfpath=({path.parent} $fpath)"
    return None
