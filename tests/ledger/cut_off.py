"""Run by a test in a process of its own: a ledger under a limit on the size of files."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from pathlib import Path

from tenantd.domain import Usage
from tenantd.errors import LedgerUnavailable
from tests.ledger.books import admission, ledger_in, record_of, settlement, until


def limit_files(size_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY))


async def main(folder: Path) -> None:
    async with ledger_in(folder) as ledger:
        for n in range(3):
            await ledger.admit(admission(f"r{n}"))
        limit_files((folder / "ledger.db-wal").stat().st_size + 2_000)  # half a page
        settling = [asyncio.create_task(ledger.settle(settlement(f"r{n}"))) for n in range(2)]
        ledger.checkpoint({"r2": Usage(prompt_tokens=9)})
        await until(lambda: not ledger.healthy)
        trouble, refused = ledger.trouble, []
        for name in ("r3", "r4"):
            try:
                await ledger.admit(admission(name))
            except LedgerUnavailable as e:
                refused.append(type(e).__name__)
        assert not any(task.done() for task in settling)
        limit_files(resource.RLIM_INFINITY)
        await asyncio.gather(*settling)
        await until(lambda: ledger.healthy)
        await ledger.admit(admission("after"))
        states = await ledger.read(lambda conn: dict(conn.execute("SELECT id, state FROM requests").fetchall()))
        integrity = await ledger.read(lambda conn: conn.execute("PRAGMA integrity_check").fetchone()[0])
        checkpointed = (await record_of(ledger, "r2")).prompt_tokens
    facts = {"trouble": trouble, "refused": refused, "states": states, "checkpointed": checkpointed}
    print(json.dumps({**facts, "integrity": integrity}))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
