"""The check of isolation as the daemon sees it: requests wait, it ends in every case, and what it found is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from tenantd.api.health import readiness
from tenantd.domain import Actor, IsolationCheck, Verdict
from tenantd.errors import CheckRunning, Draining, EngineUnavailable
from tenantd.events import Events, IsolationChecked
from tenantd.serving.isolation import Isolation, IsolationReport, merged
from tenantd.wire.messages import CheckResult
from tests.serving.daemon_kit import config, lives, run, until
from tests.serving.scene import Scene, expected, read, tokens

HELD, FAILED, INCONCLUSIVE = tuple(Verdict)
OUTSIDE = (CheckResult(name=IsolationCheck.IDENTITY, result=HELD, n=30),)
ROOT = Actor(uid=0, pid=7)


async def check(scene: Scene, outside: Sequence[CheckResult] = OUTSIDE) -> IsolationReport:
    return await scene.service.check_isolation(ROOT, quick=True, outside=outside)


def verdicts(report: IsolationReport) -> dict[str, Verdict]:
    return {one.name.value: one.result for one in report.checks}


def test_what_the_engine_and_the_client_found_is_one_report_that_is_announced(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path) as s:
            assert s.service.status()["isolation"] is None
            report = await check(s)
            assert [one.name for one in report.checks] == list(IsolationCheck)
            assert {one.result for one in report.checks} == {HELD} == {report.result}
            (event,) = [event for event in s.heard if isinstance(event, IsolationChecked)]
            assert (event.result, event.failed, event.inconclusive) == (HELD, (), ())
            assert (event.actor_uid, event.actor_pid, event.quick) == (0, 7, True)
            status = s.service.status()
            assert status["isolation"] == {"checked_micros": report.checked_micros, "result": HELD, "quick": True}
            assert status["state"] == "ready" and status["engine_unbilled_micros"] > 0

    run(scene())


def test_requests_wait_and_nobody_is_refused_until_the_check_ends(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, {"on_check": "wait"}) as s:
            checking = asyncio.create_task(check(s))
            await until(lambda: s.service.checking is not None and s.service.checking.has_begun)
            stream = await s.submit([3, 4], 5)
            assert readiness(s.service) == {
                "status": "checking",
                "progress": 0.25,
                "reason": "isolation is being checked: canaries",
            }
            assert s.service.status()["state"] == "checking"
            reading = asyncio.create_task(read(stream))
            with pytest.raises(CheckRunning, match=r"canaries.*wait until it has ended"):
                await check(s)
            assert not stream.generated and s.service.queue()[0]["id"] == stream.id
            checking.cancel()
            await asyncio.gather(checking, return_exceptions=True)
            assert tokens(await reading) == expected([3, 4], 5)
            assert readiness(s.service)["status"] == "ready"
            assert s.service.isolation.last is None
            assert not [event for event in s.heard if isinstance(event, IsolationChecked)]

    run(scene())


def test_one_client_at_a_time_has_the_turn_and_one_that_is_silent_loses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        async with Scene(tmp_path) as s:
            isolation = s.service.isolation
            turn = isolation.take_turn()
            assert isolation.is_on and s.service.checking is None, "requests are served"
            for taking in (isolation.take_turn, lambda: isolation.take_turn("another")):
                with pytest.raises(CheckRunning, match="over the socket"):
                    taking()
            with pytest.raises(CheckRunning, match="over the socket"):
                await check(s)
            assert isolation.take_turn(turn) == turn
            report = await s.service.check_isolation(ROOT, quick=True, outside=OUTSIDE, turn=turn)
            assert report.result is HELD
            isolation.end_turn("another")
            assert isolation.is_on
            isolation.end_turn(turn)
            assert not isolation.is_on
            monkeypatch.setattr("tenantd.serving.isolation.TURN_S", 0)
            assert isolation.take_turn() != turn and not isolation.is_on
            assert (await check(s)).result is HELD

    run(scene())


def test_a_request_that_waits_for_the_check_can_be_cancelled_at_once(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, {"on_check": "wait"}) as s:
            checking = asyncio.create_task(check(s))
            await until(lambda: s.service.checking is not None and s.service.checking.has_begun)
            stream = await s.submit([3, 4], 5)
            assert s.service.changes.cancel(stream.id)
            assert tokens(await read(stream)) == []
            checking.cancel()
            await asyncio.gather(checking, return_exceptions=True)

    run(scene())


def test_an_engine_that_dies_in_the_check_is_restarted_and_the_report_says_so(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, {"on_check": "sigkill"}, {}) as s:
            checking = asyncio.create_task(check(s))
            stream = await s.submit([3, 4], 5)
            report = await checking
            assert verdicts(report) == {
                "logits": HELD,
                "canaries": INCONCLUSIVE,
                "released": INCONCLUSIVE,
                "timing": INCONCLUSIVE,
                "identity": HELD,
            }
            assert "killed by signal 9" in report.checks[1].detail and "restarted" in report.checks[1].detail
            assert report.result is INCONCLUSIVE
            assert tokens(await read(stream)) == expected([3, 4], 5)
            assert lives(tmp_path) == 2
            assert (await check(s)).result is HELD

    run(scene())


def test_an_engine_that_hangs_in_the_check_is_killed(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, {"on_check": "hang"}, {}, settings=config(hang_timeout_s=0.3)) as s:
            report = await check(s)
            assert "no sign of life" in report.checks[1].detail
            await s.service.supervisor.wait_ready()

    run(scene())


def test_a_stop_ends_the_check_and_requests_that_waited_for_it_finish(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, {"on_check": "wait"}) as s:
            checking = asyncio.create_task(check(s))
            await until(lambda: s.service.checking is not None and s.service.checking.has_begun)
            stream = await s.submit([3, 4], 5)
            await s.service.drain(20)
            assert tokens(await read(stream)) == expected([3, 4], 5)
            report = await checking
            assert report.result is INCONCLUSIVE and "shutting down" in report.checks[1].detail
            with pytest.raises(Draining):
                await check(s)

    run(scene())


def test_an_engine_that_is_not_there_cannot_be_checked(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Scene(tmp_path, {}, settings=config(restart_delay_s=0.5)) as s:
            s.service.supervisor.kill("for the test")
            await until(lambda: s.service.supervisor.state != "ready")
            with pytest.raises(EngineUnavailable, match="while it is restarting: for the test"):
                await check(s)
            await s.service.supervisor.wait_ready()

    run(scene())


def test_a_check_has_one_result_of_what_all_found() -> None:
    canaries, identity = IsolationCheck.CANARIES, IsolationCheck.IDENTITY
    inside = [
        CheckResult(name=canaries, result=HELD, n=10),
        CheckResult(name=IsolationCheck.TIMING, result=HELD, n=1, p=0.5),
    ]
    outside = [
        CheckResult(name=canaries, result=FAILED, n=3, detail="seen"),
        CheckResult(name=identity, result=INCONCLUSIVE, n=2, detail="busy"),
    ]
    results = {one.name: one for one in merged(inside, outside)}
    assert results[canaries] == CheckResult(name=canaries, result=FAILED, n=13, detail="seen")
    assert results[IsolationCheck.TIMING].p == 0.5
    assert results[identity].result is INCONCLUSIVE
    assert results[IsolationCheck.LOGITS].detail == "not checked"


def last_in(file: Path) -> IsolationReport | None:
    """What another daemon finds there."""
    isolation = Isolation(cast(Any, None), Events(), cast(Any, None))
    isolation.keep_in(file)
    return isolation.last


def test_the_last_report_is_kept_and_a_file_that_says_nothing_is_no_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "isolation.json"

    async def scene() -> IsolationReport:
        async with Scene(tmp_path) as s:
            isolation = s.service.isolation
            isolation.keep_in(file)
            assert isolation.last is None
            return await isolation.check(ROOT, quick=False, outside=OUTSIDE)

    report = run(scene())
    assert last_in(file) == report
    assert list(tmp_path.glob("isolation*")) == [file]
    file.write_text('{"result": "perfect"}')
    assert last_in(file) is None
    assert "cannot read the last isolation check" in caplog.text


def test_a_report_that_cannot_be_kept_is_given_anyway(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with Scene(tmp_path) as s:
            s.service.isolation.keep_in(tmp_path / "missing" / "isolation.json")
            assert (await check(s)).result is HELD

    run(scene())
    assert "cannot keep the result" in caplog.text
