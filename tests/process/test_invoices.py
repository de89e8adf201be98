"""Invoices of a real daemon: finalised by administrators, recorded in the audit trail, and kept over restarts."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sqlite3
import stat
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.ledger.bills import add, month
from tests.support.daemon import Daemon, wait_until
from tests.support.program import tenantctl
from tests.support.troubles import Trouble, locked, no_room, says

BILLING = {
    "issuer": "Example Computing",
    "issuer_address": "1 Way\nTown",
    "terms": "30 days",
    "tax_name": "VAT",
    "tax_percent": 19,
    "invoice_prefix": "INV-",
}
MONTH = "2025-01"


def use(daemon: Daemon, tenant: str, tenant_id: int, count: int = 3) -> None:
    """Requests that ended in the middle of a month that is long over, as the daemon would have settled them."""
    path = daemon.folder / "state" / "ledger.db"
    conn = sqlite3.connect(path, isolation_level=None, timeout=30)
    try:
        for n in range(count):
            ended = month(MONTH).since_micros + (15 * 24 + n) * 3_600_000_000  # in this month in every time zone
            add(conn, f"req_{tenant}{n}", ended, tenant=tenant, tenant_id=tenant_id)
    finally:
        conn.close()


def entries(daemon: Daemon, action: str) -> list[dict[str, Any]]:
    found = daemon.get("/admin/v1/audit", params={"event": "administered", "limit": 500}).json()["entries"]
    return [entry for entry in found if entry["detail"]["action"] == action]


def test_from_a_draft_to_a_credit_note_that_verify(tmp_path: Path) -> None:
    with Daemon(tmp_path, billing=BILLING) as daemon:
        details = {"name": "=cmd|' /C calc'!A0, \"Ltd\"", "address": "1 High St\nLondon", "reference": "PO <1>"}
        daemon.add_tenant("acme", billing=details)
        daemon.add_tenant("globex")
        key = daemon.add_tenant("initech")
        use(daemon, "acme", 1)
        use(daemon, "globex", 2, 1)
        assert daemon.request("DELETE", "/admin/v1/tenants/globex").status_code == 200

        draft = daemon.get(f"/admin/v1/invoices/{MONTH}").json()
        assert [(part["tenant"], part["number"], part["is_removed"]) for part in draft["tenants"]] == [
            ("acme", None, False),
            ("globex", None, True),
        ]
        out = tmp_path / "out"
        written = tenantctl(daemon, "invoice", "--month", MONTH, "--finalize", "--format", "json", "--out", str(out))
        assert written.returncode == 0, written.stderr
        first, second = (Path(line) for line in written.stdout.split())
        assert first.name == f"{MONTH}-acme-INV-000001.json" and second.name == f"{MONTH}-globex-INV-000002.json"
        assert stat.S_IMODE(first.stat().st_mode) == 0o600
        listed = daemon.get("/admin/v1/invoices").json()["invoices"]
        digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (second, first)]
        assert [row["sha256"] for row in listed] == digests
        recorded = entries(daemon, "invoice_finalized")
        assert sorted(entry["detail"]["after"]["sha256"] for entry in recorded) == sorted(digests)
        assert all(entry["detail"]["by"]["uid"] is not None for entry in recorded)

        again = daemon.post(f"/admin/v1/invoices/{MONTH}/finalize", {}).json()
        assert again["tenants"] == [json.loads(first.read_text()), json.loads(second.read_text())]
        changed = daemon.request("PATCH", "/admin/v1/tenants/acme", json={"billing": {"name": "New Ltd"}}).json()
        assert changed["tenant"]["billing"] == {**details, "name": "New Ltd", "email": "", "tax_id": ""}
        (edit,) = entries(daemon, "tenant_changed")
        assert (edit["detail"]["before"], edit["detail"]["after"]["billing"]["name"]) == (
            {"billing": {**details, "email": "", "tax_id": ""}},
            "New Ltd",
        )
        assert daemon.get("/admin/v1/invoices/issued/1").json()["invoice"]["customer"]["name"] == details["name"]

        _credit_and_export(daemon, again["total_nanos"], details["name"])
        late = {"authorization": f"Bearer {key}"}
        for path in ("invoices", f"invoices/{MONTH}", "invoices/issued/1", f"exports/focus/{MONTH}"):
            assert daemon.get(f"/admin/v1/{path}", headers=late).status_code == 403, path
        daemon.stop()
        daemon.start()
        verified = tenantctl(daemon, "invoice", "verify")
        assert (verified.returncode, verified.stdout) == (0, ""), verified.stdout
        assert "checked 3: all intact" in verified.stderr


def _credit_and_export(daemon: Daemon, total_nanos: int, customer: str) -> None:
    credited = tenantctl(daemon, "invoice", "credit", "INV-000001", "--reason", "outage", "--amount", "0.000000001")
    assert (credited.returncode, credited.stdout) == (0, "INV-000003\n")
    for amount, status in (
        ("1000", 409),
        ("-1", 400),
        ("0", 400),
        ("1e3", 400),
        ("0.0000000001", 400),
        ("NaN", 400),
    ):
        answer = daemon.post("/admin/v1/invoices/issued/1/credit", {"reason": "x", "amount": amount})
        assert answer.status_code == status, (amount, answer.text)
    assert len(entries(daemon, "invoice_credited")) == 1

    rows = list(csv.DictReader(io.StringIO(tenantctl(daemon, "export", "--month", MONTH).stdout)))
    usage = sum(Decimal(row["BilledCost"]) for row in rows if row["ChargeCategory"] != "Tax")
    assert usage * 10**9 == total_nanos > 0
    assert {row["BillingAccountName"] for row in rows} == {f"'{customer}", "globex"}

    page = tenantctl(daemon, "invoice", "show", "1", "--format", "html").stdout
    assert "PO &lt;1&gt;" in page and "<1>" not in page


def test_a_month_that_runs_or_has_running_requests_is_not_finalised(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"fake_step_micros": 100_000}) as daemon:
        daemon.add_tenant("acme")
        stream = daemon.stream("acme", max_tokens=1000, ignore_eos=True)
        wait_until(lambda: stream.tokens, "a token")
        refused = daemon.post("/admin/v1/invoices/this/finalize", {})
        assert refused.status_code == 409 and "once it is over" in refused.json()["error"]["message"]
        for name, status in (("2026-13", 400), ("9998-01", 400), ("last", 409), ("1999-12", 200)):
            answer = daemon.post(f"/admin/v1/invoices/{name}/finalize", {"tenant": "acme"} if name == "last" else {})
            assert answer.status_code == status, (name, answer.text)
        assert daemon.get("/admin/v1/invoices").json() == {"invoices": []}


@pytest.mark.parametrize("trouble", [no_room, locked])
def test_invoices_that_cannot_be_written_get_no_numbers_and_are_finalised_when_there_is_room(
    tmp_path: Path, trouble: Trouble
) -> None:
    with Daemon(tmp_path, billing=BILLING) as daemon:
        for number, name in enumerate(("acme", "globex", "initech"), 1):
            daemon.add_tenant(name)
            use(daemon, name, number)
        entered = daemon.get("/admin/v1/audit", params={"limit": 1}).json()["head"]
        with trouble(daemon):
            for _ in range(2):
                failed = tenantctl(daemon, "invoice", "--month", MONTH, "--finalize", "--json")
                assert (failed.returncode, failed.stdout) == (75, "")
                assert "cannot write the ledger" in failed.stderr and says(trouble, failed.stderr)
            draft = tenantctl(daemon, "invoice", "--month", MONTH, "--json")
            assert [part["number"] for part in json.loads(draft.stdout)["tenants"]] == [None] * 3, draft.stderr
        wait_until(lambda: daemon.status()["ledger"]["healthy"], "a ledger that can be written")
        assert daemon.get("/admin/v1/invoices").json() == {"invoices": []}
        since = daemon.get("/admin/v1/audit", params={"after": entered}).json()["entries"]
        assert {entry["event"] for entry in since} <= {"refused"}
        done = json.loads(tenantctl(daemon, "invoice", "--month", MONTH, "--finalize", "--json").stdout)
        assert [part["number"] for part in done["tenants"]] == ["INV-000001", "INV-000002", "INV-000003"]
        assert len(entries(daemon, "invoice_finalized")) == 3
        for command in (("invoice", "verify"), ("audit", "verify"), ("ledger", "check")):
            checked = tenantctl(daemon, *command)
            assert checked.returncode == 0, checked.stdout + checked.stderr


def test_without_an_audit_trail_invoices_are_finalised_all_the_same(tmp_path: Path) -> None:
    with Daemon(tmp_path, security={"audit": "off"}) as daemon:
        daemon.add_tenant("acme")
        use(daemon, "acme", 1)
        assert daemon.post(f"/admin/v1/invoices/{MONTH}/finalize", {}).status_code == 200
        result = tenantctl(daemon, "invoice", "verify")
        assert result.returncode == 0 and "1 not compared with the audit trail" in result.stderr
