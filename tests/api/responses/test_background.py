"""Responses that go on without a client: shown meanwhile, kept at their end, cancelled, and nobody else's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tenantd.errors import Conflict, EngineFailure, NotFound
from tenantd.serving import unattended
from tests.api.conftest import Api
from tests.api.responses.test_responses import api as api  # a fixture
from tests.api.responses.test_responses import get, prompt_of, raw


@pytest.fixture
def held(api: Api) -> Iterator[Api]:
    """Answers wait after five tokens until they are released."""
    api.service.hold_after = 5
    yield api
    api.loop.call(api.service.release.set)


def begin(api: Api, **body: Any) -> dict[str, Any]:
    answer = raw(api, input="Hi", background=True, **body)
    assert answer.status_code == 200, answer.text
    begun: dict[str, Any] = answer.json()
    assert (begun["status"], begun["background"], begun["store"]) == ("in_progress", True, True)
    return begun


def ended(api: Api, response_id: str) -> dict[str, Any]:
    """The response once it has ended."""
    api.wait_until(lambda: api.service.background.find(1, response_id) is None)
    found: dict[str, Any] = get(api, response_id).json()
    return found


def test_one_is_shown_while_it_is_made_and_kept_when_it_is_complete(held: Api) -> None:
    begun = begin(held)
    assert get(held, begun["id"]).json() == begun
    assert get(held, begun["id"], key="td_globex").status_code == 404, "it is nobody else's"
    assert get(held, begun["id"], method="DELETE").status_code == 400
    held.loop.call(held.service.release.set)
    done = ended(held, begun["id"])
    assert done["status"] == "completed" and done["output"][0]["content"][0]["text"] == "Hello, wörld!"
    assert done["usage"]["output_tokens"] == 14
    assert raw(held, input="More", previous_response_id=begun["id"]).status_code == 200
    assert "Hello, wörld!" in prompt_of(held)
    assert get(held, f"{begun['id']}/cancel", method="POST").status_code == 400, "it has ended"


def test_one_that_is_cancelled_ends_and_says_so(held: Api) -> None:
    begun = begin(held)
    assert get(held, f"{begun['id']}/cancel", key="td_globex", method="POST").status_code == 404
    cancelled = get(held, f"{begun['id']}/cancel", method="POST")
    assert cancelled.status_code == 200, cancelled.text
    assert (cancelled.json()["status"], cancelled.json()["error"]) == ("cancelled", None)
    assert held.service.streams[-1].finish_reason == "cancelled"
    again = get(held, f"{begun['id']}/cancel", method="POST").json()
    assert again == cancelled.json() == get(held, begun["id"]).json()


def test_one_that_ends_while_it_is_cancelled_is_shown_as_it_ended(held: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def has_just_ended(tenant_id: int | None, request_id: str) -> None:
        held.service.release.set()
        raise NotFound("no such request")

    monkeypatch.setattr(held.service.own, "cancel", has_just_ended)
    shown = get(held, f"{begin(held)['id']}/cancel", method="POST")
    assert (shown.status_code, shown.json()["status"]) == (200, "completed"), shown.text


def test_one_that_fails_tells_why(api: Api) -> None:
    api.service.failure, api.service.fail_after = EngineFailure("it broke"), 3
    done = ended(api, begin(api)["id"])
    assert (done["status"], done["error"]["message"]) == ("failed", "it broke")


def test_what_is_refused_is_refused_at_once_and_holds_nothing(api: Api) -> None:
    api.service.refusal = EngineFailure("not now")
    assert raw(api, input="Hi", background=True).status_code == 500
    assert api.service.responses.held_bytes == 0


def test_a_tenant_has_so_many_at_a_time(held: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unattended, "MOST_OF_A_TENANT", 2)
    for _ in range(2):
        begin(held)
    refused = raw(held, input="Hi", background=True)
    assert (refused.status_code, refused.json()["error"]["param"]) == (409, "background")
    assert raw(held, "td_globex", input="Hi", background=True).status_code == 200, "others have their own"


def test_those_that_wait_for_a_limit_count_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unattended, "MOST_OF_A_TENANT", 2)
    background = unattended.Background()
    with background.place(1), background.place(1):
        with pytest.raises(Conflict), background.place(1):
            pass
        with background.place(2):
            pass
    with background.place(1), background.place(1):
        pass
