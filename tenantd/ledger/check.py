"""Checks the ledger's file for damage with SQLite's `PRAGMA quick_check`, which reads every page of every table."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tenantd.ledger.database import RESTORE, connect_reader, explain, is_damage

log = logging.getLogger(__name__)

MOST_SAID: Final = 3
STOP_INTERVAL_S: Final = 0.05


def find_damage(conn: sqlite3.Connection, path: Path) -> str:
    """What is damaged and what to do about it; "" if nothing. Raises sqlite3.Error for other errors."""
    try:
        rows = [str(row[0]) for row in conn.execute(f"PRAGMA quick_check({MOST_SAID})")]
    except sqlite3.Error as e:
        if not is_damage(e):
            raise
        return explain(e, path)
    if rows == ["ok"]:
        return ""
    detail = "; ".join(" ".join(row.replace("*** in database main ***", "").split()) for row in rows)
    return f"{path} is damaged; {RESTORE}: {detail}"


class BackgroundCheck:
    """A check in the background, with its own connection and thread."""

    def __init__(self, path: Path, busy_timeout_ms: int, on_damage: Callable[[str], None]) -> None:
        """Starts at once. `on_damage` is called in the thread."""
        self._path = path
        self._busy_timeout_ms = busy_timeout_ms
        self._on_damage = on_damage
        self._conn: sqlite3.Connection | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger-check", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Cancel the check if it is not done, and wait until it has ended."""
        self._stopping.set()
        while self._thread.is_alive():
            if self._conn is not None:
                self._conn.interrupt()  # has no effect between two statements, so repeat it
            self._thread.join(STOP_INTERVAL_S)

    def _run(self) -> None:
        try:
            conn = connect_reader(self._path, self._busy_timeout_ms)
        except sqlite3.Error as e:
            log.warning("cannot check the ledger for damage: %s", explain(e, self._path))
            return
        try:
            self._conn = conn
            if not self._stopping.is_set() and (damage := find_damage(conn, self._path)):
                self._on_damage(damage)
        except sqlite3.Error as e:
            if not self._stopping.is_set():
                log.warning("cannot check the ledger for damage: %s", explain(e, self._path))
        finally:
            self._conn = None
            conn.close()
