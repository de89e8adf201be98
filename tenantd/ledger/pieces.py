"""For reads of many rows, piece by piece, each with its own snapshot.

Holding a snapshot prevents the write-ahead log from being emptied, so the log would grow for as long as the read takes.
"""

from __future__ import annotations

from sqlite3 import Connection


def let_go(conn: Connection) -> None:
    """End the current snapshot, if there is one; the next query starts another."""
    if conn.in_transaction:
        conn.execute("COMMIT")
        conn.execute("BEGIN")
