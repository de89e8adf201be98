"""Reads the prompt of a command: from its argument, standard input, or both."""

from __future__ import annotations

import select
import sys
from typing import Final

import typer

from tenantctl.render import message
from tenantd.errors import InvalidRequest

MAX_PROMPT_BYTES: Final = 1 << 30
"""The upper bound of server.max_body_bytes; no daemon accepts more."""
QUIET_S: Final = 2.0
"""Wait this long for an empty pipe before telling the user."""


def read_prompt(argument: str | None) -> str:
    """The argument, followed by standard input on a new line. With `-` or no argument, standard input alone.

    Raises InvalidRequest if the input is not UTF-8 or too large, BadParameter if there is nothing to read.
    """
    is_piped = sys.stdin is not None and not sys.stdin.isatty()
    if argument is None and not is_piped:
        raise typer.BadParameter("give a prompt, or pipe one in", param_hint="PROMPT")
    if argument is None or argument == "-":
        return _standard_input()
    prompt = checked(argument, "the prompt")
    if not is_piped:
        return prompt
    if _is_silent():
        message("waiting for the end of standard input; add < /dev/null to send the prompt alone")
    return "\n".join(filter(None, [prompt, _standard_input()]))


def text_or_file(value: str, option: str, most_bytes: int = MAX_PROMPT_BYTES) -> str:
    """The text itself, or for @FILE the content of a file. Raises BadParameter if the file cannot be read, is not UTF-8
    or has more than `most_bytes`, and InvalidRequest if the text is not UTF-8."""
    if not value.startswith("@"):
        return checked(value, option)
    path = value[1:]
    try:
        with open(path, "rb") as file:
            data = file.read(most_bytes + 1)
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else e
        raise typer.BadParameter(
            f"cannot read {path or 'a file without a name'}: {reason}", param_hint=option
        ) from None
    if len(data) > most_bytes:
        raise typer.BadParameter(f"{path} has more than {most_bytes} bytes", param_hint=option)
    try:
        return data.decode()
    except UnicodeDecodeError as e:
        where = f"byte 0x{data[e.start]:02x} at offset {e.start}"
        raise typer.BadParameter(f"{path} is not UTF-8: {where}", param_hint=option) from None


def checked(text: str, what: str) -> str:
    """`text`, if it is UTF-8. Python keeps other argument bytes as lone surrogates: raises InvalidRequest."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidRequest(f"{what} is not UTF-8") from None
    return text


def _is_silent() -> bool:
    """Whether standard input stays silent for a while, without even ending."""
    try:
        return not select.select([sys.stdin.fileno()], [], [], QUIET_S)[0]
    except (OSError, ValueError):  # not a file of the operating system
        return False


def _standard_input() -> str:
    """All of standard input, without one trailing newline."""
    data = b"" if sys.stdin is None else sys.stdin.buffer.read(MAX_PROMPT_BYTES + 1)
    if len(data) > MAX_PROMPT_BYTES:
        raise InvalidRequest(f"standard input is over {MAX_PROMPT_BYTES} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as e:
        raise InvalidRequest(f"standard input is not UTF-8: byte 0x{data[e.start]:02x} at offset {e.start}") from None
    return text.removesuffix("\n")
