"""What sections of the configuration and their settings are made of."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_NUMBER: Final = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")


class Section(BaseModel):
    """A table of the TOML file. A setting without a default has an example, shown as a comment. Values are not
    converted: `true` and "5" are not numbers, and 1.0 is not a whole one."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, strict=True)


def _decimal(value: Any) -> Any:
    """Convert a TOML float through its shortest text, so that 0.15 means exactly 0.15."""
    if isinstance(value, float):
        return Decimal(str(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return Decimal(value)
    if isinstance(value, Decimal):
        return value
    raise ValueError("must be a number")


def _no_control_characters(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must not contain control characters")
    return value


def _no_control_characters_but_newlines(value: str) -> str:
    if not value.replace("\n", "").isprintable():
        raise ValueError("must not contain control characters, except newlines")
    return value.strip("\n")


def _path(value: Any) -> Any:
    """Convert TOML's string."""
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError("must not contain a NUL character")
        return Path(value)
    if value is None or isinstance(value, Path):
        return value
    raise ValueError("must be a string")


Line = Annotated[str, AfterValidator(_no_control_characters)]
Lines = Annotated[str, AfterValidator(_no_control_characters_but_newlines)]
File = Annotated[Path, BeforeValidator(_path)]
Price = Annotated[Decimal, BeforeValidator(_decimal), Field(ge=0, le=1_000_000, max_digits=18, decimal_places=9)]
Percent = Annotated[Decimal, BeforeValidator(_decimal), Field(ge=0, le=100, max_digits=9, decimal_places=6)]
