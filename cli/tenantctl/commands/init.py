"""`tenantctl init`: write a configuration file to start from."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tenantctl import init_questions
from tenantctl.installed import after_init
from tenantctl.options import examples
from tenantctl.render import message
from tenantd.errors import Conflict, ModelError
from tenantd.paths import default_config_path

if TYPE_CHECKING:
    from tenantctl.proposal import Wishes
    from tenantd.config import Config
    from tenantd.llamacpp.header import Header


class Switch(StrEnum):
    """On or off."""

    ON = "on"
    OFF = "off"


Slots = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, max=256, help="Requests that run at the same time. Default: what fits."),
]
Context = Annotated[
    int | None,
    typer.Option(metavar="TOKENS", min=1, max=1 << 24, help="Context of each slot. Default: what fits."),
]
Cache = Annotated[
    Switch | None,
    typer.Option(metavar="on|off", help="Cache the prompts of each tenant; asked on a terminal, off elsewhere."),
]
Currency = Annotated[
    str | None,
    typer.Option(
        metavar="CODE",
        callback=lambda value: None if value is None else init_questions.checked_currency(value),
        help="Currency of invoices; asked on a terminal, USD elsewhere.",
    ),
]
Timezone = Annotated[
    str | None,
    typer.Option(
        metavar="ZONE",
        callback=lambda value: None if value is None else init_questions.checked_timezone(value),
        help="Time zone of billing months, for example Europe/Berlin; asked on a terminal, UTC elsewhere.",
    ),
]
EXAMPLES = examples(
    "tenantctl init                            [dim]# asks for what it needs[/]",
    "tenantctl init --model ~/models/gemma.gguf",
    "tenantctl init --model ~/models/gemma.gguf --cache on --currency EUR --timezone Europe/Berlin",
    "tenantctl init --config ./tenantd.toml --force",
)


def init(
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to write. Default: TENANTD_CONFIG or ~/.config/tenantd/config.toml."),
    ] = None,
    model: Annotated[Path | None, typer.Option(metavar="GGUF", help="Model to serve.")] = None,
    slots: Slots = None,
    context: Context = None,
    cache: Cache = None,
    currency: Currency = None,
    timezone: Timezone = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a commented configuration file.

    Checks the model and proposes slots, context and cache that fit the free memory, just as the daemon plans them. On a
    terminal, asks for anything not given as an option. Without a model, the file has the defaults.

    With a cache, text that a tenant's prompts have in common is computed only once, so long chats are answered sooner.
    Without it, every request is independent of earlier ones. Tenants never share it. `tenantctl tenant set --cache`
    changes it for one tenant.
    """
    from tenantctl.model_words import base_model_warning
    from tenantctl.proposal import Wishes

    path = config or default_config_path()
    if path.exists() and not force:
        raise _exists(path)
    asks = init_questions.has_terminal()
    header = _model(model, asks=asks)
    if currency is None:
        currency = init_questions.ask_currency() if asks else None
    if timezone is None:
        timezone = init_questions.ask_timezone() if asks else None
    if cache is None:
        cache = Switch.ON if asks and init_questions.ask_cache() else Switch.OFF
    wishes = Wishes(slots, context, cache is Switch.ON)
    settings, lines = _settings(header, {"currency": currency, "timezone": timezone}, wishes)
    _write(path, settings, force=force)
    message(f"wrote {path}")
    if header is not None and (warning := base_model_warning(header)):
        message(warning)
    for line in lines:
        message(line)
    if header is None:
        message("set `path` in the [model] table of this file, or pass --model to tenantctl serve")
        if model is None and not asks:
            init_questions.say_models()
    message(after_init(config))


def _model(given: Path | None, *, asks: bool) -> Header | None:
    """The model to serve, if it is known by now. Raises ModelError."""
    from tenantctl.model_words import checked_header, in_short

    if given is None:
        return init_questions.ask_model() if asks else None
    header = checked_header(given.expanduser().absolute())
    message(f"{given.name}: {in_short(header)}")
    return header


def _settings(header: Header | None, billing: dict[str, str | None], wishes: Wishes) -> tuple[Config, list[str]]:
    """What to write, and what to say about it."""
    from tenantctl.proposal import cost_lines, propose
    from tenantd.config import Config

    plain = Config()
    known = {key: value for key, value in billing.items() if value is not None}
    config = plain.model_copy(update={"billing": plain.billing.model_copy(update=known)})
    if header is None:
        return _without_plan(config, wishes), []
    config = config.model_copy(update={"model": config.model.model_copy(update={"path": header.path})})
    try:
        proposal = propose(config, wishes)
    except ModelError as e:
        return _without_plan(config, wishes), [f"warning: {e.message}"]
    return proposal.config, cost_lines(proposal)


def _without_plan(config: Config, wishes: Wishes) -> Config:
    """What was wished for, where nothing else is known."""
    engine = {"slots": wishes.slots, "context_tokens": wishes.context_tokens}
    known = {key: value for key, value in engine.items() if value is not None}
    return config.model_copy(
        update={
            "engine": config.engine.model_copy(update=known),
            "cache": config.cache.model_copy(update={"default": "on" if wishes.caches else "off"}),
        }
    )


def _write(path: Path, settings: Config, *, force: bool) -> None:
    from tenantctl.config_file import config_text

    text = config_text(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Others may not read it: alerts.url may hold a token. The mode of an existing file stays.
        with open(path, "w" if force else "x", encoding="utf-8", opener=_private) as file:
            file.write(text)
    except FileExistsError:
        raise _exists(path) from None


def _exists(path: Path) -> Conflict:
    return Conflict(f"{path} already exists; use --force to overwrite it")


def _private(name: str, flags: int) -> int:
    """Open a file, or create one that only its owner can read."""
    return os.open(name, flags, 0o600)
