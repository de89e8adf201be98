"""The SQL of the request table. Every function runs inside a transaction started by the caller."""

from __future__ import annotations

from sqlite3 import Connection, IntegrityError
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from tenantd.domain import RUNNING, FinishReason, RequestKind, Usage
from tenantd.errors import Conflict, NotFound
from tenantd.ledger.charging import Charge, billed_later, charge, give_back
from tenantd.ledger.records import Admitted, Customer, RequestRecord, Settlement
from tenantd.ledger.rollups import add_row
from tenantd.ledger.spending import Use
from tenantd.periods import UTC_ZONE

COLUMNS: Final = ", ".join(RequestRecord.__struct_fields__)
INTERRUPTED_ERROR: Final = "the daemon stopped while the request ran"
INTERRUPTED_CAUSE: Final = "interrupted"

_INSERT = f"""INSERT INTO requests (state, {", ".join(Admitted.__struct_fields__)})
    VALUES ('running', {", ".join("?" * len(Admitted.__struct_fields__))})"""
_USED = ", ".join(f"{name} = ?" for name in Usage.__struct_fields__)
_CHECKPOINT = f"UPDATE requests SET {_USED} WHERE id = ? AND state = 'running'"
_FACTS = "SELECT state, tenant_id, key_id, unbilled, created_micros FROM requests WHERE id = ?"
_CHARGED = """price_id = ?, input_nanos = ?, cached_nanos = ?, output_nanos = ?, engine_nanos = ?, free_nanos = ?,
    free_prompt_tokens = ?, free_completion_tokens = ?, waived_nanos = ?"""
_SETTLE = f"""UPDATE requests SET state = ?, {_USED},
    first_token_micros = ?, duration_micros = ?, queue_micros = ?, prefill_micros = ?,
    kv_token_micros = ?, swaps = ?, error = ?, cause = ?, ended_micros = ?, billed_micros = ?,
    {_CHARGED}
    WHERE id = ? RETURNING {COLUMNS}"""
# The plus keeps SQLite from reading the whole table in order instead of sorting the few rows of an index.
_RUNNING = f"""SELECT id, tenant_id, key_id, unbilled, created_micros, {", ".join(Usage.__struct_fields__)}
    FROM requests WHERE state = 'running' ORDER BY +number"""
_INTERRUPT = f"""UPDATE requests SET state = 'interrupted', interrupted_micros = ?, ended_micros = ?,
    billed_micros = ?, error = ?, cause = ?, {_CHARGED} WHERE id = ? RETURNING {COLUMNS}"""
_REOPEN = """UPDATE requests SET state = 'running', price_id = NULL, input_nanos = 0, cached_nanos = 0,
    output_nanos = 0, engine_nanos = 0, free_nanos = 0, free_prompt_tokens = 0, free_completion_tokens = 0,
    waived_nanos = 0, error = '', cause = '', ended_micros = NULL, billed_micros = NULL,
    interrupted_micros = NULL WHERE id = ? AND state = 'interrupted'"""


def insert_request(conn: Connection, admission: Admitted) -> None:
    """Add a running row. Raises Conflict if the id is taken, ValueError for an unknown kind."""
    RequestKind(admission.kind)
    try:
        conn.execute(_INSERT, msgspec.structs.astuple(admission))
    except IntegrityError:
        if state_of(conn, admission.id) is None:
            raise  # another constraint: the caller's mistake
        raise Conflict(f"request {admission.id!r} is in the ledger already") from None


def checkpoint_request(conn: Connection, request_id: str, usage: Usage) -> None:
    """Record what a running row has used so far. Ignores rows that are settled or missing."""
    conn.execute(_CHECKPOINT, (*msgspec.structs.astuple(usage), request_id))


def settle_request(
    conn: Connection, settlement: Settlement, timezone: ZoneInfo = UTC_ZONE, uses: list[Use] | None = None
) -> RequestRecord:
    """Close a running row, at the prices in force when it ended, and add it to the sums of its hour.

    `timezone` is that of billing periods. What it uses of budgets is appended to `uses`. Raises NotFound, Conflict
    (already settled), AmountTooLarge.
    """
    facts = conn.execute(_FACTS, (settlement.id,)).fetchone()
    if facts is None:
        raise NotFound(f"request {settlement.id!r} is not in the ledger")
    state, tenant_id, key_id, unbilled, created_micros = facts
    if state != RUNNING:
        raise Conflict(f"request {settlement.id!r} was settled before, as {state!r}")
    usage = settlement.usage
    ended_micros = created_micros + settlement.duration_micros
    charged = charge(conn, Customer(tenant_id, key_id, bool(unbilled)), usage, ended_micros, timezone, uses)
    values = (
        FinishReason(settlement.state).value,
        *msgspec.structs.astuple(usage),
        settlement.first_token_micros,
        settlement.duration_micros,
        settlement.queue_micros,
        settlement.prefill_micros,
        settlement.kv_token_micros,
        settlement.swaps,
        settlement.error.encode("utf-8", "replace").decode(),  # a lone surrogate must not keep a row open
        settlement.cause,
        ended_micros,
        billed_later(conn, tenant_id, ended_micros),
        *_columns(charged),
        settlement.id,
    )
    row = as_record(conn.execute(_SETTLE, values).fetchall()[0])
    add_row(conn, row)
    return row


def interrupt_running(conn: Connection, ended_micros: int, timezone: ZoneInfo = UTC_ZONE) -> list[RequestRecord]:
    """Settle every row that a killed daemon left running, from its last checkpoint. Returns these rows.

    `ended_micros` is when that daemon last wrote. Durations stay empty, because they are unknown.
    """
    rows = conn.execute(_RUNNING).fetchall()
    settled = []
    for request_id, tenant_id, key_id, unbilled, created_micros, *used in rows:
        usage = Usage(**dict(zip(Usage.__struct_fields__, used, strict=True)))
        end_micros = max(created_micros, ended_micros)
        charged = charge(conn, Customer(tenant_id, key_id, bool(unbilled)), usage, end_micros, timezone)
        billed_micros = billed_later(conn, tenant_id, end_micros)
        values = (end_micros, end_micros, billed_micros, INTERRUPTED_ERROR, INTERRUPTED_CAUSE)
        row = as_record(conn.execute(_INTERRUPT, (*values, *_columns(charged), request_id)).fetchall()[0])
        add_row(conn, row)
        settled.append(row)
    return settled


def _columns(charged: Charge) -> tuple[int, ...]:
    """The values for `_CHARGED`."""
    cost = charged.cost
    amounts = (cost.input_nanos, cost.cached_nanos, cost.output_nanos, cost.engine_nanos)
    free = charged.free
    given = (free.nanos, free.prompt_tokens, free.completion_tokens)
    return (charged.price_id, *amounts, *given, charged.waived_nanos)


def reopen_interrupted(conn: Connection, request_id: str, timezone: ZoneInfo = UTC_ZONE) -> None:
    """Make an interrupted row running again, to be settled after all, at the prices of its real end."""
    row = get_request(conn, request_id)
    give_back(conn, row, timezone)
    add_row(conn, row, -1)
    conn.execute(_REOPEN, (request_id,))


def get_request(conn: Connection, request_id: str) -> RequestRecord:
    """Raises NotFound."""
    row = conn.execute(f"SELECT {COLUMNS} FROM requests WHERE id = ?", (request_id,)).fetchone()
    if row is None:
        raise NotFound(f"request {request_id!r} is not in the ledger")
    return as_record(row)


def state_of(conn: Connection, request_id: str) -> str | None:
    """None if there is no such row."""
    row = conn.execute("SELECT state FROM requests WHERE id = ?", (request_id,)).fetchone()
    return None if row is None else str(row[0])


def as_record(row: tuple[Any, ...]) -> RequestRecord:
    """A row of `COLUMNS`."""
    fields = dict(zip(RequestRecord.__struct_fields__, row, strict=True))
    return RequestRecord(**{**fields, "unbilled": bool(fields["unbilled"])})
