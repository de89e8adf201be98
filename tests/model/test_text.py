"""What the real model says over the API: sense, sameness, and characters that are never cut."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.model.conftest import CONTEXT_TOKENS, Ask
from tests.support.daemon import Daemon

PROMPT = "Monday, Tuesday, Wednesday,"
REPLACEMENT = "\ufffd"
RARE_CHARACTERS = "root ::= [\U00020000-\U0002a6d0]{3}"  # none has a token of its own: four byte tokens each


def test_a_greedy_completion_makes_sense(ask: Ask) -> None:
    assert ask.text(PROMPT, max_tokens=6).startswith(" Thursday, Friday")


def test_greedy_text_is_the_same_each_time(ask: Ask) -> None:
    assert ask.text("Once upon a time", max_tokens=12) == ask.text("Once upon a time", max_tokens=12)


def test_a_stream_gives_the_text_of_the_whole_answer(ask: Ask, daemon: Daemon) -> None:
    whole = ask.whole("The sea is", max_tokens=12)
    stream = daemon.stream("acme", "The sea is", max_tokens=12, temperature=0).join()
    assert stream.text == whole["choices"][0]["text"]
    assert stream.finish_reason == whole["choices"][0]["finish_reason"] == "length"
    assert stream.usage == whole["usage"]
    assert stream.done


def test_a_seed_gives_the_same_text_again_and_another_seed_another(ask: Ask) -> None:
    settings = {"max_tokens": 10, "temperature": 1.2, "ignore_eos": True}
    first = ask.text("My favourite", seed=7, **settings)
    assert ask.text("My favourite", seed=7, **settings) == first
    assert ask.text("My favourite", seed=8, **settings) != first


def test_a_stop_string_that_spans_tokens_ends_the_text_before_it(ask: Ask, daemon: Daemon) -> None:
    full = ask.choice(PROMPT, max_tokens=8, logprobs=0)
    before, tokens = full["text"], full["logprobs"]["tokens"]
    stop = tokens[2][-2:] + tokens[3][:1]  # ends inside the fourth token
    assert stop in before and stop not in tokens
    stopped = ask.whole(PROMPT, max_tokens=8, stop=["not there", stop])
    assert stopped["choices"][0]["text"] == before[: before.index(stop)]
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert stopped["usage"]["completion_tokens"] < 8
    stream = daemon.stream("acme", PROMPT, max_tokens=8, temperature=0, stop=["not there", stop]).join()
    assert (stream.text, stream.finish_reason) == (stopped["choices"][0]["text"], "stop")


@pytest.mark.parametrize(
    ("grammar", "characters"),
    [("root ::= [\U0001f600-\U0001f64f]{4}", 4), (RARE_CHARACTERS, 3), ("root ::= [\u4e00-\u9fff]{6}", 6)],
    ids=["emoji", "rare CJK", "common CJK"],
)
def test_no_character_is_cut_between_chunks(ask: Ask, daemon: Daemon, grammar: str, characters: int) -> None:
    body = {"max_tokens": 40, "temperature": 0.9, "seed": 3, "grammar": grammar}
    streamed = "".join(chunks(daemon, **body))
    assert len(streamed) == characters
    assert REPLACEMENT not in streamed
    assert streamed == ask.text("x", **body)


def test_half_a_character_at_the_limit_is_marked_once_at_the_end(daemon: Daemon) -> None:
    whole, half = chunks(daemon, max_tokens=6, temperature=0, grammar=RARE_CHARACTERS)
    assert "\U00020000" <= whole <= "\U0002a6d0"
    assert half == REPLACEMENT


def chunks(daemon: Daemon, **body: Any) -> list[str]:
    """The text of each event of a stream that has any."""
    texts: list[str] = []
    request = {"prompt": "x", "stream": True, **body}
    with (
        daemon.client() as client,
        client.stream("POST", "/v1/completions", json=request, headers={"X-Tenant": "acme"}) as answer,
    ):
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                event = json.loads(line.removeprefix("data: "))
                texts += [choice["text"] for choice in event["choices"] if choice["text"]]
    return texts


def test_ignore_eos_goes_on_to_the_limit(ask: Ask) -> None:
    ending = 'The end."\n\n'
    ended = ask.whole(ending, max_tokens=24, temperature=1, seed=1, logit_bias={"1": 100})
    assert (ended["choices"][0]["finish_reason"], ended["usage"]["completion_tokens"]) == ("stop", 0)
    for temperature in (0, 1):
        went_on = ask.whole(
            ending, max_tokens=5, temperature=temperature, seed=1, logit_bias={"1": 100}, ignore_eos=True
        )
        assert (went_on["choices"][0]["finish_reason"], went_on["usage"]["completion_tokens"]) == ("length", 5)


def test_max_tokens_is_exact(ask: Ask) -> None:
    for limit in (1, 3):
        answer = ask.whole(PROMPT, max_tokens=limit)
        assert answer["usage"]["completion_tokens"] == limit
        assert answer["choices"][0]["finish_reason"] == "length"


def test_the_end_of_the_context_ends_the_text_and_a_longer_prompt_is_refused(ask: Ask, daemon: Daemon) -> None:
    answer = ask.whole([2, *[818] * (CONTEXT_TOKENS - 5)], ignore_eos=True)
    assert answer["usage"] == {
        "prompt_tokens": CONTEXT_TOKENS - 4,
        "completion_tokens": 4,
        "total_tokens": CONTEXT_TOKENS,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert answer["choices"][0]["finish_reason"] == "length"
    refused = daemon.complete("acme", [818] * CONTEXT_TOKENS)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_a_chat_is_answered_and_the_template_does_not_show(daemon: Daemon) -> None:
    body = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8, "temperature": 0}
    answer = daemon.post("/v1/chat/completions", body, headers={"X-Tenant": "acme"})
    assert answer.status_code == 200
    message = answer.json()["choices"][0]["message"]
    assert message["role"] == "assistant" and message["content"].strip()
    assert "User:" not in message["content"]
