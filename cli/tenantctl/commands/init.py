"""`tenantctl init`: write a configuration file to start from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from tenantctl.options import examples
from tenantctl.render import message
from tenantd.errors import Conflict
from tenantd.paths import default_config_path

EXAMPLES = examples(
    "tenantctl init --model ~/models/gemma.gguf",
    "tenantctl init --config ./tenantd.toml --force",
)


def init(
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to write. Default: TENANTD_CONFIG or ~/.config/tenantd/config.toml."),
    ] = None,
    model: Annotated[Path | None, typer.Option(metavar="GGUF", help="Model to serve.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a commented configuration file."""
    from tenantctl.config_file import config_text

    path = config or default_config_path()
    text = config_text(None if model is None else model.expanduser().absolute())
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Others may not read it: alerts.url may hold a token. The mode of an existing file stays.
        with open(path, "w" if force else "x", encoding="utf-8", opener=_private) as file:
            file.write(text)
    except FileExistsError:
        raise Conflict(f"{path} already exists; use --force to overwrite it") from None
    message(f"wrote {path}")
    if model is None:
        message("set `path` in the [model] table of this file, or pass --model to tenantctl serve")
    elif not model.expanduser().exists():
        message(f"warning: {model} does not exist")
    message(f"next: tenantctl serve{'' if config is None else f' --config {config}'}")


def _private(name: str, flags: int) -> int:
    """Open a file, or create one that only its owner can read."""
    return os.open(name, flags, 0o600)
