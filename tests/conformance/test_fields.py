"""Fields that the official client passes on for other servers (`extra_body`): they work, or are refused by name."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.conformance.conftest import MODEL, Shared, connect
from tests.support.daemon import Daemon, wait_until

MESSAGES: Any = [{"role": "user", "content": "Hello!"}]


@pytest.mark.parametrize(
    "extra",
    [
        {"n_predict": 3},
        {"max_tokens": 3, "repetition_penalty": 1.1},
        {"max_tokens": 3, "cache_prompt": True, "id_slot": -1, "mirostat": 0, "dry_base": 1.75},
        {"max_tokens": 3, "tool_choice": "none", "modalities": ["text"], "chat_template_kwargs": {}},
        {"max_tokens": 3, "user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
    ],
    ids=str,
)
def test_what_can_be_had_is_had(client: openai.OpenAI, extra: dict[str, Any]) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, extra_body={"ignore_eos": True, **extra})
    assert answer.usage is not None and answer.usage.completion_tokens == 3


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"min_tokens": 5}, "min_tokens"),
        ({"stop_token_ids": [5]}, "stop_token_ids"),
        ({"guided_regex": "a+"}, "guided_regex"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"temprature": 0}, "temprature"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("streamed", [False, True])
def test_what_cannot_is_a_bad_request_that_names_it_and_leaves_no_row(
    shared: Shared, client: openai.OpenAI, extra: dict[str, Any], param: str, streamed: bool
) -> None:
    before = len(shared.daemon.rows())
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=streamed, extra_body=extra)
    assert (caught.value.code, caught.value.param) == ("invalid_request", param)
    assert param in caught.value.message
    assert len(shared.daemon.rows()) == before


def test_a_reload_makes_the_daemon_lenient_and_strict_again(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon, connect(daemon, daemon.add_tenant("acme")) as client:

        def ask() -> str | None:
            """The names that were ignored; None when they were refused."""
            try:
                raw = client.completions.with_raw_response.create(
                    model=MODEL, prompt="x", max_tokens=1, extra_body={"temprature": 0, "made_up": 1}
                )
            except openai.BadRequestError as e:
                assert "did you mean temperature?" in e.message
                return None
            assert len(raw.parse().choices) == 1
            return str(raw.http_response.headers.get("x-tenantd-ignored"))

        assert ask() is None
        for lenient, ignored in ((True, "temprature, made_up"), (False, None)):
            daemon.configure(server={"lenient": lenient})
            daemon.signal(signal.SIGHUP)
            wait_until(lambda ignored=ignored: ask() == ignored, f"lenient = {lenient}")
