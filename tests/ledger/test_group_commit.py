"""Many at once, in any order: nothing lost, nothing twice, each settled once."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tenantd.domain import Usage
from tenantd.errors import Conflict, LedgerUnavailable, NotFound
from tenantd.ledger.ledger import Ledger, RequestRecord
from tenantd.ledger.reports import recent_requests
from tests.ledger.books import admission, ledger_in, settlement
from tests.support.examples import examples


async def one_request(ledger: Ledger, name: str, settlers: int, rng: random.Random) -> Counter[str]:
    """Admit, and settle as often as asked, all at once. Counts how that went."""
    try:
        await ledger.admit(admission(name))
    except LedgerUnavailable:
        return Counter(refused=1)
    ledger.checkpoint({name: Usage(completion_tokens=rng.randrange(5))})
    usages = [Usage(completion_tokens=100 + n) for n in range(settlers)]
    results = await asyncio.gather(*(ledger.settle(settlement(name, u)) for u in usages), return_exceptions=True)
    assert all(isinstance(result, (RequestRecord, Conflict)) for result in results), results
    return Counter(admitted=1, settled=sum(isinstance(result, RequestRecord) for result in results))


@given(
    settlers=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    break_at=st.integers(0, 40),
    seed=st.integers(0, 2**32),
)
@examples(15)
def test_each_admitted_request_has_one_row_settled_at_most_once(settlers: list[int], break_at: int, seed: int) -> None:
    async def main(folder: Path) -> None:
        rng = random.Random(seed)
        async with ledger_in(folder) as ledger:
            tasks = []
            for n, count in enumerate(settlers):
                tasks.append(asyncio.create_task(one_request(ledger, f"r{n}", count, rng)))
                if n == break_at:  # for a moment every write fails
                    ledger._writer._conn.execute("PRAGMA query_only = ON")
                    asyncio.get_running_loop().call_later(0.02, ledger._writer._conn.execute, "PRAGMA query_only = OFF")
                if rng.random() < 0.3:
                    await asyncio.sleep(0)
            done = sum(await asyncio.gather(*tasks), Counter())
            rows = await ledger.read(lambda conn: recent_requests(conn, None, 1000))
        assert len({row.id for row in rows}) == len(rows) == done["admitted"]
        assert done["admitted"] + done["refused"] == len(settlers)
        assert done["settled"] == sum(row.state == "stop" for row in rows)
        for row in rows:
            wanted = settlers[int(row.id[1:])]
            assert (row.state == "stop") == (wanted > 0)
            assert row.completion_tokens < 5 if wanted == 0 else 100 <= row.completion_tokens < 100 + wanted

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder)))


def test_many_settlements_of_one_row_have_one_winner(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await ledger.admit(admission("r1"))
            results = await asyncio.gather(
                *(ledger.settle(settlement("r1", Usage(completion_tokens=n))) for n in range(50)),
                ledger.settle(settlement("r2")),
                return_exceptions=True,
            )
            kinds = Counter(type(result) for result in results)
            assert kinds == {RequestRecord: 1, Conflict: 49, NotFound: 1}

    asyncio.run(main())


def test_the_table_itself_refuses_what_must_not_be(tmp_path: Path) -> None:
    bad = [
        "UPDATE requests SET state = 'stop' WHERE id = 'r1'",  # settled without a price
        "UPDATE requests SET price_id = 1 WHERE id = 'r1'",  # priced while it runs
        "UPDATE requests SET tenant_id = NULL WHERE id = 'r1'",
        "UPDATE requests SET state = 'stop', price_id = 77 WHERE id = 'r1'",  # no such price list
        "UPDATE requests SET prompt_tokens = -1 WHERE id = 'r1'",
        "UPDATE requests SET prompt_tokens = 1.5 WHERE id = 'r1'",
        "UPDATE requests SET input_nanos = 5 WHERE id = 'r1'",
        """INSERT INTO prices (id, currency, input_nanos_per_million, output_nanos_per_million, engine_hour_nanos,
        effective_micros) VALUES (9, 'USD', -1, 0, 0, 0)""",
    ]

    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await ledger.admit(admission("r1"))
            for statement in bad:
                try:
                    await ledger.write(lambda conn, statement=statement: conn.execute(statement))  # type: ignore[misc]
                except sqlite3.IntegrityError:
                    continue
                raise AssertionError(f"accepted: {statement}")

    asyncio.run(main())
