"""The audit trail: who did what and when, in entries that are only appended, each hashed with the hash before it.

The columns of table `audit` are enough to recompute every hash:

    hash = SHA-256(hash of the entry before + canonical entry)

The hash before the first entry that is kept is `pruned_hash` in table `audit_head`; it is 32 zero bytes until
something is pruned. The canonical entry is the JSON array [number, at_micros, event, tenant_id, tenant, request_id,
detail] in UTF-8 without spaces. NULL is null, and `detail` is a string, exactly the text in its column. In Python:

    json.dumps([number, ..., detail], ensure_ascii=False, separators=(",", ":")).encode()

`detail` is itself a JSON object with sorted keys. The order of entries is that of their numbers. Their times are what
the clock said, so they may go back.

`audit_head` holds number and hash of the newest entry, and is written together with it. Appending continues from
there, so a transaction that is rolled back leaves no trace, and entries removed from the end are missed.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Any, Final

import msgspec

from tenantd.errors import LedgerDamaged
from tenantd.ledger.database import is_trouble
from tenantd.ledger.records import RequestRecord

HASH_BYTES: Final = 32
NO_HASH: Final = bytes(HASH_BYTES)
"""The hash before the very first entry."""
LARGEST_NUMBER: Final = 2**62
"""No entry has a number as large as this, so a larger one in the file was not written by tenantd."""
_LARGEST: Final = 2**63 - 1
log = logging.getLogger(__name__)

# Entries about the trail itself, made by the ledger.
BEGUN: Final = "begun"  # the first entry of a trail
SWITCHED_OFF: Final = "switched_off"  # security.audit = "off"; nothing is recorded until the next
SWITCHED_ON: Final = "switched_on"
CONTINUED: Final = "continued"  # the head was missing or wrong at a start
MISSED: Final = "missed"  # entries that could not be kept while nothing could be written
PRUNED: Final = "pruned"  # old entries may be deleted, up to a number
RENEWED: Final = "renewed"  # a new ledger was begun, with the tenants and the trail of the one before
RESTORED: Final = "restored"  # a backup was put in the ledger's place
DAMAGED: Final = "damaged"  # an entry that was pruned was not what had been recorded
# Entries about requests that a start settles.
INTERRUPTED: Final = "interrupted"  # a killed daemon left it running
SETTLED_LATE: Final = "settled_late"  # a stop set it aside
UNDESCRIBED: Final = "undescribed"  # a bug: it was settled, but its entry could not be made


class AuditBroken(LedgerDamaged):
    """Nothing can be appended, because the head of the trail or its table is not what the ledger left there."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What is recorded. `at_micros`: wall clock. `detail` is encoded as JSON, and must contain no prompt and no text.

    `tenant` is the tenant's name at the time.
    """

    at_micros: int
    event: str
    tenant_id: int | None = None
    tenant: str | None = None
    request_id: str | None = None
    detail: dict[str, Any] = {}


MakeEntry = Callable[[], Entry]
"""Called in the writer's thread, again if the transaction must be repeated; or in another as the daemon stops."""
Columns = tuple[int, str, int | None, str | None, str | None, str]
"""What is stored of an entry, besides number and hash. The last is its detail as JSON."""


class Head(msgspec.Struct, frozen=True):
    """The newest entry, and the newest of those that were pruned. 0 and NO_HASH if there is none."""

    number: int
    hash: bytes
    pruned_number: int
    pruned_hash: bytes
    prunable_number: int  # entries up to this are being pruned, if an entry says so


COLUMNS: Final = "number, at_micros, event, tenant_id, tenant, request_id, detail, hash"
_HEAD: Final = "SELECT number, hash, pruned_number, pruned_hash, prunable_number FROM audit_head WHERE one = 1"
_INSERT: Final = f"INSERT INTO audit ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_NEWEST: Final = (
    "SELECT at_micros, event, tenant_id, tenant, request_id, detail FROM audit ORDER BY number DESC LIMIT ?"
)
_CONTINUE_FROM: Final = """SELECT head.number, head.hash, newest.hash, head.number = head.pruned_number
    FROM audit_head AS head LEFT JOIN audit AS newest ON newest.number = head.number"""

_encode = msgspec.json.Encoder(order="sorted").encode
encode_row = msgspec.json.Encoder().encode  # number and columns as the canonical entry


def columns(entry: Entry) -> Columns:
    """The columns of an entry. Raises TypeError, ValueError if they cannot be stored or encoded."""
    for number in (entry.at_micros, entry.tenant_id or 0):
        if abs(number) > _LARGEST:
            raise ValueError(f"{number} does not fit the audit trail")
    try:
        detail = _encode(entry.detail).decode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can escape
        detail = json.dumps(entry.detail, sort_keys=True, separators=(",", ":"))
    return (
        entry.at_micros,
        _storable(entry.event),
        entry.tenant_id,
        None if entry.tenant is None else _storable(entry.tenant),
        None if entry.request_id is None else _storable(entry.request_id),
        detail,
    )


def link(last: bytes, row: tuple[Any, ...]) -> bytes:
    """The hash of an entry (its number and columns) after the hash `last`. Raises UnicodeEncodeError."""
    return sha256(last + encode_row(row)).digest()


def read_head(conn: sqlite3.Connection) -> Head | None:
    """None if somebody has deleted it."""
    row = conn.execute(_HEAD).fetchone()
    return None if row is None else Head(*row)


def newest_micros(conn: sqlite3.Connection) -> int | None:
    """The time of the newest entry; None if there is none, or no head."""
    row = conn.execute("SELECT at_micros FROM audit WHERE number = (SELECT number FROM audit_head)").fetchone()
    return None if row is None else int(row[0])


def append(conn: sqlite3.Connection, entries: Iterable[Entry], after: tuple[int, bytes] | None = None) -> None:
    """Append entries in the caller's transaction, which must be rolled back if this raises.

    `after`, number and hash to continue from, is only for a head that was altered.

    Raises AuditBroken, sqlite3.Error for trouble with the file, and TypeError or ValueError for an entry that cannot
    be stored; then nothing has been written yet.
    """
    rows = [columns(entry) for entry in entries]
    if not rows:
        return
    try:
        number, last = after or _continue_from(conn)
        hashed = []
        for row in rows:
            number += 1
            last = link(last, (number, *row))
            hashed.append((number, *row, last))
        conn.executemany(_INSERT, hashed)
        conn.execute("UPDATE audit_head SET number = ?, hash = ? WHERE one = 1", (number, last))
    except sqlite3.Error as e:
        if is_trouble(e):
            raise
        raise AuditBroken(f"nothing can be appended to the audit trail, which somebody has altered: {e}") from e
    except OverflowError as e:
        raise AuditBroken("the number in audit_head is not one that tenantd has written") from e


def newest(conn: sqlite3.Connection, most: int) -> Counter[Columns]:
    """The columns of the newest entries, at most that many, and how often each is there."""
    usual = conn.text_factory
    conn.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")  # what was altered may not be text
    try:
        return Counter(conn.execute(_NEWEST, (most,)))
    finally:
        conn.text_factory = usual


def made(make: MakeEntry, request_id: str, now_micros: int) -> Entry:
    """An entry that can be stored: what `make` returns, or that it failed, because a row must not depend on that."""
    try:
        entry = make()
        columns(entry)
    except Exception as e:
        log.exception("request %s: cannot make its entry in the audit trail", request_id)
        detail = {"error": type(e).__name__}
        return Entry(at_micros=now_micros, event=UNDESCRIBED, request_id=request_id, detail=detail)
    return entry


def about_request(event: str, row: RequestRecord, now_micros: int) -> Entry:
    """An entry about a settled row that nothing more is known about."""
    return Entry(
        at_micros=now_micros,
        event=event,
        tenant_id=row.tenant_id,
        tenant=row.tenant,
        request_id=row.id,
        detail={
            "completion_tokens": row.completion_tokens,
            "prompt_tokens": row.prompt_tokens,
            "cached_tokens": row.cached_tokens,
            "state": row.state,
        },
    )


def _continue_from(conn: sqlite3.Connection) -> tuple[int, bytes]:
    row = conn.execute(_CONTINUE_FROM).fetchone()
    if row is None:
        raise AuditBroken(
            "the head of the audit trail (table audit_head) was deleted; restore a backup, or restart tenantd, which "
            "continues the trail and records the gap"
        )
    number, last, newest, is_empty = row
    if newest != last and not (newest is None and is_empty):
        raise AuditBroken(
            "the head of the audit trail (table audit_head) and its newest entry do not agree, so somebody has altered "
            "one of them; restore a backup, or restart tenantd, which continues the trail and records the gap"
        )
    return number, last


def _storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
