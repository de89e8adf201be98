"""Reads the values of options and arguments, with messages in plain words.

Typer would do it with pydantic, whose import takes longer than most commands, and whose messages are for programmers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, Final, get_args, get_origin

import typer
from typer import core

_WHOLE_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,100}")
_QUOTED_CHARACTERS: Final = 40
Reader = Callable[[str], Any]


class PlainValue:
    """How one parameter is read; stands in for Typer's RuntimeParam."""

    def __init__(self, read: Reader) -> None:
        self._read = read

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value of a parameter, or those of one that may be repeated. Raises BadParameter."""
        is_repeated = param.multiple or param.nargs == -1
        if value is None:
            return () if is_repeated else None
        try:
            return [self._one(each) for each in value] if is_repeated else self._one(value)
        except typer.BadParameter as e:
            e.ctx, e.param = e.ctx or ctx, e.param or param
            raise

    def _one(self, value: Any) -> Any:
        return self._read(value) if isinstance(value, str) else value


def use() -> None:
    """From now on, values of usual types are read here. Typer has no setting for that."""
    module: Any = core
    if (of_typer := getattr(module, "build_runtime_param", None)) is None:
        return  # another version of Typer has another way

    def build(descriptor: Any) -> Any:
        return of_typer(descriptor) if (read := _reader(descriptor)) is None else PlainValue(read)

    module.build_runtime_param = build


def _reader(descriptor: Any) -> Reader | None:
    """What reads values of a parameter; None if its type is not a usual one."""
    kind, info = descriptor.annotation, descriptor.parameter_info
    if get_origin(kind) is list:
        [kind] = get_args(kind)
    if info.parser is not None:
        return info.parser  # type: ignore[no-any-return]
    if kind in (str, bool):  # a flag's value is never text
        return kind  # type: ignore[no-any-return]
    if kind in (int, float):
        return lambda text: _bounded(_number(text, kind), info.min, info.max)
    if kind is Path:
        return lambda text: _path(text, info)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return lambda text: _choice(text, kind)
    return None


def quoted(text: str) -> str:
    """A value in a message, shortened."""
    return repr(text if len(text) <= _QUOTED_CHARACTERS else text[:_QUOTED_CHARACTERS] + "…")


def _number(text: str, kind: type) -> Any:
    if kind is int:
        if not _WHOLE_NUMBER.fullmatch(text.strip()):
            raise typer.BadParameter(f"must be a whole number (got {quoted(text)})")
        return int(text)
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"must be a number (got {quoted(text)})") from None


def _bounded(number: Any, least: float | None, most: float | None) -> Any:
    if least is not None and most is not None and not least <= number <= most:
        raise typer.BadParameter(f"must be from {least} to {most} (got {number})")
    if least is not None and number < least:
        raise typer.BadParameter(f"must be at least {least} (got {number})")
    if most is not None and number > most:
        raise typer.BadParameter(f"must be at most {most} (got {number})")
    return number


def _choice(text: str, kind: type[Enum]) -> Enum:
    for member in kind:
        if member.value == text:
            return member
    raise typer.BadParameter(f"must be one of {', '.join(str(m.value) for m in kind)} (got {quoted(text)})")


def _path(text: str, info: Any) -> Path:
    """A path, as far as the option says what must be there."""
    path = Path(text)
    try:
        is_there, is_folder = os.path.lexists(path), path.is_dir()
    except ValueError:  # a null byte
        raise typer.BadParameter(f"is not a file name (got {quoted(text)})") from None
    if info.exists and not path.exists():
        raise typer.BadParameter(f"no such {'file' if info.file_okay else 'folder'}: {text}")
    if is_folder and not info.dir_okay:
        raise typer.BadParameter(f"{text} is a folder; name a file")
    if is_there and not is_folder and not info.file_okay:
        raise typer.BadParameter(f"{text} is a file; name a folder")
    if info.exists and not os.access(path, os.R_OK):
        raise typer.BadParameter(f"cannot read {text}: permission denied")
    return path
