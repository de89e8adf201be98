"""Where turns end in the tokens of a conversation."""

from __future__ import annotations

from typing import Any

import pytest

from tenantd.text.chat import ChatFormatter
from tenantd.text.turn_ends import MOST_MARKS, turn_marks
from tenantd.text.vocabulary import ByteVocabulary, LlamaVocabulary
from tests.support.tiny_gguf import CHAT_TEMPLATE
from tests.text.with_template import CHATML, WithTemplate, spelled

TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "What is this?"},
    {"role": "assistant", "content": "A tag."},
    {"role": "user", "content": "all of <|end|> that"},
]


@pytest.mark.parametrize("template", [CHATML, CHAT_TEMPLATE])
@pytest.mark.parametrize("system_prompt", ["", "Zulu."])
def test_each_turn_ends_with_the_token_that_the_template_puts_there(
    template: str, system_prompt: str, tiny_without_space: LlamaVocabulary
) -> None:
    chat = ChatFormatter(WithTemplate(tiny_without_space, template))
    prompt = chat.conversation(TALK, system_prompt=system_prompt)
    assert len(prompt.marks) == len(TALK)
    for mark, turn in zip(prompt.marks, TALK, strict=True):
        text = spelled(tiny_without_space, prompt.tokens[:mark])
        assert text.endswith("that<|end|>" if turn is TALK[-1] else f"{turn['content']}<|end|>")


@pytest.mark.parametrize("name", ["tiny", "tiny_without_space", "gemma", "bytes"])
@pytest.mark.parametrize("system_prompt", ["", "Zulu."])
def test_a_model_without_a_template_has_turns_too(
    name: str, system_prompt: str, request: pytest.FixtureRequest
) -> None:
    vocabulary = ByteVocabulary() if name == "bytes" else request.getfixturevalue(name)
    chat = ChatFormatter(WithTemplate(vocabulary, None))
    talk = [*TALK[:-1], {"role": "user", "content": "é 🦙"}]
    prompt = chat.conversation(talk, system_prompt=system_prompt)
    assert len(prompt.marks) == len(talk)
    for mark, turn in zip(prompt.marks, talk, strict=True):
        assert b"".join(map(vocabulary.piece, prompt.tokens[:mark])).endswith(f"{turn['content']}\n".encode())


@pytest.mark.parametrize("template", [CHATML, None])
def test_a_longer_conversation_begins_with_the_same_tokens_up_to_each_mark(
    template: str | None, tiny_without_space: LlamaVocabulary
) -> None:
    chat = ChatFormatter(WithTemplate(tiny_without_space, template))
    for length in range(1, len(TALK)):
        shorter, longer = chat.conversation(TALK[:length]), chat.conversation(TALK)
        assert shorter.marks == longer.marks[:length]
        assert shorter.tokens[: shorter.marks[-1]] == longer.tokens[: shorter.marks[-1]]


def test_only_the_first_and_the_last_ones_are_kept() -> None:
    assert turn_marks([3, 1, 3]) == (1, 3)
    marks = turn_marks(range(1, 1000))
    assert len(marks) == MOST_MARKS and marks[0] == 1 and marks[1:] == tuple(range(1001 - MOST_MARKS, 1000))
