"""Anomalies in the ledger: kept as they were found, listed newest first, and cleared per tenant."""

from __future__ import annotations

import sqlite3

from tenantd.domain import OnAnomaly
from tenantd.events import AnomalyFound, Deviation, Signal
from tenantd.ledger.findings import add_finding, clear_findings, recent_findings
from tenantd.ledger.schema import ANOMALIES


def found(tenant_id: int, at_micros: int) -> AnomalyFound:
    return AnomalyFound(
        at_micros=at_micros,
        tenant=f"t{tenant_id}",
        tenant_id=tenant_id,
        requests=70,
        score=12.5,
        threshold=10.0,
        deviations=(Deviation(signal=Signal.LOGPROBS, value=0.9, usual=0.1, weight=8.0),),
        action=OnAnomaly.THROTTLE,
    )


def test_what_was_found_is_listed_newest_first_and_cleared_per_tenant() -> None:
    conn = sqlite3.connect(":memory:")
    for statement in ANOMALIES:
        conn.execute(statement)
    for tenant_id, at_micros in ((1, 10), (2, 20), (1, 30)):
        add_finding(conn, found(tenant_id, at_micros))
    newest, *_ = everything = recent_findings(conn, None, 0, 10)
    assert [one.at_micros for one in everything] == [30, 20, 10]
    assert newest.deviations == found(1, 30).deviations and newest.action is OnAnomaly.THROTTLE
    assert (newest.score, newest.threshold, newest.requests, newest.tenant) == (12.5, 10.0, 70, "t1")
    assert [one.at_micros for one in recent_findings(conn, 1, 0, 10)] == [30, 10]
    assert [one.at_micros for one in recent_findings(conn, None, 20, 1)] == [30]
    clear_findings(conn, 1, 40)
    assert {one.at_micros: one.cleared_micros for one in recent_findings(conn, None, 0, 10)} == {
        30: 40,
        20: None,
        10: 40,
    }
    conn.close()
