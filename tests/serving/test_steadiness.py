"""What runs beside requests goes on after an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serving.daemon_kit import run, until
from tests.serving.scene import Scene, read

LOOPS = {
    "tenantd.serving.standstill.Standstill._look": "Standstill.run",
    "tenantd.serving.permissions.Permissions.enforce": "Permissions.watch_keys",
    "tenantd.tenancy.budgets.Budgets.metered": "Allowances.run",
    "tenantd.serving.kept_answers.KeptAnswers.forget_old": "Attempts.prune",
}


@pytest.mark.parametrize("step", LOOPS)
def test_an_unexpected_error_is_logged_and_the_loop_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    for name in (
        "standstill.INTERVAL_S",
        "permissions.KEYS_INTERVAL_S",
        "steadiness.PAUSE_S",
        "attempts.PRUNE_INTERVAL_S",
    ):
        monkeypatch.setattr(f"tenantd.serving.{name}", 0.01)
    calls = 0

    def fail(*_: object) -> None:
        nonlocal calls
        calls += 1
        raise ZeroDivisionError

    monkeypatch.setattr(step, fail)

    async def scene() -> None:
        async with Scene(tmp_path) as s:
            s.service.budgets._holds[0] = None  # type: ignore[assignment]
            await until(lambda: calls >= 3)
            del s.service.budgets._holds[0]
            await read(await s.submit([1], 3))

    run(scene())
    assert f"{LOOPS[step]} failed" in caplog.text and "ZeroDivisionError" in caplog.text
