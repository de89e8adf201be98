"""Other ways to write a path: OpenAI's routes without their /v1, and any route with a slash at its end."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from tenantd.api.operations import Access, Operation, served_methods

VERSION: Final = "/v1"
_PARAMETER: Final = re.compile(r"{\w+(:path)?}")
UNSUPPORTED: Final = frozenset(
    {
        "assistants",
        "audio",
        "batches",
        "chatkit",
        "containers",
        "conversations",
        "edits",
        "evals",
        "files",
        "fine-tunes",
        "fine_tuning",
        "images",
        "moderations",
        "organization",
        "realtime",
        "rerank",
        "skills",
        "threads",
        "uploads",
        "vector_stores",
        "videos",
    }
)
"""What OpenAI's API, and others like it, have below /v1. Those among them that are served are found before."""


class Spellings:
    """All paths that are served."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._methods: dict[str, set[str]] = {}  # of paths without parameters
        self._patterns: list[tuple[re.Pattern[str], set[str]]] = []
        administration: set[str] = set()
        by_path: dict[str, set[str]] = {}
        for one in operations:
            by_path.setdefault(one.path, {"OPTIONS"}).update(served_methods(one))
            if one.access is Access.ADMINISTRATOR:
                administration.add(one.path)
        for path, methods in by_path.items():
            if "{" in path:
                self._patterns.append((_compiled(path), methods))
            else:
                self._methods[path] = methods
        self._administration = [_compiled(path) for path in administration]

    def usual(self, path: str) -> str:
        """The path as it is declared; unchanged if it is not served."""
        if path in self._methods:
            return path
        path = path.rstrip("/") or "/"
        if path.startswith(f"{VERSION}/") or self.methods(path):
            return path
        return with_version if self.methods(with_version := VERSION + path) else path

    def methods(self, path: str) -> list[str]:
        """What may be sent to a path that is written as declared, in order."""
        found = set(self._methods.get(path, ()))
        if not found:
            for pattern, methods in self._patterns:
                if pattern.fullmatch(path):
                    found |= methods
        return sorted(found)

    def administers(self, path: str) -> bool:
        """Whether only administrators may use it."""
        return any(pattern.fullmatch(path) for pattern in self._administration)


def unsupported_family(path: str) -> str:
    """The part of OpenAI's API that a path belongs to, if it is one that is not served; "" otherwise."""
    family = path.removeprefix(VERSION).strip("/").partition("/")[0]
    return family if family in UNSUPPORTED else ""


def _compiled(path: str) -> re.Pattern[str]:
    return re.compile(_PARAMETER.sub(lambda found: ".+" if found[1] else "[^/]+", path))
