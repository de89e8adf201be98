"""Random requests for the properties of reports, and what rows add up to without any roll-up."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from decimal import Decimal
from typing import Any, NamedTuple

from hypothesis import strategies as st

from tenantd.domain import FinishReason, Usage
from tenantd.ledger.records import RequestRecord
from tenantd.ledger.reports import recent_requests
from tenantd.ledger.requests import insert_request, settle_request
from tests.ledger.books import BILLING, add_prices, admission, memory_ledger, settlement

HOUR = 3_600_000_000
BASE = 1_761_350_400_000_000  # 2025-10-25 00:00 UTC: clocks of Europe go back the next night
SPAN = 4 * 24 * HOUR


class Made(NamedTuple):
    """A request that ends at `ended`, after BASE."""

    tenant: str
    key_id: str | None
    model: str
    adapter: str
    unbilled: bool
    state: FinishReason
    cause: str
    usage: Usage
    ended: int
    duration: int
    first_token: int | None


moments = st.one_of(
    st.integers(0, SPAN),
    st.builds(lambda hours, off: max(0, hours * HOUR + off), st.integers(0, SPAN // HOUR), st.integers(-2, 2)),
    st.builds(lambda halves: halves * HOUR // 2, st.integers(0, 2 * SPAN // HOUR)),
)
tokens = st.integers(0, 10**7)
made = st.builds(
    Made,
    st.sampled_from(["acme", "globex", "initech"]),
    st.sampled_from([None, "key_1", "key_2"]),
    st.sampled_from(["tiny", "large"]),
    st.sampled_from(["", "/a.gguf"]),
    st.booleans(),
    st.sampled_from(list(FinishReason)),
    st.sampled_from(["", "engine_failure", "request_timeout"]),
    st.builds(Usage, prompt_tokens=tokens, completion_tokens=tokens, engine_micros=tokens, cached_tokens=tokens),
    moments,
    st.integers(0, 10**10),
    st.one_of(st.none(), st.integers(0, 10**9)),
)
many = st.lists(made, max_size=25)
periods = st.tuples(moments, moments).map(sorted)


@contextmanager
def ledger_with(rows: Sequence[Made]) -> Iterator[tuple[sqlite3.Connection, list[RequestRecord]]]:
    """A ledger whose prices change once, and its rows."""
    with closing(memory_ledger()) as conn:
        add_prices(conn, BILLING, 0)
        other = BILLING.model_copy(update={"output_price_per_million": Decimal("0.123456789")})
        add_prices(conn, other, BASE + SPAN // 2)
        for number, row in enumerate(rows):
            fields = {name: getattr(row, name) for name in ("tenant", "key_id", "model", "adapter", "unbilled")}
            created_micros = BASE + row.ended - row.duration
            insert_request(conn, admission(f"r{number}", created_micros=created_micros, **fields))
            settle_request(
                conn,
                settlement(
                    f"r{number}",
                    row.usage,
                    state=row.state,
                    cause=row.cause,
                    duration_micros=row.duration,
                    first_token_micros=row.first_token,
                ),
            )
        yield conn, recent_requests(conn, None, 1000)


def ended_in(records: Sequence[RequestRecord], since: int, until: int) -> list[RequestRecord]:
    return [row for row in records if row.ended_micros is not None and since <= row.ended_micros < until]


def total(records: Sequence[RequestRecord], name: str) -> int:
    """The sum of a column of the roll-ups."""
    counted = {
        "requests": lambda row: 1,
        "completed": lambda row: row.state in ("stop", "length"),
        "measured": lambda row: row.duration_micros is not None,
        "started": lambda row: row.first_token_micros is not None,
        **{
            state: lambda row, s=state: row.state == s
            for state in ("cancelled", "disconnected", "failed", "interrupted")
        },
    }
    of_row: Any = counted.get(name, lambda row: getattr(row, name) or 0)
    return sum(int(of_row(row)) for row in records)


def nearest_rank(values: Sequence[int], percent: int) -> int | None:
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)] if values else None
