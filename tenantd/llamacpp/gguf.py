"""Checks GGUF files without llama.cpp: by their first bytes, within limits."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import BinaryIO, Final

from tenantd.errors import ModelError
from tenantd.llamacpp.metadata import MAGIC as MAGIC
from tenantd.llamacpp.metadata import STRING, Metadata, Unreadable

MAX_READ_BYTES: Final = 1 << 20
"""Maximum metadata of an adapter to read, including skipped values. One has a few hundred bytes."""
_WEIGHTS: Final = frozenset({".safetensors", ".bin", ".pt", ".pth"})
_CONVERT: Final = "; download the model as GGUF, or convert its folder with llama.cpp's convert_hf_to_gguf.py"
TOO_LONG: Final = "its metadata is too long for a LoRA adapter; it looks like a whole model"


class NotGguf(Exception):
    """The message gives the path and tells what is wrong with the file."""


def check_gguf(path: Path) -> None:
    """Raises NotGguf if the file is missing, unreadable or something else."""
    try:
        status = path.stat()
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            raise NotGguf(f"{path}: is a folder; choose a GGUF file in it")
        if not stat.S_ISREG(mode):  # opening a named pipe would block forever
            raise NotGguf(f"{path}: not a regular file; choose a GGUF file")
        if not status.st_size:  # or a file of /proc such as kmsg, which is waited for, and emptied
            raise NotGguf(f"{path}: not a GGUF file (it is empty); download it again")
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except FileNotFoundError:
        raise NotGguf(f"{path}: no such file; choose a GGUF file") from None
    except OSError as e:
        raise NotGguf(f"cannot read {path}: {e.strerror}") from e
    if magic != MAGIC:
        cure = _CONVERT if path.suffix.lower() in _WEIGHTS else ""
        raise NotGguf(f"{path}: not a GGUF file (it starts with {_shown(magic)} instead of {_shown(MAGIC)}){cure}")


def _shown(data: bytes) -> str:
    """Bytes in quotes; those that are no printable characters of ASCII as escapes."""
    return repr(data)[1:]


def check_adapter(path: Path) -> None:
    """Raises NotGguf if the file is not a LoRA adapter, e.g. a whole model. Does not check whether it fits the
    model."""
    check_gguf(path)
    try:
        with path.open("rb") as file:
            texts = _texts(file, {"general.type", "adapter.type"})
    except OSError as e:
        raise NotGguf(f"cannot read {path}: {e.strerror}") from e
    except Unreadable as e:
        raise NotGguf(f"{path}: {e}") from None
    kind = texts.get("general.type", "model")  # files older than this key are models
    if kind != "adapter":
        raise NotGguf(
            f"{path}: is a {kind[:40]}, not a LoRA adapter; pass a file written by llama.cpp's convert_lora_to_gguf.py"
        )
    if texts.get("adapter.type") != "lora":
        raise NotGguf(f"{path}: is an adapter, but not a LoRA adapter")


def _texts(file: BinaryIO, wanted: set[str]) -> dict[str, str]:
    """The string values of these keys. Reads no further than the last of them. Raises Unreadable."""
    found: dict[str, str] = {}
    metadata = Metadata(file, MAX_READ_BYTES, TOO_LONG)
    for _ in range(metadata.keys):
        if len(found) == len(wanted):
            break
        key, kind = metadata.key()
        if kind == STRING and key in wanted:
            found[key] = metadata.text()
        else:
            metadata.skip(kind)
    return found


def model_file(path: str, setting: str = "model.path") -> Path:
    """The path of a model, checked as far as possible without llama.cpp. Raises ModelError, which names `setting`."""
    file = Path(path)
    try:
        check_gguf(file)
    except NotGguf as e:
        raise ModelError(f"{e} ({setting})") from e
    return file
