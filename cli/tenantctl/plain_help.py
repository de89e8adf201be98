"""Help without the names of Python's types: a flag takes no value, and an argument's name says what it is."""

from __future__ import annotations

from typing import Any

from typer import core


def use() -> None:
    """From now on, help shows no type for flags and arguments. Typer has no setting for that."""
    shown = getattr(core.TyperOption, "display_type_rich", None)  # an earlier Typer does not show them
    if shown is not None:
        core.TyperOption.display_type_rich = (  # type: ignore[method-assign]
            lambda self, ctx: None if self.is_flag else shown(self, ctx)
        )
        core.TyperArgument.display_type_rich = _nothing  # type: ignore[method-assign, assignment]


def _nothing(argument: Any, ctx: Any) -> None:
    """An argument's type."""
