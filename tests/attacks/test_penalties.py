"""Penalties for repetition tell what they have seen, so they must not see a system prompt."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from tenantd.text.vocabulary import LlamaVocabulary
from tests.support.daemon import Daemon, wait_until
from tests.support.tiny_gguf import write_tiny_gguf

POLICY, ASKED = "xyz", "abc"


def test_they_tell_nothing_of_a_system_prompt(tmp_path: Path) -> None:
    """A penalty of 1e-4 makes a biased token that was seen win over one with twice the bias."""
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    vocabulary = LlamaVocabulary.open(path)
    hidden, asked, absent = (vocabulary.tokenize(text, add_bos=False)[-1] for text in (POLICY, ASKED, "mno"))
    engine = {"backend": "llama", "slots": 2, "context_tokens": 512, "threads": 1}
    with Daemon(tmp_path, engine=engine, model={"path": str(path)}) as daemon:
        key = daemon.add_tenant("acme", system_prompt=POLICY, system_in_completions=True)

        def chosen(token: int, route: str, **prompt: Any) -> int:
            """Which of `token` and a token that is nowhere comes first."""
            bias = {str(token): 40, str(absent): 80}
            more = {"repeat_penalty": 1e-4, "repeat_last_n": 256, "logit_bias": bias, "temperature": 0, "max_tokens": 1}
            answer = daemon.post(route, {**prompt, **more}, headers={"Authorization": f"Bearer {key}"}).json()
            choice = answer["choices"][0]
            text = choice["text"] if "text" in choice else choice["message"]["content"]
            return token if vocabulary.piece(token) == text.encode() else absent

        prompts: list[tuple[str, dict[str, Any]]] = [
            ("/v1/completions", {"prompt": ASKED}),
            ("/v1/completions", {"prompt": vocabulary.tokenize(ASKED)}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": ASKED}]}),
        ]
        for route, prompt in prompts:
            assert chosen(asked, route, **prompt) == asked, "what the tenant sent is seen"
            assert chosen(hidden, route, **prompt) == absent, "its system prompt is not"


def test_they_are_the_same_after_the_engines_death_and_after_a_swap(tmp_path: Path) -> None:
    """Two biased tokens take turns by how often each was generated; one of them fills the system prompt."""
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    vocabulary = LlamaVocabulary.open(path)
    hidden, absent = (vocabulary.tokenize(text, add_bos=False)[-1] for text in (POLICY, "mno"))
    engine = {"backend": "llama", "slots": 1, "context_tokens": 512, "threads": 1}
    asked = {"frequency_penalty": 0.3, "repeat_last_n": 512, "logit_bias": {str(hidden): 90, str(absent): 100}}
    body = {"max_tokens": 300, "ignore_eos": True, "temperature": 0, **asked}
    scheduler = {"min_run_tokens": 16}
    with Daemon(tmp_path, engine=engine, scheduler=scheduler, model={"path": str(path)}) as daemon:
        daemon.add_tenant("acme", system_prompt=POLICY * 20, system_in_completions=True)
        daemon.add_tenant("globex")

        def count(text: str) -> list[int]:
            return [text.count(vocabulary.piece(token).decode()) for token in (hidden, absent)]

        calm = daemon.stream("acme", ASKED, **body).join()
        counts = count(calm.text)
        assert sum(counts) == 300 and min(counts) > 100, "they take turns, whatever the system prompt has"
        dies = daemon.stream("acme", ASKED, **body).begun(20)
        os.kill(daemon.engine_pid(), signal.SIGKILL)
        assert dies.join().done and sum(count(dies.text)) == 300
        assert abs(count(dies.text)[0] - counts[0]) <= 2, "the last bits of logits decide between equals"
        wait_until(lambda: daemon.status()["engine_restarts"] == 1, "the engine's replacement")

        def gives_way() -> bool:
            """Whether it had to: on a machine that does much else it may end first."""
            yields = daemon.stream("acme", ASKED, **body).begun(20)
            daemon.stream("globex", "mno", max_tokens=60, ignore_eos=True).join()
            assert yields.join().done and yields.text == calm.text
            return bool(daemon.status()["swaps"] >= 1)

        wait_until(gives_way, "a swap")
