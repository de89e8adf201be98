"""A machine whose clock is not set: it believes that it is before 1970."""

from __future__ import annotations

import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from tests.support.daemon import Daemon, far_from_midnight, wait_until
from tests.support.program import tenantctl

# The daemon's process has its own idea of the time; how long things take is right.
BEFORE_1970 = f"""
import time
real = time.time_ns
time.time_ns = lambda: real() - {int(time.time() + 3 * 365 * 86_400)} * 10**9
time.time = lambda: time.time_ns() / 1e9
"""


def test_requests_work_and_are_billed_with_a_clock_before_1970(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BEFORE_1970)
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH", ""))))
    daemon = Daemon(tmp_path, engine={"fake_step_micros": 5000})
    try:
        daemon.start(PYTHONPATH=path)
        key = daemon.add_tenant("acme")
        answer = daemon.complete("acme", max_tokens=3, ignore_eos=True)
        assert answer.status_code == 200, answer.text
        assert daemon.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200
        lost = daemon.stream("acme", max_tokens=4000, ignore_eos=True).begun(3)
        daemon.signal(signal.SIGHUP)
        wait_until(lambda: "tenants reloaded" in daemon.log.read_text(), "a reload")
        daemon.kill()
        lost.join()
        for file in (tmp_path / "state").glob("ledger.db*"):
            os.utime(file, (-1e8, -1e8))  # as the kernel of such a machine would have it
        daemon.start(PYTHONPATH=path)
        assert sorted((row["state"], row["created_micros"]) for row in daemon.rows()) == [
            ("interrupted", 0),
            ("length", 0),
        ]
        for command in (["usage"], ["invoice"], ["requests"]):
            shown = tenantctl(daemon, *command)
            assert (shown.returncode, "acme" in shown.stdout) == (0, True), shown.stderr
        assert daemon.request("DELETE", "/admin/v1/tenants/acme").status_code == 200
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.log.read_text()
    finally:
        daemon.kill()


def test_daemons_of_tests_have_no_midnight_in_the_next_hour() -> None:
    for hour in range(24):
        now = datetime(2026, 11, 30, hour, 59, tzinfo=UTC)
        local = now.astimezone(ZoneInfo(far_from_midnight(now)))
        assert now.date() == local.date() == (local + timedelta(hours=1)).date(), hour
