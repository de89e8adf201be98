"""Alerts reach a webhook whatever it does meanwhile, and its address appears nowhere."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator

import pytest
from pydantic import SecretStr

from tenantd.budget_events import BudgetReached
from tenantd.config import AlertsConfig, BillingConfig
from tenantd.domain import BudgetUnit, IsolationCheck, OnAnomaly, Verdict
from tenantd.errors import Conflict, InvalidRequest
from tenantd.events import AnomalyFound, CleanedUp, Deviation, EngineLost, IsolationChecked, Loss, Signal
from tenantd.periods import Period
from tenantd.watching import webhook as sending
from tenantd.watching.alerts import alert_of
from tenantd.watching.webhook import MOST_WAITING, Webhook
from tests.support.daemon import wait_until
from tests.support.hooks import Hook, refusing_address

REACHED = BudgetReached(
    at_micros=1_795_000_000_123_000,
    budget_id=3,
    tenant="acme",
    tenant_id=1,
    key_id=None,
    period=Period.MONTHLY,
    unit=BudgetUnit.MONEY,
    level=80,
    used=8_300_000_001,
    cap=10_000_000_000,
    since_micros=1_793_491_200_000_000,
    resets_micros=1_796_083_200_000_000,
)
LOST = EngineLost(reason=Loss.SIGNAL, status=-9, live=2)


@pytest.fixture
def hook() -> Iterator[Hook]:
    with Hook() as running:
        yield running


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "FIRST_DELAY_S", 0.01)


def webhook(url: str, timeout_s: float | Callable[[], float] = 60) -> Webhook:
    def settings() -> AlertsConfig:
        return AlertsConfig(url=SecretStr(url), timeout_s=timeout_s() if callable(timeout_s) else timeout_s)

    return Webhook(settings, BillingConfig)


def test_an_alert_says_what_has_happened_for_people_and_for_programs(hook: Hook) -> None:
    sender = webhook(hook.url)
    sender.hear(CleanedUp(request_id="req_1", tenant="acme"))  # nobody is alerted to this
    sender.hear(REACHED)
    wait_until(lambda: sender.status()["delivered"] == 1, "its delivery")
    sender.close()
    [alert] = hook.received
    assert alert["path"] == "/hook?token=verysecret" and alert["type"] == "application/json"
    assert alert["id"].startswith("alert_") and alert["alert"] == "budget_reached" and alert["tenant"] == "acme"
    assert alert["at"] == "2026-11-18T11:06:40.123Z"
    assert alert["text"] == (
        "acme has used 83% of its monthly money budget of 10.00 USD; it resets at 2026-12-01 00:00 UTC"
    )
    assert alert["detail"]["level"] == 80 and alert["detail"]["used"] == 8_300_000_001
    assert "at_micros" not in alert["detail"]


@pytest.mark.parametrize(
    ("timezone", "resets"), [("UTC", "2026-12-01 00:00 UTC"), ("Europe/Berlin", "2026-12-01 01:00 Europe/Berlin")]
)
def test_an_alert_about_a_budget_says_in_the_billing_time_zone_when_it_resets(timezone: str, resets: str) -> None:
    alert = alert_of(REACHED, BillingConfig(timezone=timezone))
    assert alert is not None and alert.text.endswith(f"; it resets at {resets}")


@pytest.mark.parametrize("trouble", [500, 302, 404, "hang", "drip"])
def test_what_fails_is_tried_again_until_it_arrives_as_the_same_alert(
    hook: Hook, trouble: int | str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    hook.statuses = [trouble, trouble]
    sender = webhook(hook.url, lambda: 1.5 if trouble in ("hang", "drip") and len(hook.received) < 2 else 60)
    for event in (REACHED, LOST):
        sender.hear(event)
    wait_until(lambda: sender.status()["delivered"] == 2, "both deliveries")
    sender.close()
    assert [one["alert"] for one in hook.received] == ["budget_reached"] * 3 + ["engine_lost"]
    assert len({one["id"] for one in hook.received[:3]}) == 1, "who gets it twice can tell"
    assert sender.status()["trouble"] == "" and sender.status()["failed"] == 0
    own = [record.getMessage() for record in caplog.records if record.name.startswith("tenantd")]
    assert any("cannot deliver an alert" in line for line in own) and "alerts are delivered again" in own
    assert "verysecret" not in "\n".join(own)


def test_what_cannot_be_delivered_is_given_up_and_the_next_is_tried(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sending, "ATTEMPTS", 3)
    with refusing_address() as address:
        sender = webhook(f"http://{address}/hook?token=verysecret")
        sender.hear(LOST)
        sender.hear(REACHED)
        wait_until(lambda: sender.status()["failed"] == 2, "both are given up")
    assert sender.status()["trouble"] == "cannot reach the server: Connection refused"
    assert "verysecret" not in caplog.text and "gave up on an alert: the engine was lost" in caplog.text
    sender.close()


def test_what_waits_is_bounded_and_the_oldest_gives_way(hook: Hook) -> None:
    hook.statuses = ["hang"]
    sender = webhook(hook.url, timeout_s=300)
    sender.hear(LOST)
    wait_until(lambda: hook.received, "the first is being sent, and whoever announces does not wait for it")
    for _ in range(MOST_WAITING + 5):
        sender.hear(REACHED)
    assert sender.status()["waiting"] == MOST_WAITING + 1 and sender.status()["dropped"] == 5
    hook.released.set()
    wait_until(lambda: sender.status()["waiting"] == 0, "the rest")
    sender.close()


def test_without_an_address_nothing_is_sent_and_no_thread_runs() -> None:
    sender = Webhook(AlertsConfig, lambda: "USD")
    sender.hear(REACHED)
    assert sender.status() == dict.fromkeys(("delivered", "failed", "dropped", "waiting"), 0) | {
        "is_on": False,
        "trouble": "",
    }
    with pytest.raises(InvalidRequest, match=r"alerts\.url"):
        asyncio.run(sender.test())
    sender.close()


def test_a_test_alert_tells_what_became_of_it(hook: Hook) -> None:
    sender, hasty = webhook(hook.url), webhook(hook.url, timeout_s=2)

    async def tests() -> None:
        assert (await sender.test()).status == 200
        hook.statuses = [403, 302]
        assert (await sender.test()).trouble == "the server refuses it (HTTP 403)"
        assert (await sender.test()).trouble == "the server redirects elsewhere (HTTP 302)"
        hook.statuses = ["hang"]
        waiting = asyncio.create_task(hasty.test())
        await asyncio.sleep(0)
        with pytest.raises(Conflict):
            await hasty.test()
        assert (await waiting).trouble == "no answer within 2 s (alerts.timeout_s)"

    asyncio.run(tests())
    sender.close()
    hasty.close()
    assert {one["alert"] for one in hook.received} == {"test"} and len(hook.received) == 4, "nothing is repeated"


def test_closing_does_not_wait_for_a_server_that_hangs(hook: Hook) -> None:
    hook.statuses = ["hang"]
    sender = webhook(hook.url, timeout_s=300)
    sender.hear(LOST)
    wait_until(lambda: hook.received, "it is being sent")
    began_s = time.monotonic()
    sender.close(0.1)
    assert time.monotonic() - began_s < 60, "a fraction of what the attempt may take"


def test_operators_hear_of_anomalies_lost_engines_and_broken_isolation() -> None:
    deviation = Deviation(signal=Signal.LOGPROBS, value=0.9, usual=0.1, weight=3.0)
    anomaly = AnomalyFound(
        tenant="acme",
        tenant_id=1,
        requests=100,
        score=12.5,
        threshold=10.0,
        deviations=(deviation,),
        action=OnAnomaly.THROTTLE,
    )
    checked = {"inconclusive": (), "quick": True, "duration_micros": 1, "actor_uid": 0, "actor_pid": 1}
    failed = IsolationChecked(result=Verdict.FAILED, failed=(IsolationCheck.LOGITS,), actor_key_id="key_1", **checked)
    held = IsolationChecked(result=Verdict.HELD, failed=(), actor_key_id=None, **checked)
    told = [alert_of(event, BillingConfig()) for event in (anomaly, LOST, failed, held)]
    texts = [None if one is None else one.text for one in told]
    assert texts[0] is not None and texts[0].startswith("tenant acme may be copying the model: 90% of")
    assert texts[0].endswith("(the tenant is throttled)")
    assert texts[1:] == [
        "the engine was lost (signal) with 2 live requests; it is being restarted",
        "the check of isolation failed: logits",
        None,
    ]
    assert told[2] is not None and not {"actor_uid", "actor_key_id"} & told[2].detail.keys()
