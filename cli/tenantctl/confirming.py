"""Asks before something that cannot be undone."""

from __future__ import annotations

import typer


def confirm(question: str) -> bool:
    """Whether the answer is yes; nothing typed means no. Asks on standard error."""
    answer: bool = typer.prompt(f"{question} [y/N]", default="", show_default=False, value_proc=_read, err=True)
    return answer


def _read(text: str) -> bool:
    if (word := text.strip().lower()) in ("y", "yes"):
        return True
    if word in ("", "n", "no"):
        return False
    raise typer.BadParameter("type y or n")
