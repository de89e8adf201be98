"""`tenantctl init`: a configuration file to start from."""

from __future__ import annotations

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
        Path | None, typer.Option(metavar="FILE", help="Where to write. Default: TENANTD_CONFIG or ~/.config/tenantd/.")
    ] = None,
    model: Annotated[Path | None, typer.Option(metavar="GGUF", help="The model to serve.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
) -> None:
    """Write a configuration file, every setting explained."""
    from tenantctl.config_file import config_text

    path = config or default_config_path()
    text = config_text(None if model is None else model.expanduser().absolute())
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise Conflict(f"{path} is there already; --force overwrites it") from None
    message(f"wrote {path}")
    if model is None:
        message("set path under [model] in it, or pass --model when you serve")
    elif not model.expanduser().exists():
        message(f"warning: {model} is not there yet")
    message(f"next: tenantctl serve{'' if config is None else f' --config {config}'}")
