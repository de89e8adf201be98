"""Checks everything that must hold in a ledger, and says of each breach what to do. Changes nothing.

Works on a file that nobody uses, on a backup, and while the daemon writes: what belongs together is read in one
snapshot, and nobody waits for it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from tenantd.errors import ConfigError, LedgerUnavailable, UnusableFile
from tenantd.ledger.budget_rules import broken_budgets, broken_quotas
from tenantd.ledger.database import connect_reader, explain, is_damage
from tenantd.ledger.invoice_proof import prove
from tenantd.ledger.long_reads import long_read
from tenantd.ledger.migrations import APPLICATION_ID, VERSION
from tenantd.ledger.pieces import let_go
from tenantd.ledger.row_rules import broken_days, broken_hours, broken_rows
from tenantd.ledger.schema import SCHEMA
from tenantd.ledger.verify import verify

BUSY_TIMEOUT_MS: Final = 1000
MOST_BREACHES: Final = 10
"""Of one check; further ones are counted."""
_OBJECTS: Final = "SELECT type || ' ' || name FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'"
_REFERENCES: Final = """SELECT count(DISTINCT name || ' ' || reference.id) FROM sqlite_schema
    JOIN pragma_foreign_key_list(name) AS reference WHERE type = 'table'"""


class Check(StrEnum):
    """What is checked, in this order."""

    FILE = "file"
    SCHEMA = "schema"
    REFERENCES = "references"
    REQUESTS = "requests"
    HOURS = "hours"
    BUDGETS = "budgets"
    QUOTAS = "free quotas"
    INVOICES = "invoices"
    KEYS = "idempotency keys"
    AUDIT = "audit trail"


WHAT_TO_DO: Final = {
    Check.FILE: "stop tenantd and restore a backup: tenantctl ledger restore FILE",
    Check.SCHEMA: "somebody has altered the tables; compare with a backup, or restore one",
    Check.REFERENCES: "somebody has deleted rows that others refer to; restore a backup",
    Check.REQUESTS: "somebody has edited rows; compare them with a backup",
    Check.HOURS: "rows or sums were edited; compare with a backup, and report it if nobody did that",
    Check.BUDGETS: "rows or uses were edited; compare with a backup, and report it if nobody did that",
    Check.QUOTAS: "rows or uses were edited; compare with a backup, and report it if nobody did that",
    Check.INVOICES: "compare with the documents that were sent, and correct with tenantctl invoice credit",
    Check.KEYS: "a client that repeats this key gets no answer; the key expires within 24 hours",
    Check.AUDIT: "run tenantctl audit verify, with --anchor FILE if you have anchors",
}


class Breach(msgspec.Struct, frozen=True, kw_only=True):
    """Something that does not hold, and what to do about it."""

    check: Check
    what: str
    todo: str


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """What was checked: how many things by check, the breaches, and how many more there were.

    `broken` has how many breaches there are in all, for the checks that found some.
    """

    checked: dict[str, int]
    breaches: list[Breach]
    more: int = 0
    broken: dict[str, int] = {}


Found = Iterator[tuple[int, str]]
"""How many things were looked at, and what is wrong with them, "" if nothing."""
Progress = Callable[[str, int, int], None]
"""Is told which check runs, how far it is, and how far it goes."""


def inspect_file(path: Path, on_progress: Progress = lambda check, done, of: None) -> Inspection:
    """Raises ConfigError if there is no ledger of this version, UnusableFile if it is none, LedgerUnavailable."""
    if not path.exists():
        raise ConfigError(f"{path}: no such file; tenantd has not run with this state folder yet, or pass --state-dir")
    try:
        with closing(connect_reader(path, BUSY_TIMEOUT_MS)) as conn, long_read(path):
            conn.execute("BEGIN")
            _is_of_this_version(conn, path)
            return inspect(conn, on_progress)
    except sqlite3.Error as e:
        if getattr(e, "sqlite_errorcode", 0) == sqlite3.SQLITE_NOTADB:
            raise UnusableFile(f"{path} is not a ledger of tenantd; if it was, {WHAT_TO_DO[Check.FILE]}") from e
        raise LedgerUnavailable(f"cannot read the ledger: {explain(e, path)}") from e


def inspect(conn: sqlite3.Connection, on_progress: Progress = lambda check, done, of: None) -> Inspection:
    """`conn` has a transaction open, and may be given other snapshots."""
    checked: dict[str, int] = {}
    broken: dict[str, int] = {}
    breaches: list[Breach] = []
    more = 0
    for check, look in _CHECKS.items():
        checked[check.value] = found = 0
        for count, what in _looked(conn, look, lambda done, of, check=check: on_progress(check.value, done, of)):  # type: ignore[misc]
            checked[check.value] += count
            if what:
                found += 1
                if found <= MOST_BREACHES:
                    breaches.append(Breach(check=check, what=what, todo=WHAT_TO_DO[check]))
        if found:
            broken[check.value] = found
        more += max(0, found - MOST_BREACHES)
        let_go(conn)
    return Inspection(checked=checked, breaches=breaches, more=more, broken=broken)


def _looked(
    conn: sqlite3.Connection,
    look: Callable[[sqlite3.Connection, Callable[[int, int], None]], Found],
    on_progress: Callable[[int, int], None],
) -> Found:
    """What a check finds. That it cannot go on, because tables are missing or damaged, is a finding too."""
    try:
        yield from look(conn, on_progress)
    except sqlite3.Error as e:
        if not is_damage(e) and getattr(e, "sqlite_errorcode", 0) != sqlite3.SQLITE_ERROR:
            raise
        yield 0, f"cannot be checked: {e}"


def _is_of_this_version(conn: sqlite3.Connection, path: Path) -> None:
    """Raises ConfigError."""
    (application,) = conn.execute("PRAGMA application_id").fetchone()
    (version,) = conn.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise UnusableFile(f"{path} is not a ledger of tenantd")
    if version != VERSION:
        raise ConfigError(
            f"{path} has schema {version}, and this version checks {VERSION}: start tenantd once to upgrade it, or "
            "use the tenantctl that belongs to it"
        )


def _file(conn: sqlite3.Connection, on_progress: Callable[[int, int], None]) -> Found:
    (pages,) = conn.execute("PRAGMA page_count").fetchone()
    rows = [str(row[0]) for row in conn.execute(f"PRAGMA integrity_check({MOST_BREACHES})")]
    yield pages, ""
    for row in rows:
        if row != "ok":
            yield 0, " ".join(row.replace("*** in database main ***", "").split())


def _schema(conn: sqlite3.Connection, on_progress: Callable[[int, int], None]) -> Found:
    with closing(sqlite3.connect(":memory:")) as fresh:
        for statement in SCHEMA:
            fresh.execute(statement)
        wanted = {name for (name,) in fresh.execute(_OBJECTS)}
    found = {name for (name,) in conn.execute(_OBJECTS)}
    yield len(wanted), ""
    for name in sorted(wanted - found):
        yield 0, f"{name} is missing"
    for name in sorted(found - wanted):
        yield 0, f"{name} was added"


def _references(conn: sqlite3.Connection, on_progress: Callable[[int, int], None]) -> Found:
    yield conn.execute(_REFERENCES).fetchone()[0], ""
    for table, number, parent, _ in conn.execute("PRAGMA foreign_key_check"):
        yield 0, f"row {number} of {table} refers to something that is not in {parent}"


def _requests(conn: sqlite3.Connection, on_progress: Callable[[int, int], None]) -> Found:
    said: set[str] = set()
    for count, what, rule in broken_rows(conn, on_progress):
        yield count, "" if rule in said and rule != "amounts" else what
        said.add(rule if what else "")


def _sums(conn: sqlite3.Connection, on_progress: Callable[[int, int], None]) -> Found:
    yield from broken_hours(conn, on_progress)
    for what in broken_days(conn):
        yield 0, what


def _invoices(conn: sqlite3.Connection, on_progress: Callable[[int, int], None]) -> Found:
    proof = prove(conn)
    yield proof.checked, ""
    for finding in proof.findings:
        yield 0, finding.problem if finding.number is None else f"{finding.number}: {finding.problem}"


def _keys(conn: sqlite3.Connection, on_progress: Callable[[int, int], None]) -> Found:
    (pruned_micros,) = conn.execute("SELECT coalesce(max(until_micros), 0) FROM row_prunings").fetchone()
    query = "SELECT tenant_id, requests, created_micros FROM idempotency ORDER BY created_micros"
    for tenant_id, requests, created_micros in conn.execute(query):
        yield 1, ""
        for request_id in json.loads(requests):
            row = conn.execute("SELECT tenant_id FROM requests WHERE id = ?", (request_id,)).fetchone()
            if row is None and created_micros >= pruned_micros:
                yield 0, f"an Idempotency-Key of tenant {tenant_id} stands for request {request_id}, which has no row"
            elif row is not None and row[0] != tenant_id:
                yield 0, f"an Idempotency-Key of tenant {tenant_id} stands for request {request_id} of tenant {row[0]}"


def _audit(conn: sqlite3.Connection, on_progress: Callable[[int, int], None]) -> Found:
    verdict = verify(conn, None, on_progress)
    yield verdict.entries, ""
    for finding in (verdict.finding, *verdict.later):
        if finding is not None:
            yield 0, finding.message


_CHECKS: Final[dict[Check, Callable[[sqlite3.Connection, Callable[[int, int], None]], Found]]] = {
    Check.FILE: _file,
    Check.SCHEMA: _schema,
    Check.REFERENCES: _references,
    Check.REQUESTS: _requests,
    Check.HOURS: _sums,
    Check.BUDGETS: broken_budgets,
    Check.QUOTAS: broken_quotas,
    Check.INVOICES: _invoices,
    Check.KEYS: _keys,
    Check.AUDIT: _audit,
}
