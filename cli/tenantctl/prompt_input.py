"""Reads the prompt of a command: from its argument, standard input, and files."""

from __future__ import annotations

import select
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import typer

from tenantctl.render import message
from tenantd.errors import InvalidRequest

MAX_PROMPT_BYTES: Final = 1 << 30
"""The upper bound of server.max_body_bytes; no daemon accepts more."""
MOST_FILE_BYTES: Final = 16 << 20
"""Of one file that is sent with a prompt."""
QUIET_S: Final = 2.0
"""Wait this long for an empty pipe before telling the user."""


def read_prompt(argument: str | None, files: Sequence[Path] = (), *, raw: bool = False) -> str:
    """The argument, followed by standard input on a new line, and by the files, each under its name.

    With `-` or no argument, standard input alone. `raw` leaves out the names, so that a model can continue the text.
    Raises InvalidRequest if the input is not UTF-8 or too large, BadParameter if there is nothing to read or a file
    cannot be sent.
    """
    attached = [(path, _file(path)) for path in files]
    typed = _typed(argument, has_files=bool(files))
    if not typed and not any(text for _, text in attached):
        raise InvalidRequest("the prompt is empty; give one, or pipe one in")
    if raw or (not typed and len(attached) == 1):
        return "\n".join(filter(None, [typed, *(text for _, text in attached)]))
    return "\n\n".join(filter(None, [typed, *(f"--- {path.name} ---\n{text}" for path, text in attached)]))


def _typed(argument: str | None, *, has_files: bool) -> str:
    """What the argument and standard input say together."""
    is_piped = sys.stdin is not None and not sys.stdin.isatty()
    if argument is None and not is_piped and not has_files:
        raise typer.BadParameter("give a prompt, or pipe one in", param_hint="PROMPT")
    if argument == "-" or (argument is None and not has_files):
        return _standard_input()
    prompt = checked(argument or "", "the prompt")
    if not is_piped:
        return prompt
    if _is_silent():
        message("waiting for the end of standard input; add < /dev/null to send the prompt alone")
    return "\n".join(filter(None, [prompt, _standard_input()]))


def _file(path: Path) -> str:
    """A text file that belongs to the prompt, without one trailing newline."""
    return file_text(path, "--file", MOST_FILE_BYTES).removesuffix("\n")


def text_or_file(value: str, option: str, most_bytes: int = MAX_PROMPT_BYTES) -> str:
    """The text itself, or for @FILE the content of a file. Raises BadParameter if the file cannot be sent, and
    InvalidRequest if the text is not UTF-8."""
    return file_text(value[1:], option, most_bytes) if value.startswith("@") else checked(value, option)


def file_text(path: str | Path, option: str, most_bytes: int) -> str:
    """The content of a file. Raises BadParameter if it cannot be read, is not UTF-8 or has more than `most_bytes`."""
    try:
        with open(path, "rb") as file:
            data = file.read(most_bytes + 1)
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else e
        named = str(path) or "a file without a name"
        raise typer.BadParameter(f"cannot read {named}: {reason}", param_hint=option) from None
    if b"\0" in data:
        raise typer.BadParameter(f"{path} is a binary file; only text can be sent", param_hint=option)
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
