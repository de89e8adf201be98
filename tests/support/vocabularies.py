"""Vocabularies and chat templates of many models, without weights: `models/ggml-vocab-*.gguf` and
`models/templates/*.jinja` of llama.cpp, as in the source distribution of the llama-cpp-python that is installed.

    python -m tests.support.vocabularies

downloads it with pip (70 MB, 20 s) and keeps them in ~/.cache/tenantd-tests, or in $TENANTD_TEST_CACHE. The first test
that needs one does it, too; later runs need no network.
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
from typing import Final, Literal

PACKAGE: Final = "llama-cpp-python"
PREFIX: Final = "ggml-vocab-"
Kind = Literal["vocabularies", "templates"]
KINDS: Final[tuple[Kind, ...]] = ("vocabularies", "templates")


def folder(kind: Kind) -> Path:
    """Where those of the installed version are, or will be."""
    cache = os.environ.get("TENANTD_TEST_CACHE") or Path.home() / ".cache" / "tenantd-tests"
    return Path(cache) / f"{kind}-{version(PACKAGE)}"


def vocabulary_path(name: str) -> Path:
    """The vocabulary of this name, such as llama-bpe."""
    return download("vocabularies") / f"{PREFIX}{name}.gguf"


def template(name: str) -> str:
    """The chat template of this name, such as Qwen-Qwen3-0.6B."""
    return (download("templates") / f"{name}.jinja").read_text("utf-8")


def download(kind: Kind) -> Path:
    """Fill the cache unless it is full. Runs at the same time may all do it; none sees a half-filled folder."""
    if folder(kind).exists():
        return folder(kind)
    folder(kind).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder(kind).parent) as temporary:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", PACKAGE, "-d", temporary]
        subprocess.run([*pip, f"{PACKAGE}=={version(PACKAGE)}"], check=True)
        [archive] = Path(temporary).glob("*.tar.gz")
        filled = {one: Path(temporary) / one for one in KINDS}
        for path in filled.values():
            path.mkdir()
        with tarfile.open(archive) as members:
            for member in members:
                if member.isfile() and (found := _kind(Path(member.name))) is not None:
                    content = members.extractfile(member)
                    assert content is not None, "a file has content"
                    with content, open(filled[found] / Path(member.name).name, "wb") as file:
                        shutil.copyfileobj(content, file)
        for one, path in filled.items():
            if not folder(one).exists():
                path.rename(folder(one))
    return folder(kind)


def _kind(path: Path) -> Kind | None:
    """What a file of the archive is."""
    if path.name.startswith(PREFIX) and path.suffix == ".gguf":
        return "vocabularies"
    return "templates" if path.suffix == ".jinja" and path.parent.name == "templates" else None


if __name__ == "__main__":
    for each in KINDS:
        print(download(each))
