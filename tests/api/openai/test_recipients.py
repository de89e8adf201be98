"""What is written to a connection is its own tenant's, user's and key's; else nothing is written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tenantd.domain import Actor
from tenantd.live.streams import LiveStream
from tests.api.conftest import Api

FOREIGN = "canary of another tenant"


def give_away(api: Api, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """From the second token on, streams are somebody else's."""
    advance = LiveStream.advance

    def advanced(self: LiveStream, progress: Any) -> bool:
        if len(self.generated) == 1:
            tenant_id, actor = self.asker
            self.asker = (changes.get("tenant_id", tenant_id), changes.get("actor", actor))
        return advance(self, progress)

    monkeypatch.setattr(LiveStream, "advance", advanced)
    api.service.answer = "a" + FOREIGN


OTHERS = [
    {"tenant_id": 77},
    {"actor": Actor(uid=4_000_000, pid=1, key_id="key_acme")},
    {"actor": Actor(key_id="key_globex")},
]


@pytest.mark.parametrize("other", OTHERS, ids=["tenant", "user", "key"])
@pytest.mark.parametrize("n", [1, 3])
def test_a_whole_answer_that_is_somebody_elses_is_an_error(
    api: Api, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any], n: int
) -> None:
    give_away(api, monkeypatch, **other)
    answer = api.completion(prompt="hi", n=n)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_failure")
    assert FOREIGN not in answer.text and "mixed up" in answer.json()["error"]["message"]
    assert api.service.misdirections == [(api.service.streams[0].id, "acme")]


@pytest.mark.parametrize("other", OTHERS, ids=["tenant", "user", "key"])
@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_that_is_somebody_elses_ends_with_an_error_and_without_a_foreign_byte(
    api: Api, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any], n: int
) -> None:
    give_away(api, monkeypatch, **other)
    answer = api.completion(prompt="hi", stream=True, n=n, stream_options={"include_usage": True})
    assert answer.status_code == 200
    events = [line for line in answer.text.splitlines() if line.startswith("data:")]
    assert "engine_failure" in events[-1] and "[DONE]" not in answer.text and "total_tokens" not in answer.text
    texts: dict[int, str] = {}  # an event has one token, so the canary would come in pieces
    for event in events:
        for choice in json.loads(event.removeprefix("data:")).get("choices", []):
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    assert set(texts.values()) <= {"", "a"}
    assert {found for found, _ in api.service.misdirections} <= {stream.id for stream in api.service.streams}
    assert api.service.misdirections


def test_an_answer_to_its_own_asker_is_complete(api: Api) -> None:
    for headers in ({"authorization": "Bearer td_acme"}, {"x-tenant": "acme"}):
        answer = api.client.post("/v1/completions", json={"prompt": "hi", "stream": True}, headers=headers)
        assert answer.text.endswith("data: [DONE]\n\n")
    assert not api.service.misdirections
