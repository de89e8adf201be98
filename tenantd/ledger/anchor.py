"""Writes the head of the audit trail to a file on another disk, or to the journal, at intervals.

Who can write the ledger can make a new chain of hashes, but not one with the heads that were kept elsewhere. Has a
thread of its own, so that a disk that hangs delays nothing. What fails is logged, counted and tried again at the next
interval, and never stops anything.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sqlite3
import stat
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from tenantd.config import SecurityConfig
from tenantd.ledger.anchored import LONGEST_LINE, PREFIX, START, Anchored, parse
from tenantd.ledger.audit import Head, read_head
from tenantd.ledger.database import FILE_MODE, connect_reader, explain

log = logging.getLogger(__name__)

JOURNAL: Final = "journal"
JOURNAL_SOCKET: Final = "/run/systemd/journal/socket"
LOOK_INTERVAL_S: Final = 1.0
"""How soon a changed interval is noticed."""
RETRY_S: Final = 60.0
"""When to try again after a failure, if the interval is longer."""


_COMPARED: Final = "SELECT number, pruned_number, (SELECT hash FROM audit WHERE number = ?) FROM audit_head"


class AnchorFailed(Exception):
    """The head could not be anchored. The message says why."""


class Anchor:
    """Anchors until it is closed. All attributes may be read from any thread."""

    def __init__(
        self,
        ledger: Path,
        security: Callable[[], SecurityConfig],
        now_micros: Callable[[], int],
        *,
        busy_timeout_ms: int = 1000,
        journal_socket: str = JOURNAL_SOCKET,
    ) -> None:
        """`security` is called each time, because the configuration can be reloaded. Starts at once."""
        self.trouble = ""  # why the last attempt failed; "" if it did not
        self.failures = 0
        self.mismatches = 0  # how often something was wrong with what had been anchored before
        self._anchored_s: float | None = None
        self._ledger = ledger
        self._security = security
        self._now_micros = now_micros
        self._busy_timeout_ms = busy_timeout_ms
        self._journal_socket = journal_socket
        self._file = _AnchorFile()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit-anchor", daemon=True)
        self._thread.start()

    def status(self) -> dict[str, Any] | None:
        """None without an anchor in the configuration. `age_s` is None if this process has not anchored yet."""
        if not self._security().anchor:
            return None
        return {
            "age_s": None if self._anchored_s is None else time.monotonic() - self._anchored_s,
            "failures": self.failures,
            "mismatches": self.mismatches,
            "trouble": self.trouble,
        }

    def close(self, timeout_s: float) -> None:
        """Anchor once more, and wait for that for at most `timeout_s`. Blocks."""
        self._closing.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        due_s = 0.0
        while True:
            is_last = self._closing.is_set()
            security = self._security()
            if security.anchor and (is_last or time.monotonic() >= due_s):
                is_anchored = self._anchor(security.anchor)
                every_s = security.anchor_every_s if is_anchored else min(RETRY_S, security.anchor_every_s)
                due_s = time.monotonic() + every_s
            if is_last:
                return
            due_s = min(due_s, time.monotonic() + security.anchor_every_s)  # it may be shorter than it was
            self._closing.wait(LOOK_INTERVAL_S)

    def _anchor(self, where: str) -> bool:
        mismatch = ""
        try:
            head = self._read_head()
            line = _line(head, self._now_micros())
            if where == JOURNAL:
                self._to_journal(line, head)
            else:
                mismatch = self._file.append(Path(where), line, self._compare)
        except Exception as e:  # such as a ledger that somebody has altered; the thread goes on
            if not isinstance(e, AnchorFailed | OSError):
                log.exception("cannot anchor the audit trail because of an unexpected error")
            trouble = f"{where}: {e.strerror}" if isinstance(e, OSError) and e.strerror else str(e) or type(e).__name__
            if trouble != self.trouble:
                log.warning("cannot anchor the audit trail: %s", trouble)
            self.trouble = trouble
            self.failures += 1
            return False
        if self.trouble:
            log.warning("the audit trail is anchored again")
        if mismatch:
            log.warning("%s", mismatch)
            self.mismatches += 1
        self.trouble, self._anchored_s = "", time.monotonic()  # last, so that whoever waits for it sees all
        return True

    def _read_head(self) -> Head:
        """Raises AnchorFailed."""
        try:
            with contextlib.closing(connect_reader(self._ledger, self._busy_timeout_ms)) as conn:
                head = read_head(conn)
        except sqlite3.Error as e:
            raise AnchorFailed(f"cannot read the ledger: {explain(e, self._ledger)}") from e
        if head is None:
            raise AnchorFailed("the head of the audit trail, in table audit_head, was deleted")
        return head

    def _compare(self, last: Anchored) -> str:
        """What is wrong if the trail does not contain what was anchored last; "" if it does."""
        try:
            with contextlib.closing(connect_reader(self._ledger, self._busy_timeout_ms)) as conn:
                newest, pruned, digest = conn.execute(_COMPARED, (last.number,)).fetchone()
        except (sqlite3.Error, TypeError) as e:
            raise AnchorFailed(f"cannot read the ledger {self._ledger}: {e}") from e
        if last.number > newest:
            return (
                f"the audit trail ends at entry {newest}, but entry {last.number} was anchored at {last.at}: a backup "
                "was restored, or the newest entries were cut off"
            )
        if last.number > pruned and (digest is None or digest.hex() != last.hash):
            return (
                f"entry {last.number} of the audit trail is not the one that was anchored at {last.at}: the trail was "
                "rewritten, or a backup was restored and the trail continued from there"
            )
        return ""

    def _to_journal(self, line: str, head: Head) -> None:
        """Send it to the journal, or log it if there is none."""
        fields = f"MESSAGE={PREFIX}{line}\nPRIORITY=5\nSYSLOG_IDENTIFIER=tenantd\nTENANTD_AUDIT_NUMBER={head.number}\n"
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.settimeout(1)
                sock.sendto(fields.encode(), self._journal_socket)
        except (FileNotFoundError, ConnectionRefusedError):
            log.warning("%s%s", PREFIX, line)


class _AnchorFile:
    """Appends lines to a file, which may change from one time to the next."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._bytes = 0  # what it had after the last line

    def append(self, path: Path, line: str, compare: Callable[[Anchored], str]) -> str:
        """Append durably. Returns what is wrong with the content before, "" if nothing; `compare` says that about the
        last anchor of a file that is new here. Raises OSError, AnchorFailed."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(path, flags, FILE_MODE)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise AnchorFailed(f"{path} is not a regular file (security.anchor)")
            tail = os.pread(fd, LONGEST_LINE, max(0, found.st_size - LONGEST_LINE))
            last, wrong = _last_anchor(tail), ""
            if path != self._path:
                if found.st_size and not os.pread(fd, len(START), 0).startswith(START):
                    raise AnchorFailed(f"{path} holds something else; choose another file (security.anchor)")
                wrong = "" if last is None else compare(last)
            elif found.st_size < self._bytes:
                wrong = f"{path} has lost {self._bytes - found.st_size} bytes since the last anchor"
            _write_all(fd, (b"" if tail.endswith(b"\n") or not tail else b"\n") + line.encode() + b"\n")
            os.fsync(fd)
            self._path, self._bytes = path, os.fstat(fd).st_size
            return wrong
        finally:
            os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _last_anchor(tail: bytes) -> Anchored | None:
    found = [anchored for line in tail.splitlines() if (anchored := parse(line)) is not None]
    return found[-1] if found else None


def _line(head: Head, now_micros: int) -> str:
    at = datetime.fromtimestamp(now_micros // 1_000_000, UTC)
    anchored = Anchored(at=f"{at:%Y-%m-%dT%H:%M:%SZ}", number=head.number, hash=head.hash.hex())
    return json.dumps(msgspec.structs.asdict(anchored))
