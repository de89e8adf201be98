"""What `tenantctl init` asks on a terminal, and how answers are checked. Elsewhere options say it."""

from __future__ import annotations

import locale
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from tenantctl.confirming import confirm
from tenantctl.currencies import code_meant
from tenantctl.model_search import models_near
from tenantctl.model_words import checked_header, from_home, in_short
from tenantctl.render import message
from tenantd.errors import ConfigError, ModelError
from tenantd.printable import one_line

if TYPE_CHECKING:
    from tenantd.llamacpp.header import Header

MOST_SHOWN: Final = 20
ZONES: Final = "/zoneinfo/"
ABOUT_CACHE: Final = """\
A prefix cache keeps what a tenant's prompts have in common, so long chats are
answered sooner. Tenants never share it.
Without it, every request is independent of earlier ones."""


def has_terminal() -> bool:
    """Whether there is somebody to ask."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def ask_model() -> Header | None:
    """The model to serve, chosen among those that were found, or by its path; None: to be decided later."""
    with _busy("looking for models"):
        found = models_near()[:MOST_SHOWN]
    if found:
        message("Models on this machine:")
        for number, header in enumerate(found, 1):
            message(f"{number:3}  {one_line(from_home(header.path))}\n     {in_short(header)}")
        question = "Serve which one? A number, or the path of a GGUF file"
    else:
        message("No models were found in the usual folders. Any GGUF file will do.")
        question = "Path of a GGUF file (empty: decide later)"

    def read(answer: str) -> Header | None:
        if not answer.strip():
            return None
        if answer.strip().isdecimal() and found:
            if not 1 <= int(answer) <= len(found):
                raise typer.BadParameter(f"choose a number from 1 to {len(found)}")
            return found[int(answer) - 1]
        try:
            return checked_header(Path(answer.strip()).expanduser().absolute())
        except ModelError as e:
            raise typer.BadParameter(one_line(e.message)) from e

    answer: Header | None = _ask(question, "1" if found else "", read)
    return answer


def say_models() -> None:
    """Name the models that were found, for whoever cannot be asked."""
    if not (found := models_near()):
        message("no models were found in the usual folders; pass a GGUF file with --model")
        return
    message("models on this machine; pass one with --model:")
    for header in found[:MOST_SHOWN]:
        message(f"  {one_line(from_home(header.path))}  ({in_short(header)})")


def ask_currency() -> str:
    return str(_ask("Currency of invoices", usual_currency(), checked_currency))


def ask_timezone() -> str:
    return str(_ask("Time zone of billing months", usual_timezone(), checked_timezone))


def ask_cache() -> bool:
    """Whether tenants have a prefix cache."""
    message(ABOUT_CACHE)
    return confirm("Cache prompts?")


def checked_currency(value: str) -> str:
    """Its code, in capitals. Raises BadParameter."""
    code, close = code_meant(value)
    if code is None:
        what = f"no currency has the code {one_line(value, 20)!r}"
        raise typer.BadParameter(
            f"{what}; did you mean {' or '.join(close)}?" if close else f"{what}; give three letters, for example EUR"
        )
    return code


def checked_timezone(value: str) -> str:
    """Raises BadParameter."""
    from tenantd.config import parse_config

    try:
        parse_config({"billing": {"timezone": value.strip()}}, "")
    except ConfigError:
        raise typer.BadParameter(f"no time zone is called {value[:40]!r}; write it like Europe/Berlin") from None
    return value.strip()


def usual_currency() -> str:
    """That of the user's locale, or USD."""
    before = locale.setlocale(locale.LC_MONETARY)
    try:
        locale.setlocale(locale.LC_MONETARY, "")
        return code_meant(str(locale.localeconv()["int_curr_symbol"]))[0] or "USD"
    except locale.Error:
        return "USD"
    finally:
        locale.setlocale(locale.LC_MONETARY, before)


def usual_timezone(link: Path = Path("/etc/localtime")) -> str:
    """That of the environment, or the machine's, or UTC."""
    try:
        name = os.environ.get("TZ", "").lstrip(":") or str(link.resolve(strict=True)).partition(ZONES)[2]
        return checked_timezone(name.removeprefix("Etc/"))
    except (OSError, typer.BadParameter):
        return "UTC"


def _ask(question: str, default: str, read: Callable[[str], Any]) -> Any:
    """The answer as `read` takes it; asks again while that raises BadParameter."""
    return typer.prompt(question, default=default, show_default=bool(default), value_proc=read, err=True)


def _busy(what: str) -> Any:
    """Show what takes a moment."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(what)
