"""Mistakes in how a command was called, in one line each, like all other errors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, Final

FEW: Final = 5
"""Commands of a group that are listed if none is like the one that was typed."""
SYNONYMS: Final = {
    "create": ("add",),
    "new": ("add", "create"),
    "delete": ("remove", "revoke"),
    "rm": ("remove", "revoke"),
    "edit": ("set",),
    "update": ("set",),
    "unsuspend": ("resume",),
    "show": ("list", "info"),
    "ls": ("list",),
    "check": ("verify",),
    "verify": ("check",),
}
"""What other programs call a command."""
_TENANT_NAME: Final = re.compile("[a-z0-9][a-z0-9_-]*")
_UNEXPECTED: Final = "Got unexpected extra argument"
_NO_SUCH_COMMAND: Final = re.compile("No such command '(.*?)'")
_PYDANTICS: Final = "Value error, "


def words_of(error: Any) -> str:
    """What went wrong, for a ClickException of Typer; then, if it is about a command, where to read more.

    "" for a group without a command, whose help was printed instead.
    """
    if type(error).__name__ == "NoArgsIsHelpError":
        return ""
    said = _said(error)
    ctx = getattr(error, "ctx", None)
    return said if ctx is None else f"{said}\nSee: {ctx.command_path} --help"


def _said(error: Any) -> str:
    kind, ctx = type(error).__name__, getattr(error, "ctx", None)
    if kind == "NoSuchOption":
        return _no_such_option(error.option_name, ctx, error.possibilities or ())
    if kind == "BadOptionUsage":
        return f"{error.option_name} {'needs a value' if 'requires' in error.message else 'takes no value'}"
    if kind == "MissingParameter":
        return f"{_name(error)} is missing"
    if kind == "BadParameter":
        name = _name(error)
        said = error.message.removeprefix(_PYDANTICS)
        return f"{name}: {said}" if name else said
    if (found := _NO_SUCH_COMMAND.match(error.message)) and ctx is not None:
        return _no_such_command(found[1], ctx)
    if error.message.startswith(_UNEXPECTED) and ctx is not None:
        return _unexpected(error.message, ctx)
    return _lowered(error.message)


def _name(error: Any) -> str:
    """The option or argument that a mistake is about, as it is typed."""
    if error.param_hint:
        return str(error.param_hint) if isinstance(error.param_hint, str) else "/".join(error.param_hint)
    if error.param is None:
        return ""
    if error.param.param_type_name == "argument":
        return str(error.param.metavar or error.param.name).upper()
    return max(error.param.opts, key=len)  # type: ignore[no-any-return]


def _no_such_option(name: str, ctx: Any, possible: Sequence[str]) -> str:
    name = name.partition("=")[0]
    if ctx is not None and ctx.parent is None and getattr(ctx.command, "commands", None):
        known = "/".join(option for p in ctx.command.params for option in p.opts)
        return f"no option {name} before a command (only {known}); options of a command go after it"
    known_options = [option for p in ctx.command.params for option in p.opts] if ctx else []
    close = get_close_matches(name, known_options or possible, n=1)
    return f"no option {name}" + (f"; did you mean {close[0]}?" if close else "")


def _no_such_command(name: str, ctx: Any) -> str:
    """Suggests what was probably meant. Commands whose names begin with _ are hidden."""
    known = [command for command in ctx.command.commands if not command.startswith("_")]
    meant = [command for command in SYNONYMS.get(name, ()) if command in known]
    if close := meant or get_close_matches(name, known, n=2):
        return f"no command {name!r}; did you mean {' or '.join(close)}?"
    if cure := _as_tenant(name, ctx):
        return f"no command {name!r}; {cure}"
    there_are = "there is only" if len(known) == 1 else "there are"
    return f"no command {name!r}" + (f"; {there_are} {', '.join(known)}" if len(known) <= FEW else "")


def _unexpected(message: str, ctx: Any) -> str:
    extra = message.rpartition("(")[2].rstrip(").")
    if any(p.name == "prompt" for p in ctx.command.params):
        return f"more than one prompt (also got {extra}); put a prompt of several words in quotes"
    cure = _as_tenant(extra, ctx)
    return f"too many arguments (also got {extra})" + (f"; {cure}" if cure else "")


def _as_tenant(word: str, ctx: Any) -> str:
    """How to name a tenant, if a word may be one and the command takes it as an option; else ""."""
    takes_one = any("--tenant" in p.opts for p in ctx.command.params)
    return f"for a tenant, write: --tenant {word}" if takes_one and _TENANT_NAME.fullmatch(word) else ""


def _lowered(message: str) -> str:
    return (message[:1].lower() + message[1:]).rstrip(".")
