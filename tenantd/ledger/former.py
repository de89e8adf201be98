"""What the upgrade to schema 6 relies on: the columns of the tables that it builds anew or redefines.

SQLite stores rows without the names of their columns, so a definition with other columns would read every row wrongly.
"""

from __future__ import annotations

import shlex
from sqlite3 import Connection
from typing import Final

from tenantd.errors import ConfigError

LAST_SCHEMA: Final = 5
_REQUESTS: Final = """number INTEGER, id TEXT, tenant TEXT, kind TEXT, model TEXT, state TEXT, created_micros INTEGER,
    prompt_length_tokens INTEGER, max_tokens INTEGER, prompt_tokens INTEGER, completion_tokens INTEGER,
    engine_micros INTEGER, first_token_micros INTEGER, duration_micros INTEGER, price_id INTEGER, input_nanos INTEGER,
    output_nanos INTEGER, engine_nanos INTEGER, error TEXT, unbilled INTEGER, interrupted_micros INTEGER"""
_TENANTS: Final = """name TEXT, weight REAL, priority TEXT, state TEXT, uids TEXT, limits TEXT, created_micros INTEGER,
    adapter TEXT, unbilled INTEGER, allow_special INTEGER"""
_KEYS: Final = """id TEXT, tenant TEXT, hash TEXT, prefix TEXT, label TEXT, created_micros INTEGER,
    revoked_micros INTEGER"""
_COLUMNS: Final = {
    table: [" ".join(column.split()) for column in columns.split(",")]
    for table, columns in {"requests": _REQUESTS, "tenants": _TENANTS, "keys": _KEYS}.items()
}
_SINCE: Final = {
    "requests": {"unbilled INTEGER": 3, "interrupted_micros INTEGER": 5},
    "tenants": {"adapter TEXT": 2, "unbilled INTEGER": 3, "allow_special INTEGER": 4},
    "keys": {},
}
"""The schema that added a column; the others were always there."""


def check_columns(conn: Connection, path: str, version: int) -> None:
    """Raises ConfigError if the tables of schema `version`, at most LAST_SCHEMA, have other columns."""
    for table, columns in _COLUMNS.items():
        wanted = [column for column in columns if _SINCE[table].get(column, 1) <= version]
        query = "SELECT name || ' ' || type FROM pragma_table_xinfo(?) ORDER BY cid"  # generated columns, too
        found = [str(row[0]) for row in conn.execute(query, (table,))]
        if found == wanted:
            continue
        unexpected = [column for column in found if column not in wanted]
        missing = [column for column in wanted if column not in found]
        wrong = [
            f"{what} {', '.join(which)}" for what, which in (("unexpected", unexpected), ("missing", missing)) if which
        ]
        why = "; ".join(wrong) or "the columns are in another order"
        raise ConfigError(
            f"{path} cannot be upgraded, and is unchanged: somebody has altered its table {table} ({why}). "
            + _what_to_do(path, table, unexpected, missing)
        )


def _what_to_do(path: str, table: str, unexpected: list[str], missing: list[str]) -> str:
    if missing or not unexpected:
        return "Restore a backup whose table is as tenantd made it"
    names = [column.rpartition(" ")[0].replace('"', '""') for column in unexpected]
    drop = "; ".join(f'ALTER TABLE {table} DROP COLUMN "{name}"' for name in names)
    command = f"sqlite3 {shlex.quote(path)} {shlex.quote(drop)}"
    return f"Make a copy if you need the content; then run {command}, and start tenantd again"
