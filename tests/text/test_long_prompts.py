"""Prompts that are far too long are refused before they are tokenised whole."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tenantd.api.openai.prompts import SLICE_CHARACTERS, PromptReader
from tenantd.api.openai.types import ChatRequest
from tenantd.config import ImagesConfig
from tenantd.errors import ContextLengthExceeded
from tenantd.text.chat import ChatFormatter
from tenantd.text.images import Images
from tenantd.text.pool import TextPool
from tenantd.text.prompt import Prompt
from tenantd.text.vocabulary import ByteVocabulary, LlamaVocabulary
from tests.text.with_template import GEMMA, WithTemplate

CONTEXT_TOKENS = 10_000


class Counting(WithTemplate):
    """Remembers how much it was given."""

    characters = 0

    def tokenize(self, text: str, **options: Any) -> list[int]:
        self.characters += len(text)
        return self._vocabulary.tokenize(text, **options)


@pytest.mark.parametrize("is_chat", [False, True])
def test_of_a_text_far_too_long_only_the_beginning_is_tokenised(gemma: LlamaVocabulary, is_chat: bool) -> None:
    vocabulary, pool = Counting(gemma, GEMMA), TextPool()
    reader = PromptReader(vocabulary, ChatFormatter(vocabulary), pool, Images(ImagesConfig()))
    text = "word " * 90_000  # by its bytes it might fit
    assert len(text) < CONTEXT_TOKENS * vocabulary.longest_piece_bytes
    before = vocabulary.characters
    with pytest.raises(ContextLengthExceeded, match=r"at least 1[0-9]{4} tokens"):
        if is_chat:
            reader.conversation(ChatRequest(messages=[{"role": "user", "content": text}]), CONTEXT_TOKENS)
        else:
            reader.prompts(text, CONTEXT_TOKENS)
    assert vocabulary.characters - before <= 2 * SLICE_CHARACTERS
    pool.close()


def test_a_text_of_long_tokens_that_fits_is_taken_whole(gemma: LlamaVocabulary) -> None:
    pool = TextPool()
    reader = PromptReader(gemma, ChatFormatter(gemma), pool, Images(ImagesConfig()))
    text = "\n" * 200_000  # 31 to a token
    assert reader.prompts(text, CONTEXT_TOKENS) == [Prompt(gemma.tokenize(text))]
    pool.close()


@pytest.mark.parametrize("as_object", [False, True])
def test_arguments_of_calls_count_however_they_are_sent(as_object: bool) -> None:
    vocabulary, pool = ByteVocabulary(), TextPool()
    reader = PromptReader(vocabulary, ChatFormatter(vocabulary), pool, Images(ImagesConfig()))
    arguments: Any = {"a": [{'"' * (CONTEXT_TOKENS + 1): 1}]}
    function = {"name": "look", "arguments": arguments if as_object else json.dumps(arguments)}
    calls = [{"type": "function", "id": "1", "function": function}]
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": calls}]
    with pytest.raises(ContextLengthExceeded, match="at least"):
        reader.conversation(ChatRequest(messages=messages), CONTEXT_TOKENS)
    pool.close()
