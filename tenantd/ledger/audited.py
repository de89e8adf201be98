"""The upgrade to schema 7: an audit trail, anomalies, keys with scopes and an end, more about tenants."""

from __future__ import annotations

import secrets
from sqlite3 import Connection
from typing import Final

from tenantd.ledger.schema import ANOMALIES, AUDIT, KEYS, KEYS_BY_TENANT

AUDIT_KEY_BYTES: Final = 32
_COLUMNS: Final = (
    "system_prompt  TEXT NOT NULL DEFAULT ''",
    "system_in_completions INTEGER NOT NULL DEFAULT 0",
    "on_anomaly     TEXT NOT NULL DEFAULT 'log'",
    "throttled_micros INTEGER",
    "audit_key      BLOB",
)
_KEPT: Final = """INSERT INTO keys (id, tenant, hash, prefix, label, created_micros, revoked_micros, tenant_id, scopes)
    SELECT id, tenant, hash, prefix, label, created_micros, revoked_micros, tenant_id, 'run,read' FROM temp.old_keys"""


def add_audit(conn: Connection) -> None:
    """Inside the transaction of the upgrade."""
    for column in _COLUMNS:
        conn.execute(f"ALTER TABLE tenants ADD COLUMN {column}")
    for (tenant_id,) in conn.execute("SELECT id FROM tenants WHERE state <> 'removed'").fetchall():
        conn.execute("UPDATE tenants SET audit_key = ? WHERE id = ?", (secrets.token_bytes(AUDIT_KEY_BYTES), tenant_id))
    conn.execute("CREATE TEMP TABLE old_keys AS SELECT * FROM main.keys")
    conn.execute("DROP TABLE main.keys")
    for statement in (KEYS, KEYS_BY_TENANT, _KEPT, *AUDIT, *ANOMALIES):
        conn.execute(statement)
    conn.execute("DROP TABLE temp.old_keys")
