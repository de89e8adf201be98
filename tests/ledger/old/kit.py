"""Making a ledger again from its dump, and all that a program says of one."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from tenantd.ledger.invoices import invoice, parse_month
from tenantd.ledger.prices import all_prices
from tenantd.ledger.reports import last_minute, recent_requests, recent_usage, usage_report
from tenantd.ledger.unsettled import FILE_NAME
from tenantd.tenancy.keys import list_keys, live_keys
from tenantd.tenancy.tenants import list_tenants, tenant_meant

FOLDER = Path(__file__).parent
NOW_MICROS = 1_794_000_000_000_000  # 6 November 2026, 20:40 UTC: the moment the fixture ends
MONTHS = ("2026-09", "2026-10", "2026-11")
DAY_MICROS = 24 * 3_600_000_000
TIMEZONE = ZoneInfo("Europe/Berlin")
TENANTS = ("acme", "globex", "initech", "umbrella", "hooli")
PERIODS = ((0, NOW_MICROS + 1), (NOW_MICROS - 30 * DAY_MICROS, NOW_MICROS), (NOW_MICROS - DAY_MICROS, NOW_MICROS))


def ledger_of(schema: int, folder: Path) -> Path:
    """The ledger of that schema, with what was set aside beside it."""
    path = folder / "ledger.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.executescript((FOLDER / f"schema_{schema}.sql").read_text("utf-8"))
    shutil.copyfile(FOLDER / f"unsettled_{schema}.jsonl", folder / FILE_NAME)
    return path


def dump(conn: sqlite3.Connection) -> str:
    """SQL that makes the same ledger again."""
    pragmas = [
        f"PRAGMA {name} = {conn.execute(f'PRAGMA {name}').fetchone()[0]};"
        for name in ("application_id", "user_version")
    ]
    return "\n".join([*pragmas, *conn.iterdump(), ""])


def said(conn: sqlite3.Connection) -> dict[str, Any]:
    """Every report, invoice and list, as JSON has them."""
    ids = {name: tenant_meant(conn, name) for name in TENANTS}
    names = {number: name for name, number in ids.items()}
    months = [parse_month(month, TIMEZONE, NOW_MICROS) for month in MONTHS]
    return json.loads(
        msgspec.json.encode(
            {
                "tenants": list_tenants(conn),
                "keys": {name: list_keys(conn, ids[name]) for name in TENANTS},
                "live_keys": {digest: list(key[:2]) for digest, key in sorted(live_keys(conn).items())},
                "prices": list(all_prices(conn).values()),
                "requests": recent_requests(conn, None, 1_000_000),
                "requests_of": {name: [row.id for row in recent_requests(conn, ids[name], 7)] for name in TENANTS},
                "usage": [usage_report(conn, *period) for period in PERIODS],
                "usage_of": {name: usage_report(conn, *PERIODS[0], ids[name]) for name in TENANTS},
                "invoices": [invoice(conn, month) for month in months],
                "invoices_of": {name: invoice(conn, months[1], ids[name]) for name in TENANTS},
                "recent_usage": [
                    {
                        **msgspec.structs.asdict(each),
                        "prompt_tokens": each.prompt_tokens + each.cached_tokens,  # before caches, all were one
                        "tenant": names[each.tenant_id],
                    }
                    for each in sorted(
                        recent_usage(conn, NOW_MICROS, 600), key=lambda each: (names[each.tenant_id], each.age_s)
                    )
                ],
                "last_minute": [
                    {**msgspec.structs.asdict(each), "tenant": names[each.tenant_id]}
                    for each in last_minute(conn, NOW_MICROS)
                ],
            }
        )
    )


def without_new(before: Any, now: Any) -> Any:
    """`now` with only the fields that `before` has, however deep, so that a later program may say more."""
    if isinstance(before, dict) and isinstance(now, dict):
        return {key: without_new(before[key], value) for key, value in now.items() if key in before}
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [without_new(*pair) for pair in zip(before, now, strict=True)]
    return now
