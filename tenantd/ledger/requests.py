"""The SQL of the request table. Every function runs inside a transaction started by the caller."""

from __future__ import annotations

from sqlite3 import Connection, IntegrityError
from typing import Any, Final

import msgspec

from tenantd.domain import FinishReason, RequestKind, Usage
from tenantd.errors import Conflict, NotFound
from tenantd.ledger.prices import all_prices, cost_of, latest_prices
from tenantd.ledger.records import Admitted, PriceList, RequestRecord, Settlement

COLUMNS: Final = ", ".join(RequestRecord.__struct_fields__)
INTERRUPTED_ERROR: Final = "the daemon stopped while the request ran"

_INSERT = f"""INSERT INTO requests (state, {", ".join(Admitted.__struct_fields__)})
    VALUES ('running', {", ".join("?" * len(Admitted.__struct_fields__))})"""
_CHECKPOINT = """UPDATE requests SET prompt_tokens = ?, completion_tokens = ?, engine_micros = ?
    WHERE id = ? AND state = 'running'"""
_SETTLE = f"""UPDATE requests SET state = ?, prompt_tokens = ?, completion_tokens = ?, engine_micros = ?,
    first_token_micros = ?, duration_micros = ?, price_id = ?, input_nanos = ?, output_nanos = ?, engine_nanos = ?,
    error = ?
    WHERE id = ? AND state = 'running' RETURNING {COLUMNS}"""
_INTERRUPT = f"""UPDATE requests SET state = 'interrupted', price_id = ?, input_nanos = ?, output_nanos = ?,
    engine_nanos = ?, error = ?, interrupted_micros = max(created_micros, ?) WHERE id = ? RETURNING {COLUMNS}"""
_REOPEN = """UPDATE requests SET state = 'running', price_id = NULL, input_nanos = 0, output_nanos = 0,
    engine_nanos = 0, error = '', interrupted_micros = NULL WHERE id = ? AND state = 'interrupted'"""


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
    conn.execute(_CHECKPOINT, (usage.prompt_tokens, usage.completion_tokens, usage.engine_micros, request_id))


def settle_request(conn: Connection, settlement: Settlement, prices: PriceList | None = None) -> RequestRecord:
    """Close a running row, by default at the current prices. Raises NotFound, Conflict (already settled),
    AmountTooLarge."""
    prices = prices or latest_prices(conn)
    assert prices is not None, "a ledger has a price list from when it is opened"
    usage, cost = settlement.usage, cost_of(settlement.usage, prices)
    rows = conn.execute(
        _SETTLE,
        (
            FinishReason(settlement.state).value,
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.engine_micros,
            settlement.first_token_micros,
            settlement.duration_micros,
            prices.id,
            cost.input_nanos,
            cost.output_nanos,
            cost.engine_nanos,
            settlement.error.encode("utf-8", "replace").decode(),  # a lone surrogate must not keep a row open
            settlement.id,
        ),
    ).fetchall()
    if rows:
        return as_record(rows[0])
    state = state_of(conn, settlement.id)
    if state is None:
        raise NotFound(f"request {settlement.id!r} is not in the ledger")
    raise Conflict(f"request {settlement.id!r} was settled before, as {state!r}")


def interrupt_running(conn: Connection, prices: PriceList, ended_micros: int) -> list[RequestRecord]:
    """Settle every row that a killed daemon left running, from its last checkpoint. Returns these rows.

    `ended_micros` is when that daemon last wrote. Durations stay empty, because they are unknown.
    """
    rows = conn.execute(
        "SELECT id, prompt_tokens, completion_tokens, engine_micros FROM requests WHERE state = 'running'"
    ).fetchall()
    settled = []
    for request_id, prompt_tokens, completion_tokens, engine_micros in rows:
        usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, engine_micros=engine_micros)
        cost = cost_of(usage, prices)
        amounts = (cost.input_nanos, cost.output_nanos, cost.engine_nanos)
        values = (prices.id, *amounts, INTERRUPTED_ERROR, ended_micros, request_id)
        settled += [as_record(row) for row in conn.execute(_INTERRUPT, values).fetchall()]
    return settled


def reopen_interrupted(conn: Connection, request_id: str) -> PriceList:
    """Make an interrupted row running again, to be settled after all. Returns the prices it was settled at."""
    (price_id,) = conn.execute("SELECT price_id FROM requests WHERE id = ?", (request_id,)).fetchone()
    conn.execute(_REOPEN, (request_id,))
    return all_prices(conn)[price_id]


def has_settled(conn: Connection) -> bool:
    """Whether any row has an amount in some currency."""
    return conn.execute("SELECT 1 FROM requests WHERE price_id IS NOT NULL LIMIT 1").fetchone() is not None


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
