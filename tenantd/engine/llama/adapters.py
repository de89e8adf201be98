"""LoRA adapters of one model: loaded when a request first needs them, one in force for a whole pass."""

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
    """A file as it was at one time: one that was replaced is another adapter."""

    path: str
    modified_ns: int
    size_bytes: int


class Adapters:
    """Owner of the adapters. What was loaded stays until the model goes: they are small next to it."""

    def __init__(self, model: Any, context: Any) -> None:
        self._model = model
        self._context = context
        self._handles: dict[Version, Any] = {}
        self._in_force: Version | None = None

    def version(self, path: str) -> Version | None:
        """What a request with this adapter ("" for none) is to run with, loaded. Raises RequestRejected."""
        if not path:
            return None
        try:
            status = Path(path).stat()
            version = Version(path, status.st_mtime_ns, status.st_size)
            if version in self._handles:
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
        """For the passes that follow."""
        if version == self._in_force:
            return
        handles = [] if version is None else [self._handles[version]]
        array = (llama_cpp.llama_adapter_lora_p_ctypes * len(handles))(*handles)
        scales = (ctypes.c_float * len(handles))(*[1.0] * len(handles))
        if llama_cpp.llama_set_adapters_lora(self._context, array, len(handles), scales) != 0:
            print(f"llama_set_adapters_lora refused {version}", file=sys.stderr, flush=True)
            raise EngineBroken("a tenant's adapter could not be put in force")  # every tenant may be told that
        self._in_force = version


def _rejected(why: str) -> RequestRejected:
    """The file is the administrator's: its tenant is told neither its path nor what is in it."""
    detail = f"cannot load its adapter: {why}"
    return RequestRejected("cannot load the tenant's adapter; ask your administrator", detail=detail)
