"""`tenantctl init`: write a configuration file to start from."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from tenantctl.options import examples
from tenantctl.render import message
from tenantd.errors import Conflict, ModelError
from tenantd.paths import default_config_path

ABOUT_CACHE: Final = """\
A prefix cache keeps what a tenant's prompts have in common, so that long chats
are answered sooner. Tenants never share it.
Without it, every request is independent of earlier ones."""


class Switch(StrEnum):
    """On or off."""

    ON = "on"
    OFF = "off"


EXAMPLES = examples(
    "tenantctl init --model ~/models/gemma.gguf",
    "tenantctl init --model ~/models/gemma.gguf --cache on",
    "tenantctl init --config ./tenantd.toml --force",
)


def init(
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to write. Default: TENANTD_CONFIG or ~/.config/tenantd/config.toml."),
    ] = None,
    model: Annotated[Path | None, typer.Option(metavar="GGUF", help="Model to serve.")] = None,
    cache: Annotated[
        Switch | None,
        typer.Option(metavar="on|off", help="Cache the prompts of each tenant; asked on a terminal, off elsewhere."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a commented configuration file.

    With a cache, what a tenant's prompts have in common is computed only once, so that long chats are answered sooner.
    Without it, every request is independent of earlier ones. Tenants never share it. `tenantctl tenant set --cache`
    changes it for one tenant.
    """
    from tenantctl.config_file import config_text

    path = config or default_config_path()
    if path.exists() and not force:
        raise _exists(path)
    text = config_text(
        None if model is None else model.expanduser().absolute(), caches=(cache or _asked()) is Switch.ON
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Others may not read it: alerts.url may hold a token. The mode of an existing file stays.
        with open(path, "w" if force else "x", encoding="utf-8", opener=_private) as file:
            file.write(text)
    except FileExistsError:
        raise _exists(path) from None
    message(f"wrote {path}")
    if model is None:
        message("set `path` in the [model] table of this file, or pass --model to tenantctl serve")
    elif not model.expanduser().exists():
        message(f"warning: {model} does not exist")
    else:
        for line in _costs(path):
            message(line)
    message(f"next: tenantctl serve{'' if config is None else f' --config {config}'}")


def _costs(config: Path) -> list[str]:
    """How much memory this configuration will take here, and what takes less; or why it cannot be served."""
    from tenantctl.units import size
    from tenantd.config import load_config
    from tenantd.fleet.supervisor import load_command
    from tenantd.llamacpp.gguf import model_file
    from tenantd.llamacpp.memory_plan import plan_memory

    load = load_command(load_config(config))
    try:
        plan = plan_memory(load, model_file(load.model_path))
    except ModelError as e:
        return [f"warning: {e.message}"]
    context = f"{plan.context_tokens} tokens"
    if plan.context_tokens < plan.train_context_tokens:
        context += f" (the model can take {plan.train_context_tokens})"
    return [
        f"memory: {size(plan.needed)} of {size(plan.free)} free: {size(plan.weights)} weights, {size(plan.kv)} "
        f"KV cache ({load.kv_type}) for {load.slots} slots of {context}, {size(plan.compute)} work space",
        'to take less, lower engine.slots or engine.context_tokens, or set engine.kv_type to "q8_0"',
    ]


def _exists(path: Path) -> Conflict:
    return Conflict(f"{path} already exists; use --force to overwrite it")


def _asked() -> Switch:
    """Whether to have a cache, by the answer on a terminal."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return Switch.OFF
    message(ABOUT_CACHE)
    return Switch.ON if typer.confirm("Cache prompts?", default=False, err=True) else Switch.OFF


def _private(name: str, flags: int) -> int:
    """Open a file, or create one that only its owner can read."""
    return os.open(name, flags, 0o600)
