"""What the anomaly watch has found, in the ledger's file, for administrators to read."""

from __future__ import annotations

from sqlite3 import Connection
from typing import Any, Final

import msgspec

from tenantd.domain import OnAnomaly
from tenantd.events import AnomalyFound, Deviation

_COLUMNS: Final = "number, at_micros, tenant_id, tenant, action, detail, cleared_micros"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """An anomaly of a tenant. `cleared_micros` is when an administrator called it harmless, None if nobody has."""

    number: int
    at_micros: int
    tenant_id: int
    tenant: str
    action: OnAnomaly
    requests: int
    score: float
    threshold: float
    deviations: tuple[Deviation, ...]
    cleared_micros: int | None


class _Detail(msgspec.Struct, frozen=True, kw_only=True):
    requests: int
    score: float
    threshold: float
    deviations: tuple[Deviation, ...]


_decode_detail: Final = msgspec.json.Decoder(_Detail).decode


def add_finding(conn: Connection, found: AnomalyFound) -> None:
    """Append an anomaly."""
    detail = _Detail(requests=found.requests, score=found.score, threshold=found.threshold, deviations=found.deviations)
    conn.execute(
        f"INSERT INTO anomalies ({_COLUMNS}) VALUES (NULL, ?, ?, ?, ?, ?, NULL)",
        (
            found.at_micros,
            found.tenant_id,
            found.tenant,
            found.action.value,
            msgspec.json.encode(detail).decode(),
        ),
    )


def clear_findings(conn: Connection, tenant_id: int | None, now_micros: int) -> int:
    """Mark all anomalies of a tenant as seen by an administrator. Returns how many were not yet."""
    return conn.execute(
        "UPDATE anomalies SET cleared_micros = ? WHERE tenant_id = ? AND cleared_micros IS NULL",
        (now_micros, tenant_id),
    ).rowcount


def recent_findings(conn: Connection, tenant_id: int | None, since_micros: int, most: int) -> list[Finding]:
    """The newest `most` anomalies since a time, newest first; of all tenants if `tenant_id` is None."""
    of_one, its = ("", ()) if tenant_id is None else ("tenant_id = ? AND ", (tenant_id,))
    rows = conn.execute(
        f"SELECT {_COLUMNS} FROM anomalies WHERE {of_one}at_micros >= ? ORDER BY number DESC LIMIT ?",
        (*its, since_micros, most),
    )
    return [_finding(*row) for row in rows]


def _finding(number: int, at: int, tenant_id: int, tenant: str, action: str, detail: Any, cleared: Any) -> Finding:
    return Finding(
        number=number,
        at_micros=at,
        tenant_id=tenant_id,
        tenant=tenant,
        action=OnAnomaly(action),
        cleared_micros=cleared,
        **msgspec.structs.asdict(_decode_detail(detail)),
    )
