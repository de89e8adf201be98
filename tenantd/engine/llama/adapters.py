"""LoRA adapters of one model: loaded when first needed, one active per forward pass."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any, NamedTuple

import llama_cpp

from tenantd.engine.compute import EngineBroken, RequestRejected
from tenantd.llamacpp import log
from tenantd.llamacpp.gguf import NotGguf, check_adapter


class Version(NamedTuple):
    """One version of an adapter file; a replaced file is another adapter."""

    path: str
    modified_ns: int
    size_bytes: int
    inode: int  # two files may have the same time and size


class Adapters:
    """All loaded adapters. They stay until the model is freed, because they are small compared with it."""

    def __init__(self, model: Any, context: Any) -> None:
        self._model = model
        self._context = context
        self._handles: dict[Version, Any] = {}
        self._in_force: Version | None = None

    def current(self, path: str) -> Version | None:
        """The version that the file has now ("" has none). Raises RequestRejected."""
        if not path:
            return None
        try:
            status = Path(path).stat()
        except OSError as e:
            raise _rejected(str(e)) from e
        return Version(path, status.st_mtime_ns, status.st_size, status.st_ino)

    def version(self, path: str) -> Version | None:
        """The loaded version of this adapter ("" for none). Raises RequestRejected."""
        try:
            version = self.current(path)
            if version is None or version in self._handles:
                return version
            check_adapter(Path(path))
        except (NotGguf, OSError) as e:
            raise _rejected(str(e)) from e
        log.forget()
        handle = llama_cpp.llama_adapter_lora_init(self._model, path.encode())
        if not handle:
            raise _rejected(f"{path}: {log.reason('llama.cpp gives no reason', most_lines=1)}")
        self._handles[version] = handle
        return version

    def put_in_force(self, version: Version | None) -> None:
        """Activate an adapter for the following passes."""
        if version == self._in_force:
            return
        handles = [] if version is None else [self._handles[version]]
        array = (llama_cpp.llama_adapter_lora_p_ctypes * len(handles))(*handles)
        scales = (ctypes.c_float * len(handles))(*[1.0] * len(handles))
        if llama_cpp.llama_set_adapters_lora(self._context, array, len(handles), scales) != 0:
            print(f"llama_set_adapters_lora refused {version}", file=sys.stderr, flush=True)
            raise EngineBroken("cannot activate a tenant's adapter")  # every tenant may be told that
        self._in_force = version


def _rejected(why: str) -> RequestRejected:
    """The file belongs to the administrator, so the tenant sees neither its path nor its contents."""
    detail = f"cannot load its adapter: {why}"
    return RequestRejected("cannot load the tenant's adapter; ask your administrator", detail=detail)
