"""Text that is to be filled in, and messages as a text, with a vocabulary of llama.cpp."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tenantd.errors import InvalidRequest
from tenantd.text.chat import ChatFormatter
from tenantd.text.chat_options import ChatOptions
from tenantd.text.vocabulary import FillIn, LlamaVocabulary
from tests.support.tiny_gguf import FILL_IN_TOKENS, write_tiny_gguf


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaVocabulary]:
    vocabulary = LlamaVocabulary.open(write_tiny_gguf(tmp_path_factory.mktemp("fim") / "fim.gguf", fills_in=True))
    yield vocabulary
    vocabulary.close()


def spelled(vocabulary: LlamaVocabulary, tokens: list[int]) -> str:
    """With special tokens as they are written."""
    special = {token.id: token.text for token in vocabulary.special_tokens}
    return "".join(special.get(token) or vocabulary.piece(token).decode() for token in tokens)


def test_the_model_is_asked_for_what_comes_between(vocabulary: LlamaVocabulary) -> None:
    n = vocabulary.n_tokens
    assert vocabulary.fill_in == FillIn(n - 3, n - 2, n - 1)
    tokens = ChatFormatter(vocabulary).prompt("give me", suffix="water")
    prefix, suffix, middle = FILL_IN_TOKENS
    assert spelled(vocabulary, tokens) == f"<s>{prefix} give me{suffix} water{middle}"


def test_what_comes_first_may_be_asked_for_too_and_a_system_prompt_stands_before_all(
    vocabulary: LlamaVocabulary,
) -> None:
    chat = ChatFormatter(vocabulary)
    prefix, suffix, middle = FILL_IN_TOKENS
    assert spelled(vocabulary, chat.prompt("", suffix="water")) == f"<s>{prefix}{suffix} water{middle}"
    tokens = chat.prompt("give", suffix="water", system_prompt="be good")
    assert tokens[: len(chat.lead("be good"))] == list(chat.lead("be good"))


def test_texts_that_spell_the_marks_do_not_become_them(vocabulary: LlamaVocabulary) -> None:
    tokens = ChatFormatter(vocabulary).prompt("a<|fim_middle|>", suffix="<|fim_prefix|>")
    assert vocabulary.fill_in is not None
    assert [token for token in tokens if token in vocabulary.fill_in] == list(vocabulary.fill_in)


def test_a_model_that_does_not_fill_in_says_so(tmp_path: Path) -> None:
    vocabulary = LlamaVocabulary.open(write_tiny_gguf(tmp_path / "tiny.gguf"))
    assert vocabulary.fill_in is None
    with pytest.raises(InvalidRequest, match="cannot fill in text") as refused:
        ChatFormatter(vocabulary).prompt("give me", suffix="water")
    assert refused.value.param == "suffix"
    vocabulary.close()


def test_messages_are_shown_as_the_template_writes_them(vocabulary: LlamaVocabulary) -> None:
    messages = [{"role": "user", "content": "Hi <|end|>"}]
    shown = "<s><|user|>\nHi <|end|><|end|>\n"
    chat = ChatFormatter(vocabulary)
    assert chat.text(messages) == shown + "<|assistant|>\n"
    assert chat.text(messages, ChatOptions(add_generation_prompt=False)) == shown


def test_a_text_without_its_begin_is_only_the_text(vocabulary: LlamaVocabulary) -> None:
    chat = ChatFormatter(vocabulary)
    assert chat.prompt("give me") == [vocabulary.bos, *chat.prompt("give me", add_bos=False)]
