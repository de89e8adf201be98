"""Reads a long period in pieces, each with its own snapshot.

Holding a snapshot prevents the write-ahead log from being emptied, so the log would grow for as long as a report
takes. Every row is in exactly one piece, and settled rows never change, so sums over the pieces are
correct; running requests count as they were when their piece was read.
"""

from __future__ import annotations

from collections.abc import Iterator
from sqlite3 import Connection, OperationalError
from typing import Any, Final

from tenantd.ledger.prices import MAX_INTEGER, AmountTooLarge

PIECE_ROWS: Final = 20_000
"""Rows per piece, which take some hundredths of a second to add up."""
Sums = dict[tuple[Any, ...], dict[str, Any]]  # by their key
Piece = tuple[str, dict[str, Any]]  # a condition on requests, and the values of its parameters


def pieces(conn: Connection, since_micros: int, until_micros: int, tenant_id: int | None = None) -> Iterator[Piece]:
    """Requests created from `since_micros` until before `until_micros` and before this call, oldest first."""
    of_tenant = "" if tenant_id is None else "tenant_id = :tenant AND "
    values: dict[str, Any] = {"since": since_micros, "until": until_micros, "tenant": tenant_id, "rows": PIECE_ROWS}
    where = f"{of_tenant}created_micros >= :since AND created_micros < :until"
    (newest,) = conn.execute(f"SELECT max(created_micros) FROM requests WHERE {where}", values).fetchone()
    if newest is None:
        return
    last = newest + 1
    while values["since"] < last:
        row = conn.execute(
            f"SELECT created_micros FROM requests WHERE {where} ORDER BY created_micros LIMIT 1 OFFSET :rows",
            {**values, "until": last},
        ).fetchone()
        end = last if row is None else max(row[0], values["since"] + 1)
        yield where, {**values, "until": end}
        values["since"] = end
        let_go(conn)


def add_up(conn: Connection, query: str, piece: Piece, key: tuple[str, ...], sums: Sums) -> None:
    """Add the rows of a query over one piece to `sums`, by the columns in `key`. Raises AmountTooLarge."""
    from sqlite_utils import Database  # imported only for reports, because it takes a sixth of a second

    where, values = piece
    database = Database(conn, recursive_triggers=False, execute_plugins=False)
    try:
        rows = list(database.query(query.format(where=where), values))
    except OperationalError as e:
        if "integer overflow" not in str(e):
            raise
        raise _too_large() from e
    for found in rows:
        total = sums.setdefault(tuple(found[name] for name in key), {name: found[name] for name in key})
        for name, value in found.items():
            if name not in key:
                total[name] = total.get(name, 0) + (value or 0)
                if total[name] > MAX_INTEGER:
                    raise _too_large()


def name_in(conn: Connection, tenant_id: int, since_micros: int, until_micros: int) -> str:
    """The name of a tenant at its last request from `since_micros` until before `until_micros`."""
    (name,) = conn.execute(
        """SELECT tenant FROM requests WHERE tenant_id = ? AND created_micros >= ? AND created_micros < ?
        ORDER BY created_micros DESC, number DESC LIMIT 1""",
        (tenant_id, since_micros, until_micros),
    ).fetchone()
    return str(name)


def let_go(conn: Connection) -> None:
    """End the current snapshot, if there is one; the next query starts another."""
    if conn.in_transaction:
        conn.execute("COMMIT")
        conn.execute("BEGIN")


def _too_large() -> AmountTooLarge:
    return AmountTooLarge("the sum over this period does not fit 64 bits; choose a shorter period")
