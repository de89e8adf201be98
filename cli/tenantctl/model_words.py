"""A model's file in words, from its header."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tenantd.errors import ModelError
from tenantd.printable import one_line

if TYPE_CHECKING:
    from tenantd.llamacpp.header import Header


def checked_header(path: Path) -> Header:
    """The header of a file that can be served as far as it tells. Raises ModelError."""
    from tenantd.llamacpp.gguf import NotGguf
    from tenantd.llamacpp.header import read_header

    try:
        header = read_header(path)
    except NotGguf as e:
        raise ModelError(str(e)) from None
    if header.trouble:
        raise ModelError(f"{path}: {header.trouble}")
    return header


def in_short(header: Header) -> str:
    """Architecture, parameters, quantisation, size, context and chat template, in one line."""
    from tenantd.banner import count, size

    context = f"context {header.context_tokens}" if header.context_tokens else "unknown context"
    template = "chat template" if header.has_chat_template else "no chat template"
    return one_line(
        f"{header.architecture} {count(header.parameters)}, {header.quantisation}, {size(header.size_bytes)}, "
        f"{context}, {template}"
    )


def base_model_warning(header: Header) -> str:
    """What is different with a base model; "" for others."""
    if header.has_chat_template:
        return ""
    return 'warning: no chat template: this looks like a base model; chats are sent as plain "User: …" text'


def from_home(path: Path) -> str:
    """A path as a shell takes it, with ~ for the home folder."""
    try:
        return f"~/{path.relative_to(Path.home())}"
    except (ValueError, RuntimeError):
        return str(path)
