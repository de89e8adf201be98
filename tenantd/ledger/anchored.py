"""Heads of the audit trail that were kept elsewhere, and what it means if the trail does not agree with them.

An anchor file has one JSON object a line: {"at": "2026-11-29T15:00:00Z", "number": 41, "hash": "…"}. Whatever stands
before the object on its line is ignored, so lines of a log or journal are anchors, too.
"""

from __future__ import annotations

import contextlib
import stat
from bisect import bisect_left
from collections.abc import Iterator
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from typing import Final

import msgspec

from tenantd.errors import ConfigError
from tenantd.ledger.audit import HASH_BYTES, LARGEST_NUMBER
from tenantd.ledger.diagnosis import Finding, Kind
from tenantd.ledger.prunings import Announced

PREFIX: Final = "tenantd-audit-head "
"""Before each anchor in a log or journal."""
EXAMPLE: Final = '{"at": "2026-11-29T15:00:00Z", "number": 41, "hash": "…"}'
START: Final = b'{"at"'
MOST_HEADS: Final = 2_000_000
LONGEST_LINE: Final = 4096
SLACK_MICROS: Final = 60_000_000
"""An anchor is written a little later than its head is read."""


class Anchored(msgspec.Struct, frozen=True, kw_only=True):
    """One anchor: the head of the trail at a time (UTC). `hash` in hex."""

    at: str
    number: int
    hash: str


_decode = msgspec.json.Decoder(Anchored).decode


def parse(line: bytes) -> Anchored | None:
    """One line; None if it is not an anchor."""
    start = line.find(START)
    if start < 0:
        return None
    try:
        found = _decode(line[start:])
        is_one = len(bytes.fromhex(found.hash)) == HASH_BYTES and 0 <= found.number < LARGEST_NUMBER
        return found if is_one else None
    except (ValueError, RecursionError):
        return None


class Anchors:
    """All anchors of a file, by number. A number has several if different heads were anchored with it."""

    def __init__(self) -> None:
        self.heads: dict[int, tuple[tuple[bytes, int], ...]] = {}  # hash, and the line it stands in
        self._times: list[tuple[int, int]] = []  # number and time of those that have a time
        self._numbers: list[int] | None = None  # of `_times`, in order; None until `_put_in_order`
        self._earliest: list[int] = []  # the earliest time of this number and all later ones
        self._latest: list[int] = []  # the latest time of this number and all earlier ones
        self.agreed = 0
        self._last_agreed = 0
        self._notes: list[str] = []

    @classmethod
    def read(cls, path: Path) -> Anchors:
        """Raises ConfigError if the file cannot be read, has no anchor, or too many."""
        anchors = cls()
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise ConfigError(f"{path} is not a regular file; save the anchors in one")
            with path.open("rb") as file:
                anchors._read(iter(lambda: file.readline(LONGEST_LINE), b""))
        except OSError as e:
            raise ConfigError(f"cannot read the anchors in {path}: {e.strerror}") from e
        except OverflowError:
            raise ConfigError(
                f"{path} has over {MOST_HEADS} different anchors; split it and verify each part"
            ) from None
        if not anchors.heads:
            raise ConfigError(f"{path} has no anchors, which are lines like {EXAMPLE}")
        return anchors

    def _read(self, lines: Iterator[bytes]) -> None:
        others = newest = went_back = 0
        for number, line in enumerate(lines, 1):
            found = parse(line)
            if found is not None:
                went_back = number if found.number < newest else went_back
                newest = found.number
                self._add(found, number)
            elif line.endswith(b"\n") or len(line) == LONGEST_LINE:
                others += bool(line.strip())
            else:
                self._notes.append(f"the last line, {number}, is cut off and was ignored")
        if went_back:
            self._notes.append(f"line {went_back}: the numbers go back, as they do when a backup is restored")
        if others:
            what = "1 line is not an anchor and was" if others == 1 else f"{others} lines are not anchors and were"
            self._notes.append(f"{what} ignored")

    def _add(self, found: Anchored, line: int) -> None:
        digest, known = bytes.fromhex(found.hash), self.heads.get(found.number, ())
        if any(digest == other for other, _ in known):
            return
        if len(self.heads) >= MOST_HEADS:
            raise OverflowError
        self.heads[found.number] = (*known, (digest, line))
        with contextlib.suppress(ValueError, OverflowError):
            self._times.append((found.number, round(datetime.fromisoformat(found.at).timestamp() * 1e6)))

    def compare(self, number: int, digest: bytes) -> Finding | None:
        """Compare an entry of the trail with what was anchored with its number, if anything was."""
        known = self.heads.get(number)
        if known is None:
            return None
        for other, line in known:
            if other != digest:
                since = f"after entry {self._last_agreed}" if self.agreed else "before it"
                return Finding(
                    number=number,
                    kind=Kind.REWRITTEN,
                    message=f"entry {number} is not the one that was anchored (line {line}): the trail was rewritten "
                    f"{since}, or a backup from before this entry was restored and the trail continued from there",
                )
        self.agreed += 1
        self._last_agreed = number
        return None

    def known_micros(self, number: int) -> int | None:
        """A time at which the entry was there, from the first anchor of it or of a later one; None if there is none.

        It is not earlier than that of any anchor before, as it may be if a clock was set back.
        """
        self._put_in_order()
        assert self._numbers is not None
        i = bisect_left(self._numbers, number)
        return self._latest[i] if i < len(self._numbers) else None

    def contradict(self, announced: Announced) -> int | None:
        """The number of an anchored head that shows that later entries are too young to be pruned; None if none does.

        What follows a head was written after it was anchored. Of anchors that disagree because a clock was wrong, the
        earliest time counts.
        """
        self._put_in_order()
        assert self._numbers is not None
        i = bisect_left(self._numbers, announced.through) - 1
        is_younger = i >= 0 and self._earliest[i] >= announced.before_micros + SLACK_MICROS
        return self._numbers[i] if is_younger else None

    def _put_in_order(self) -> None:
        if self._numbers is None:
            self._times.sort()
            moments = [at_micros for _, at_micros in self._times]
            self._numbers = [number for number, _ in self._times]
            self._latest = list(accumulate(moments, max))
            self._earliest = list(accumulate(reversed(moments), min))[::-1]

    def beyond(self, number: int) -> Finding | None:
        """What it means that the trail ends at `number`, if a later head was anchored."""
        newest = max(self.heads, default=0)
        if newest <= number:
            return None
        line = self.heads[newest][0][1]
        return Finding(
            number=number + 1,
            kind=Kind.OLDER,
            message=f"the trail ends at entry {number}, but entry {newest} was anchored (line {line}): the newest "
            "entries were cut off, or this is a backup from before that",
        )

    def notes(self, pruned: int) -> list[str]:
        """What could not be compared, in words, if entries up to `pruned` are gone."""
        older = sum(number < pruned for number in self.heads)
        return (
            [*self._notes, f"{older} anchors are of pruned entries, and cannot be compared"] if older else self._notes
        )
