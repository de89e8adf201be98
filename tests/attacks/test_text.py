"""Texts made to keep the daemon busy: too many, too long, or dear to render, tokenise and search."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.attacks.kit import unharmed
from tests.support.callbacks.watch import quick_callbacks
from tests.support.daemon import Daemon, wait_until
from tests.support.tiny_gguf import write_tiny_gguf

ATTACKERS = 3
COMPLETION, CHAT = "/v1/completions", "/v1/chat/completions"
TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def attacks() -> dict[str, tuple[str, bytes]]:
    """Where each is sent, and its body."""
    part = {"type": "text", "text": "a"}
    objects: dict[str, tuple[str, dict[str, Any]]] = {
        "empty messages": (CHAT, {"messages": [{}] * 200_000}),
        "messages": (CHAT, {"messages": TURNS * 100_000}),
        "as many messages as are allowed": (CHAT, {"messages": TURNS * 2047}),
        "messages that are none": (CHAT, {"messages": [1] * 1_000_000}),
        "a role": (CHAT, {"messages": [{"role": "r" * 30_000_000, "content": "a"}]}),
        "a name": (CHAT, {"messages": [{"role": "user", "content": "a", "name": "n" * 10_000_000}]}),
        "parts": (CHAT, {"messages": user([part] * 100_000)}),
        "as many parts as are allowed": (CHAT, {"messages": user([part] * 4096)}),
        "spellings": (CHAT, {"messages": user("<|end|><b><|user|>" * 2000)}),
        "stop strings": (COMPLETION, {"prompt": "a", "stop": ["a" * 4000 + chr(98 + n) for n in range(16)]}),
        "as long stop strings as are allowed": (
            COMPLETION,
            {"prompt": "a", "max_tokens": 60, "stop": ["a" * 255 + chr(98 + n) for n in range(16)]},
        ),
        "long prompts": (COMPLETION, {"prompt": ["word " * 1500] * 128, "timeout_s": 2}),
        "prompts of tokens": (COMPLETION, {"prompt": [[400] * 1900] * 128, "n": 8, "max_tokens": 1}),
        "a long prompt": (COMPLETION, {"prompt": "word " * 100_000}),
        "no token": (COMPLETION, {"prompt": [1, {"a": "b" * 20_000_000}]}),
        "biases": (COMPLETION, {"prompt": "a", "logit_bias": {str(n): 1000 for n in range(60_000)}}),
    }
    bodies = {name: (path, json.dumps(body).encode()) for name, (path, body) in objects.items()}
    bodies["escapes"] = (COMPLETION, b'{"prompt": "' + b"\\u00e9" * 2_500_000 + b'"}')
    bodies["digits"] = (COMPLETION, b'{"prompt": [' + b",".join([b"9" * 4000] * 3900) + b"]}")
    return bodies


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A real tokenizer and template; its loop is watched."""
    folder = tmp_path_factory.mktemp("tiny")
    engine = {"backend": "llama", "slots": 4, "context_tokens": 2048, "threads": 1}
    model = {"path": str(write_tiny_gguf(folder / "tiny.gguf"))}
    with quick_callbacks(Daemon(folder, engine=engine, model=model)) as daemon:
        yield daemon
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.log.read_text()


def test_no_text_keeps_the_loop_busy_or_a_neighbour_waiting(daemon: Daemon) -> None:
    key = daemon.add_tenant("mallory")
    tried = attacks()
    turns = itertools.cycle(tried.items())
    answers: dict[str, set[int]] = {}
    lock = threading.Lock()

    def attack() -> None:
        with daemon.client(timeout_s=120) as client:
            while watch.goes_on or len(answers) < len(tried):
                with lock:
                    name, (path, body) = next(turns)
                answer = client.post(path, content=body, headers={"Authorization": f"Bearer {key}"})
                assert len(answer.content) < 2000 or answer.status_code == 200, name
                answers.setdefault(name, set()).add(answer.status_code)

    with unharmed(daemon) as watch:
        attackers = [threading.Thread(target=attack) for _ in range(ATTACKERS)]
        for attacker in attackers:
            attacker.start()
        for attacker in attackers:
            attacker.join()
    assert answers.keys() == tried.keys()
    assert set().union(*answers.values()) <= {200, 400, 408, 429, 503}, answers
    assert answers["as long stop strings as are allowed"] == {200}


def test_a_long_system_prompt_before_many_short_prompts_keeps_nobody_waiting(daemon: Daemon) -> None:
    """`daemon` watches that the loop is not kept busy."""
    for name, size, most in (("inline", 790, 10), ("threaded", 1900, 100)):
        key = daemon.add_tenant(name, system_prompt="word " * size, system_in_completions=True)
        headers = {"Authorization": f"Bearer {key}"}
        whole = daemon.post(COMPLETION, {"prompt": ["a"] * most, "max_tokens": 1}, headers=headers)
        assert whole.status_code == 200, whole.text
        assert whole.json()["usage"]["prompt_tokens"] > most * size
        chat = daemon.post(CHAT, {"messages": user("a"), "max_tokens": 1}, headers=headers)
        assert chat.json()["usage"]["prompt_tokens"] > size


def test_a_refusal_shows_little_of_a_text_and_no_control_characters(daemon: Daemon) -> None:
    key = daemon.add_tenant("trent")
    escape = "\x1b]0;mine\x07" + "x" * 500
    for path, body in (
        (CHAT, {"messages": [{"role": escape, "content": "a"}]}),
        (CHAT, {"messages": [{"role": "user", "content": "a", "name": escape}]}),
        (COMPLETION, {"prompt": "a", "logit_bias": {escape: 1}}),
        (COMPLETION, {"prompt": [1, escape]}),
        (COMPLETION, {"prompt": "a", "model": escape}),
    ):
        answer = daemon.post(path, body, headers={"Authorization": f"Bearer {key}"})
        error = answer.json()["error"]
        assert answer.status_code in (400, 404)
        assert "\x1b" not in error["message"] and len(error["message"]) < 400
        assert (error["param"] or "").isprintable()


def test_an_answer_full_of_logprobs_that_nobody_reads_is_made_in_portions(daemon: Daemon) -> None:
    """`daemon` watches that the loop is not kept busy."""
    key, tokens = daemon.add_tenant("peggy"), 500
    body = {"messages": user("a"), "logprobs": True, "top_logprobs": 20, "max_tokens": tokens, "ignore_eos": True}
    headers = {"Authorization": f"Bearer {key}"}
    whole = daemon.post(CHAT, {**body, "n": 4}, headers=headers).json()
    for choice in whole["choices"]:
        content = choice["logprobs"]["content"]
        # The beginning of a character at the very end has no text, and so it is not in the answer.
        assert tokens - 3 <= len(content) <= tokens and len(content[0]["top_logprobs"]) == 20
    with (
        daemon.client() as client,
        client.stream("POST", CHAT, json={**body, "stream": True}, headers=headers) as answer,
    ):
        lines = answer.iter_lines()
        first = next(lines)
        wait_until(lambda: daemon.status()["running"] == 0, "an answer that nobody reads to be complete")
        events = [json.loads(line[6:]) for line in [first, *lines] if line.startswith("data: {")]
    logprobs = [choice["logprobs"] for event in events for choice in event["choices"] if choice["logprobs"]]
    assert tokens - 3 <= sum(len(one["content"]) for one in logprobs) <= tokens
