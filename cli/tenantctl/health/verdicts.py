"""What the doctor says of one thing: whether it is well, what it saw, and the cure."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple


class Level(StrEnum):
    """From good to bad."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(NamedTuple):
    """One line about one check, and what to do; nothing if all is well."""

    check: str
    level: Level
    what: str
    cure: str = ""


def ok(check: str, what: str) -> Finding:
    """All is well."""
    return Finding(check, Level.OK, what)


def warn(check: str, what: str, cure: str) -> Finding:
    """It works, but not as it should."""
    return Finding(check, Level.WARN, what, cure)


def fail(check: str, what: str, cure: str) -> Finding:
    """Something does not work."""
    return Finding(check, Level.FAIL, what, cure)


def from_message(check: str, level: Level, message: str, cure: str = "") -> Finding:
    """A finding from a message of the daemon, which ends with what to do: "X is wrong; run: Y"."""
    what, separator, end = message.rpartition("; ")
    if not separator:
        return Finding(check, level, message, cure)
    return Finding(check, level, what, end.removeprefix("run: "))


def worst(findings: Iterable[Finding]) -> Level:
    """The worst level of all."""
    levels = {finding.level for finding in findings}
    return next((level for level in (Level.FAIL, Level.WARN) if level in levels), Level.OK)
