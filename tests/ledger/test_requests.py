"""The life of a row: admitted, checkpointed, settled once."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from pathlib import Path

import pytest

from tenantd.domain import FinishReason, Usage
from tenantd.errors import Conflict, InvalidRequest, LedgerUnavailable, NotFound
from tenantd.ledger import writer
from tenantd.ledger.prices import AmountTooLarge
from tenantd.ledger.unsettled import RESERVE_NAME
from tests.ledger.books import admission, count_rows, ledger_in, open_ledger, record_of, settlement, until, writer_held


def test_a_request_is_admitted_checkpointed_and_settled(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await ledger.admit(admission("r1"))
            admitted = await record_of(ledger, "r1")
            assert (admitted.state, admitted.price_id, admitted.prompt_tokens) == ("running", None, 0)
            assert (admitted.prompt_length_tokens, admitted.max_tokens) == (12, 64)

            ledger.checkpoint({"r1": Usage(prompt_tokens=3, completion_tokens=4, engine_micros=5)})
            await ledger.write(lambda conn: None)
            running = await record_of(ledger, "r1")
            assert (running.state, running.prompt_tokens, running.completion_tokens) == ("running", 3, 4)

            settled = await ledger.settle(settlement("r1", error="none"))
            assert settled == await record_of(ledger, "r1")
            assert (settled.state, settled.completion_tokens, settled.duration_micros) == ("stop", 30, 90_000)
            # 12 at 0.10 and 30 at 0.40 for a million; 0.04 s at 1.5 for an hour = 16,666.67 nanos
            assert (settled.input_nanos, settled.output_nanos, settled.engine_nanos) == (1_200, 12_000, 16_667)
            assert settled.cost_nanos == 29_867

    asyncio.run(main())


def test_a_second_settlement_is_a_conflict_and_changes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await ledger.admit(admission("r1"))
            first = await ledger.settle(settlement("r1"))
            with pytest.raises(Conflict, match="settled before, as 'stop'"):
                await ledger.settle(settlement("r1", Usage(completion_tokens=999), state=FinishReason.LENGTH))
            assert await record_of(ledger, "r1") == first
            with pytest.raises(NotFound):
                await ledger.settle(settlement("r2"))

    asyncio.run(main())


def test_an_id_is_admitted_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            results = await asyncio.gather(
                *(ledger.admit(admission("r1", max_tokens=n)) for n in range(3)), return_exceptions=True
            )
            assert [type(result) for result in results] == [type(None), Conflict, Conflict]
            assert (await record_of(ledger, "r1")).max_tokens == 0
            with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
                await ledger.admit(admission("r2", max_tokens=-1))
            with pytest.raises(ValueError, match="poem"):
                await ledger.admit(admission("r2", kind="poem"))
            await ledger.admit(admission("r3"))
            with pytest.raises(ValueError, match="done"):
                await ledger.settle(settlement("r3", state="done"))
            assert (await record_of(ledger, "r3")).state == "running"
            assert ledger.healthy

    asyncio.run(main())


def test_a_checkpoint_never_touches_a_settled_row(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await ledger.admit(admission("r1"))
            async with writer_held(ledger):
                settling = asyncio.create_task(ledger.settle(settlement("r1")))
                await asyncio.sleep(0)
                ledger.checkpoint({"r1": Usage(prompt_tokens=1), "unknown": Usage(prompt_tokens=1)})
            settled = await settling
            await ledger.write(lambda conn: None)
            assert await record_of(ledger, "r1") == settled

    asyncio.run(main())


def test_a_checkpoint_that_cannot_be_stored_spoils_no_other(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            for name in ("r1", "r2", "r3"):
                await ledger.admit(admission(name))
            bad = {"r1": Usage(prompt_tokens=2**70), "r2": Usage(prompt_tokens=-1), "r3": Usage(prompt_tokens=7)}
            ledger.checkpoint(bad)
            await ledger.write(lambda conn: None)
            assert [(await record_of(ledger, name)).prompt_tokens for name in bad] == [0, 0, 7]
            assert ledger.healthy

    asyncio.run(main())


def test_an_amount_over_64_bits_is_refused_and_the_row_stays_open(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await ledger.admit(admission("r1"))
            with pytest.raises(AmountTooLarge):
                await ledger.settle(settlement("r1", Usage(completion_tokens=2**60)))
            assert (await ledger.settle(settlement("r1"))).state == "stop"

    asyncio.run(main())


def test_an_error_text_that_is_not_unicode_does_not_keep_a_row_open(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await ledger.admit(admission("r1"))
            failed = settlement("r1", state=FinishReason.FAILED, error="bad \ud800 text")
            assert (await ledger.settle(failed)).error == "bad ? text"

    asyncio.run(main())


def test_a_settlement_outlives_whoever_waits_for_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await ledger.admit(admission("r1"))
            await ledger.admit(admission("r2"))
            async with writer_held(ledger):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(ledger.settle(settlement("r1")), 0.01)
                cancelled = asyncio.create_task(ledger.settle(settlement("r2")))
                await asyncio.sleep(0)
                cancelled.cancel()
            await ledger.write(lambda conn: None)
            assert [(await record_of(ledger, name)).state for name in ("r1", "r2")] == ["stop", "stop"]

    asyncio.run(main())


def test_an_admission_cancelled_before_its_turn_leaves_no_row(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            async with writer_held(ledger):
                admitting = asyncio.create_task(ledger.admit(admission("r1")))
                await asyncio.sleep(0)
                admitting.cancel()
                await asyncio.wait([admitting])
            await ledger.write(lambda conn: None)
            assert await count_rows(ledger) == 0

    asyncio.run(main())


def test_what_a_transaction_raises_undoes_it_alone(tmp_path: Path) -> None:
    async def main() -> None:
        def add_then_refuse(conn: sqlite3.Connection) -> None:
            conn.execute("INSERT INTO probe VALUES (x'00')")
            raise InvalidRequest("no")

        async with ledger_in(tmp_path) as ledger:
            async with writer_held(ledger):
                tasks = [
                    asyncio.create_task(ledger.admit(admission("r1"))),
                    asyncio.create_task(ledger.write(add_then_refuse)),
                    asyncio.create_task(ledger.write(lambda conn: conn.execute("SELECT nonsense"))),
                    asyncio.create_task(ledger.admit(admission("r2"))),
                ]
                await asyncio.sleep(0)
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(result) for result in results] == [
                type(None),
                InvalidRequest,
                sqlite3.OperationalError,
                type(None),
            ]
            assert await count_rows(ledger) == 2
            assert await ledger.read(lambda conn: conn.execute("SELECT count(*) FROM probe").fetchone()) == (0,)
            assert ledger.healthy

    asyncio.run(main())


def test_what_waits_is_committed_once_for_all(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            commits: list[str] = []
            async with writer_held(ledger):
                tasks = [asyncio.create_task(ledger.admit(admission(f"r{n}"))) for n in range(100)]
                await asyncio.sleep(0)
                ledger._writer._conn.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
            await asyncio.gather(*tasks)
            ledger._writer._conn.set_trace_callback(None)
            assert await count_rows(ledger) == 100
            assert len(commits) == 2  # the one that held the writer, and the hundred

    asyncio.run(main())


def test_of_very_many_some_are_committed_at_a_time_in_order_and_checkpoints_after_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MOST_AT_ONCE", 40)

    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            commits: list[str] = []
            async with writer_held(ledger):
                tasks = [asyncio.create_task(ledger.admit(admission(f"r{n}"))) for n in range(100)]
                await asyncio.sleep(0)
                ledger.checkpoint({"r99": Usage(prompt_tokens=7)})
                ledger._writer._conn.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
            await asyncio.gather(*tasks)
            await ledger.write(lambda conn: None)
            ledger._writer._conn.set_trace_callback(None)
            names = await ledger.read(
                lambda conn: [name for (name,) in conn.execute("SELECT id FROM requests ORDER BY number")]
            )
            assert names == [f"r{n}" for n in range(100)]
            assert len(commits) == 1 + 3 + 1
            assert (await record_of(ledger, "r99")).prompt_tokens == 7

    asyncio.run(main())


def test_a_writer_that_is_far_behind_refuses_new_requests_but_no_settlement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            await ledger.admit(admission("r0"))
            monkeypatch.setattr(writer, "MAX_WAITING", 2)
            async with writer_held(ledger):
                waiting = [asyncio.create_task(ledger.admit(admission(f"r{n}"))) for n in (1, 2)]
                await asyncio.sleep(0)
                with pytest.raises(LedgerUnavailable, match="2 writes are waiting"):
                    await ledger.admit(admission("r3"))
                settling = asyncio.create_task(ledger.settle(settlement("r0")))
                await asyncio.sleep(0)
            await asyncio.gather(*waiting)
            assert (await settling).state == "stop"

    asyncio.run(main())


def test_reading_cannot_write(tmp_path: Path) -> None:
    async def main() -> None:
        async with ledger_in(tmp_path) as ledger:
            with pytest.raises(LedgerUnavailable):
                await ledger.read(lambda conn: conn.execute("DELETE FROM prices"))
            with pytest.raises(sqlite3.OperationalError, match="no such table"):
                await ledger.read(lambda conn: conn.execute("SELECT * FROM nowhere"))

    asyncio.run(main())


def test_closing_writes_what_waits_and_leaves_one_file_for_its_owner_only(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "ledger.db"
        path.touch(0o644)
        ledger = open_ledger(path)
        await ledger.admit(admission("r1"))
        assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}
        async with writer_held(ledger):
            settling = asyncio.create_task(ledger.settle(settlement("r1")))
            await asyncio.sleep(0)
            closing = asyncio.create_task(ledger.close())
            await until(lambda: ledger._writer._close_by_s is not None)
        await closing
        assert (await settling).state == "stop"
        await ledger.close()
        assert [file.name for file in tmp_path.iterdir() if file.name != RESERVE_NAME] == ["ledger.db"]
        for refused in (ledger.admit(admission("r2")), ledger.settle(settlement("r1"))):
            with pytest.raises(LedgerUnavailable, match="closed"):
                await refused
        ledger.checkpoint({"r1": Usage()})

    asyncio.run(main())
