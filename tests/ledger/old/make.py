"""Write the fixture of the present schema: `python -m tests.ledger.old.make` in the root of the project.

Run it before a change of the schema, with the program as it was before.
"""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from tenantd.config import BillingConfig
from tenantd.domain import FinishReason, OnLimit, OwnLimits, Priority, RequestKind, Tenant, TenantState, Usage
from tenantd.ledger.ledger import Admitted, Ledger, Settlement
from tenantd.ledger.unsettled import Unsettled
from tenantd.tenancy.keys import create_key, revoke_key
from tenantd.tenancy.tenants import add_tenant, remove_tenant, set_state
from tests.ledger.old.kit import DAY_MICROS, FOLDER, NOW_MICROS, TENANTS, dump, said

BEGAN_MICROS = NOW_MICROS - 60 * DAY_MICROS
PRICES = (
    BillingConfig(engine_hour_price=Decimal("1.5")),
    BillingConfig(output_price_per_million=Decimal("0.80"), engine_hour_price=Decimal("1.5")),
    BillingConfig(input_price_per_million=Decimal("0.000001"), output_price_per_million=Decimal("123.456789")),
)
ENDS = (*FinishReason,)[:5]  # those that a request ends with by itself
chance = random.Random(5)


def add_tenants(conn: sqlite3.Connection) -> None:
    """One of each kind, and keys live, revoked and rotated."""
    limits = OwnLimits(max_queued=3, tokens_per_minute=100_000, requests_per_minute="none", on_limit=OnLimit.QUEUE)
    tenants = (
        Tenant(name="acme", weight=2.5, priority=Priority.HIGH, uids=(1001, 1002), own_limits=limits),
        Tenant(name="globex", adapter="/models/globex.gguf", allow_special=True, uids=(1002,)),
        Tenant(name="initech", priority=Priority.LOW, own_limits=OwnLimits(max_concurrent=0)),
        Tenant(name="umbrella", unbilled=True),
        Tenant(name="hooli", weight=1e-6),
    )
    for number, tenant in enumerate(tenants):
        micros = BEGAN_MICROS + number
        add_tenant(conn, msgspec.structs.replace(tenant, created_micros=micros))
        first, _ = create_key(conn, tenant.name, "first", micros)
        create_key(conn, tenant.name, "Schlüssel für „später“", micros + 1)
        if number % 2 == 0:
            create_key(conn, tenant.name, "rotated", micros + 2)
            revoke_key(conn, first.id, micros + 3)
    set_state(conn, "initech", TenantState.SUSPENDED)


def admission(number: int, micros: int) -> Admitted:
    tenant = ("acme", "globex", "umbrella", "hooli", "initech")[number % 5]
    key_id = None if number % 3 else f"key_{number:012}"
    return Admitted(
        id=f"req_{micros:014x}{number:018x}",
        tenant=tenant,
        tenant_id=1 + TENANTS.index(tenant),
        key_id=key_id,
        uid=None if key_id else 1000 + number,
        kind=(*RequestKind,)[number % 2],
        model=("tiny", "other.gguf")[number % 7 == 0],
        created_micros=micros,
        prompt_length_tokens=chance.randrange(1, 4000),
        max_tokens=chance.randrange(1, 2000),
        unbilled=tenant == "umbrella",
    )


def settlement(admitted: Admitted, number: int) -> Settlement:
    state = ENDS[number % 3 % 2 if number % 4 else number // 4 % len(ENDS)]
    has_token = state is not FinishReason.FAILED
    usage = Usage(
        prompt_tokens=0 if number % 11 == 0 else admitted.prompt_length_tokens,
        completion_tokens=chance.randrange(1, admitted.max_tokens + 1) if has_token else 0,
        engine_micros=chance.randrange(1, 60_000_000),
    )
    return Settlement(
        id=admitted.id,
        state=state,
        usage=usage,
        first_token_micros=chance.randrange(1, 1_000_000) if has_token else None,
        duration_micros=chance.randrange(1_000_000, 50_000_000),
        error="" if has_token else "the engine failed: „illegal instruction“ 🜏",
    )


async def fill(path: Path, now_micros: int) -> None:
    """Three runs: the second leaves requests running that the third finds interrupted, and so does the third."""
    for run, billing in enumerate(PRICES):
        since = BEGAN_MICROS + run * 20 * DAY_MICROS
        ledger = Ledger.open(path, billing, lambda since=since: since)
        if run == 0:
            await ledger.write(add_tenants)
        for number in range(run * 40, run * 40 + 40):
            is_last = number % 40 >= 34
            micros = since + (
                20 * DAY_MICROS - (40 - number % 40) * 9_000_000 if is_last else chance.randrange(20 * DAY_MICROS)
            )
            admitted = admission(number, micros)
            await ledger.admit(admitted)
            if run and number % 40 >= 37:  # left running, one of them without a checkpoint
                if number % 40 > 37:
                    usage = Usage(prompt_tokens=17, completion_tokens=number, engine_micros=123_456)
                    ledger.checkpoint({admitted.id: usage})
            else:
                await ledger.settle(settlement(admitted, number))
        await ledger.close()
    assert now_micros == BEGAN_MICROS + 60 * DAY_MICROS, "the last run ends now"


def unsettled(conn: sqlite3.Connection) -> list[Unsettled]:
    """Of a request that has a row, of one that has none, and of one whose tenant is gone."""
    (running,) = conn.execute("SELECT id FROM requests WHERE state = 'running' ORDER BY number LIMIT 1").fetchone()
    lost = [admission(number, NOW_MICROS - number * 1_000_000) for number in (201, 203)]
    usage = Usage(prompt_tokens=5, completion_tokens=6, engine_micros=7)
    ended = Settlement(id=running, state=FinishReason.STOP, usage=usage, duration_micros=8_000_000)
    return [
        Unsettled(settlement=ended),
        *(Unsettled(settlement=settlement(admitted, 1), admission=admitted) for admitted in lost),
    ]


def main() -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        asyncio.run(fill(path, NOW_MICROS))
        with closing(sqlite3.connect(path, isolation_level=None)) as conn:
            remove_tenant(conn, "hooli", NOW_MICROS)
            (schema,) = conn.execute("PRAGMA user_version").fetchone()
            lines = [msgspec.json.encode(each).decode() for each in unsettled(conn)]
            (FOLDER / f"schema_{schema}.sql").write_text(dump(conn), "utf-8")
            (FOLDER / f"unsettled_{schema}.jsonl").write_text("\n".join([*lines, ""]), "utf-8")
            text = json.dumps(said(conn), indent=1, ensure_ascii=False)
            (FOLDER / f"said_{schema}.json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
