"""A real daemon prunes its audit trail at start, anchors it, says how that goes, and serves whatever happens to it."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

from tenantd.config import BillingConfig
from tenantd.ledger.anchored import Anchors
from tenantd.ledger.audit import append
from tenantd.ledger.ledger import Ledger
from tenantd.ledger.verify import verify_file
from tests.ledger.trails import entry
from tests.process.test_metrics import metric
from tests.support.daemon import Daemon, wait_until

DAY_MICROS = 86_400_000_000


def begin_long_ago(folder: Path, days: int) -> Path:
    """A ledger with an entry for each of the last days, the oldest first."""
    folder.mkdir(mode=0o700)
    now = time.time_ns() // 1000

    async def main() -> Path:
        ledger = Ledger.open(folder / "ledger.db", BillingConfig(), lambda: now - days * DAY_MICROS)
        entries = [entry("e", at_micros=now - day * DAY_MICROS) for day in range(days, 0, -1)]
        await ledger.write(lambda conn: append(conn, entries))
        await ledger.close()
        return ledger.path

    return asyncio.run(main())


def test_it_is_pruned_at_start_and_anchored_and_verifies(tmp_path: Path) -> None:
    path, anchor = begin_long_ago(tmp_path / "state", 800), tmp_path / "anchor"
    with Daemon(tmp_path, security={"anchor": str(anchor), "anchor_every_s": 1}) as daemon:
        daemon.add_tenant("acme")
        wait_until(lambda: verify_file(path).pruned >= 400, "the end of the pruning")
        wait_until(lambda: daemon.status()["ledger"]["anchor"]["age_s"] is not None, "an anchor")
        assert daemon.complete("acme", max_tokens=2).status_code == 200
        assert metric(daemon, "tenantd_audit_anchor_failures_total") == 0
        assert metric(daemon, "tenantd_audit_anchor_age_seconds") < 60
        head = daemon.get("/admin/v1/invoices/this").json()["audit_head"]
        assert head["number"] > 801
        wait_until(lambda: head["number"] <= max(Anchors.read(anchor).heads), "an anchor as new as the invoice")

        daemon.configure(security={"anchor": str(tmp_path / "missing" / "anchor"), "anchor_every_s": 1})
        daemon.signal(signal.SIGHUP)
        wait_until(lambda: metric(daemon, "tenantd_audit_anchor_failures_total") > 0, "a failure")
        assert "No such file" in daemon.status()["ledger"]["anchor"]["trouble"]
        assert daemon.complete("acme", max_tokens=2).status_code == 200
        daemon.configure(security={"anchor": str(anchor), "anchor_every_s": 1})
        daemon.signal(signal.SIGHUP)
        wait_until(lambda: not daemon.status()["ledger"]["anchor"]["trouble"], "an anchor again")

        def stops_anchored() -> bool:
            """The stop anchors once more, but does not wait for long for a disk."""
            assert daemon.stop() == 0
            verdict = verify_file(path, Anchors.read(anchor))
            assert verdict.finding is None and verdict.anchors >= 2
            if verdict.number == max(Anchors.read(anchor).heads):
                return True
            daemon.start()
            return False

        wait_until(stops_anchored, "a stop that has anchored what it wrote")
