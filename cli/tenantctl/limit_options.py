"""The options of `tenantctl tenant add` and `set` that set limits: one for each that `tenantd.limits` declares."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Final

import typer

from tenantd.limits import LIMITS, MOST, Limit


def with_limits(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the parameter `limits` of a command with one option for each limit.

    The parameter gets the limits that were passed, as the admin API takes them; `default` is None.
    """

    @functools.wraps(command)
    def with_options(**given: Any) -> None:
        texts = {name: given.pop(name) for name in LIMITS}
        limits = {name: _value(LIMITS[name], text) for name, text in texts.items() if text is not None}
        command(**given, limits=limits)

    signature = inspect.signature(command, eval_str=True)
    parameters = list(signature.parameters.values())
    place = [parameter.name for parameter in parameters].index("limits")
    parameters[place : place + 1] = _OPTIONS
    with_options.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return with_options


def _option(limit: Limit) -> inspect.Parameter:
    option = typer.Option(limit.option, metavar=limit.metavar, help=limit.help, rich_help_panel=limit.panel)
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(limit.name, kind, default=None, annotation=Annotated[str | None, option])


_OPTIONS: Final = [_option(limit) for limit in LIMITS.values()]


def _value(limit: Limit, text: str) -> int | str | None:
    """The value for the API. Raises BadParameter."""
    if text == "default":
        return None
    try:
        value: int | str = limit.check(int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else text)
    except ValueError:
        *first, last = (word if word.islower() else f"a whole number up to {MOST}" for word in limit.metavar.split("|"))
        wanted = f"{', '.join(first)} or {last}"
        raise typer.BadParameter(f"must be {wanted} (got {text!r})", param_hint=limit.option) from None
    return value
