"""Checks the isolation between tenants on this machine, and remembers when that was done last and what it found.

The engine checks itself between requests; who calls adds what it saw from outside, over the socket. The last report is
kept in a small file beside the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, TypedDict

import msgspec

from tenantd.clock import now_micros
from tenantd.domain import Actor, IsolationCheck, Verdict
from tenantd.errors import CheckRunning, EngineUnavailable
from tenantd.events import Events, IsolationChecked
from tenantd.fleet.replica import Replica
from tenantd.fleet.supervisor import EngineState
from tenantd.tenancy.directory import Directory
from tenantd.wire.messages import CheckResult

log = logging.getLogger(__name__)

FILE_NAME: Final = "isolation.json"
FILE_MODE: Final = 0o600
RETRY_S: Final = 10
TURN_S: Final = 60
"""How long a turn lasts unless its client renews it."""
MOST_ADAPTERS: Final = 2
"""Adapters that a check uses, of those that tenants have."""


class IsolationReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a check found. `quick`: with less of everything. `result` is the worst of `checks`."""

    checked_micros: int  # when it ended; microseconds since 1970
    duration_micros: int
    quick: bool
    result: Verdict
    checks: list[CheckResult]

    def named(self, verdict: Verdict) -> tuple[IsolationCheck, ...]:
        """The checks with this result."""
        return tuple(check.name for check in self.checks if check.result is verdict)


class IsolationStatus(TypedDict):
    """When isolation was last checked (microseconds since 1970), with what result, and whether quickly."""

    checked_micros: int
    result: Verdict
    quick: bool


class Isolation:
    """The use case, and the last report: None before the first."""

    def __init__(self, replica: Replica, events: Events, directory: Directory) -> None:
        """Checks use the adapters of the tenants in `directory`, too."""
        self.last: IsolationReport | None = None
        self._replica = replica
        self._events = events
        self._directory = directory
        self._file: Path | None = None
        self._turn = ""
        self._turn_ends_s = 0.0  # by the monotonic clock

    def keep_in(self, file: Path) -> None:
        """From now on keep the last report in a file. Reads the one that is there."""
        self._file = file
        self.last = _read(file)

    @property
    def is_on(self) -> bool:
        """Whether a client checks over the socket, or the engine checks."""
        return self._replica.checkup.is_on or time.monotonic() < self._turn_ends_s

    def take_turn(self, turn: str = "") -> str:
        """The turn to check, for a client that begins over the socket; with the turn that it has, renew it.

        It ends after `TURN_S`. Raises CheckRunning: it is somebody else's.
        """
        self._refuse_another(turn)
        self._turn = turn or secrets.token_hex(8)
        self._turn_ends_s = time.monotonic() + TURN_S
        return self._turn

    def end_turn(self, turn: str) -> None:
        """End a turn; one that is over already is nothing."""
        if turn == self._turn:
            self._turn_ends_s = 0.0

    def _refuse_another(self, turn: str) -> None:
        checkup = self._replica.checkup
        what = f"{checkup.doing} ({checkup.progress:.0%})" if checkup.is_on else "a client is checking over the socket"
        if self.is_on and (not turn or turn != self._turn):
            raise CheckRunning(f"another check is running: {what}; wait until it has ended", retry_after_s=RETRY_S)

    async def check(
        self, actor: Actor, *, quick: bool, outside: Sequence[CheckResult], turn: str = ""
    ) -> IsolationReport:
        """Check everything. `outside` are results of the caller's; what it has nothing on is inconclusive.

        Requests wait meanwhile. Cancel this to end it early, without a report. Raises CheckRunning, EngineUnavailable.
        """
        checkup, supervisor = self._replica.checkup, self._replica.supervisor
        self._refuse_another("" if checkup.is_on else turn)
        if supervisor.state is not EngineState.READY:
            why = f": {supervisor.reason}" if supervisor.reason else ""
            raise EngineUnavailable(f"cannot check the engine while it is {supervisor.state}{why}", retry_after_s=2)
        log.info("checking isolation; requests wait meanwhile")
        began_s = time.monotonic()
        adapters = sorted({tenant.adapter for tenant in self._directory.tenants.values()} - {""})[:MOST_ADAPTERS]
        inside = await self._replica.check_isolation(quick=quick, adapters=adapters)
        checks = merged(inside, outside)
        self.last = report = IsolationReport(
            checked_micros=now_micros(),
            duration_micros=round((time.monotonic() - began_s) * 1e6),
            quick=quick,
            result=Verdict.of(check.result for check in checks),
            checks=checks,
        )
        self._tell(report, actor)
        if self._file is not None:
            await asyncio.to_thread(_write, self._file, report)
        return report

    def end(self, reason: str) -> None:
        """End a check that is in progress; what it has not found by now is inconclusive."""
        self._replica.checkup.lose(reason)

    def status(self) -> IsolationStatus | None:
        """None if it was never checked."""
        if self.last is None:
            return None
        last = self.last
        return {"checked_micros": last.checked_micros, "result": last.result, "quick": last.quick}

    def _tell(self, report: IsolationReport, actor: Actor) -> None:
        self._events.announce(
            IsolationChecked(
                result=report.result,
                failed=report.named(Verdict.FAILED),
                inconclusive=report.named(Verdict.INCONCLUSIVE),
                quick=report.quick,
                duration_micros=report.duration_micros,
                actor_uid=actor.uid,
                actor_pid=actor.pid,
                actor_key_id=actor.key_id,
            )
        )
        log.info("isolation was checked in %.0f s: %s", report.duration_micros / 1e6, report.result)
        for check in report.checks:
            if check.result is not Verdict.HELD:
                level = logging.ERROR if check.result is Verdict.FAILED else logging.WARNING
                log.log(level, "isolation, %s: %s: %s", check.name, check.result, check.detail)


def merged(inside: Iterable[CheckResult], outside: Iterable[CheckResult]) -> list[CheckResult]:
    """One result for each check, in their order, of what the engine found and what was found from outside."""
    found: dict[IsolationCheck, list[CheckResult]] = {name: [] for name in IsolationCheck}
    for result in (*inside, *outside):
        found[result.name].append(result)
    return [_together(name, results) for name, results in found.items()]


def _together(name: IsolationCheck, results: list[CheckResult]) -> CheckResult:
    if not results:
        return CheckResult(name=name, result=Verdict.INCONCLUSIVE, n=0, detail="not checked")
    return CheckResult(
        name=name,
        result=Verdict.of(result.result for result in results),
        n=sum(result.n for result in results),
        p=next((result.p for result in results if result.p is not None), None),
        detail="; ".join(result.detail for result in results if result.detail),
    )


def _read(file: Path) -> IsolationReport | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=IsolationReport)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as e:
        log.warning("cannot read the last isolation check from %s: %s", file, e)
        return None


def _write(file: Path, report: IsolationReport) -> None:
    """Replace the file as a whole. If that fails, the report is only remembered by this daemon."""
    new = file.with_suffix(".new")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE), "wb") as opened:
            os.fchmod(opened.fileno(), FILE_MODE)  # one that was left behind may have another
            opened.write(msgspec.json.encode(report) + b"\n")
        new.replace(file)
    except OSError as e:
        with contextlib.suppress(OSError):
            new.unlink()
        log.warning("cannot keep the result of the isolation check in %s: %s", file, e)
