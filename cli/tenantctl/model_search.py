"""Finds GGUF files where people and other programs keep them, within limits of depth, number and time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from tenantd.llamacpp.header import Header

SUFFIX: Final = ".gguf"
MOST_FOLDERS: Final = 2000
MOST_FILES: Final = 200
MOST_DEPTH: Final = 6
MOST_SECONDS: Final = 3.0


def usual_folders() -> list[tuple[Path, int]]:
    """Where models usually are, and how deep to look there."""
    home = Path.home()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    hub = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or cache / "huggingface") / "hub"
    return [
        (Path.cwd(), 2),
        (home / "models", MOST_DEPTH),
        (home / "Models", MOST_DEPTH),
        (home / "Downloads", 1),
        (cache / "tenantd", 1),
        (cache / "llama.cpp", MOST_DEPTH),
        (Path(hub), MOST_DEPTH),
        (cache / "lm-studio" / "models", MOST_DEPTH),
        (home / ".lmstudio" / "models", MOST_DEPTH),
        (Path("/usr/share/models"), MOST_DEPTH),
        (Path("/srv/models"), MOST_DEPTH),
    ]


class Found(NamedTuple):
    """GGUF files, and whether all were looked for."""

    paths: list[Path]
    is_complete: bool


def gguf_files(places: Iterable[tuple[Path, int]]) -> Found:
    """What has the name of a GGUF file there, each file once, whatever links lead to it. Unreadable folders are
    left out, and links to folders are not followed."""
    until_s = time.monotonic() + MOST_SECONDS
    found: dict[object, Path] = {}
    folders = 0
    for place, depth in places:
        for folder in _folders(place, depth):
            folders += 1
            if folders > MOST_FOLDERS or len(found) >= MOST_FILES or time.monotonic() > until_s:
                return Found(list(found.values()), False)
            for path in _named(folder):
                found.setdefault(_identity(path), path)
    return Found(list(found.values()), True)


def models_near() -> list[Header]:
    """Models in the usual folders that can be served as far as their headers tell."""
    from tenantd.llamacpp.gguf import NotGguf
    from tenantd.llamacpp.header import read_header

    models = []
    for path in gguf_files(usual_folders()).paths:
        try:
            header = read_header(path)
        except NotGguf:
            continue
        if not header.trouble:
            models.append(header)
    return models


def _folders(top: Path, depth: int) -> Iterator[Path]:
    """A folder and those in it, by name; `depth` 1 is the folder alone."""
    yield top
    if depth > 1:
        for entry in _entries(top):
            if entry.is_dir(follow_symlinks=False):
                yield from _folders(Path(entry.path), depth - 1)


def _named(folder: Path) -> list[Path]:
    """What is called a GGUF file in a folder, whatever it is, but for folders."""
    return [
        Path(entry.path) for entry in _entries(folder) if entry.name.lower().endswith(SUFFIX) and not _is_dir(entry)
    ]


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _identity(path: Path) -> object:
    """The same for two names of a file."""
    try:
        status = path.stat()
    except OSError:
        return path
    return status.st_dev, status.st_ino


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []
