"""Penalties for repetition tell what they have seen, so they must not see a system prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tenantd.text.vocabulary import LlamaVocabulary
from tests.support.daemon import Daemon
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
