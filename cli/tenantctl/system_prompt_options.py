"""The options of `tenantctl tenant add` and `set` for a tenant's system prompt, and how `show` shows it."""

from __future__ import annotations

import os
from typing import Annotated, Any, Final

import typer

from tenantctl.prompt_input import text_or_file
from tenantctl.render import message
from tenantctl.units import NOTHING
from tenantd.printable import one_line

PANEL: Final = "System prompt"
SHOWN_CHARACTERS: Final = 40

System = Annotated[
    str | None,
    typer.Option(
        "--system",
        metavar="TEXT",
        help="Text that the server puts before all its chats. @FILE reads it from a file, none removes it.",
        rich_help_panel=PANEL,
    ),
]
SystemCompletions = Annotated[
    bool | None,
    typer.Option(
        "--system-completions/--no-system-completions",
        help="Put it before plain prompts, too, or only before chats.",
        rich_help_panel=PANEL,
    ),
]


def changes(system: str | None, system_completions: bool | None) -> dict[str, Any]:
    """The fields for the options that were passed. Raises BadParameter, InvalidRequest."""
    given: dict[str, Any] = {}
    if system is not None:
        given["system_prompt"] = _text(system)
    if system_completions is not None:
        given["system_in_completions"] = system_completions
    return given


def _text(value: str) -> str:
    from tenantd.text.system_prompt import MOST_BYTES

    if value == "none":
        return ""
    text = text_or_file(value, "--system", MOST_BYTES)
    if not text.strip():
        # an empty variable or file must not remove what protects a tenant's chats
        raise typer.BadParameter("is empty; pass none to remove the system prompt", param_hint="--system")
    if _is_file(value):
        message(f"the system prompt is now the text {value!r}; did you mean --system @{value}?")
    return text


def _is_file(name: str) -> bool:
    try:
        return os.path.isfile(name)
    except ValueError:  # a null byte
        return False


def shown(tenant: dict[str, Any]) -> dict[str, object]:
    """The length and the beginning of a tenant's system prompt, and what it goes before."""
    text = tenant.get("system_prompt", "")
    if not text:
        return {"system prompt": NOTHING}
    line = " ".join(text[: 8 * SHOWN_CHARACTERS].split())
    beginning = one_line(line, SHOWN_CHARACTERS) + ("…" if len(line) > SHOWN_CHARACTERS else "")
    before = "chats and plain prompts" if tenant.get("system_in_completions") else "chats"
    return {"system prompt": f"{len(text.encode())} bytes: {beginning}", "goes before": before}
