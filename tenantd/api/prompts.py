"""From what a client sent to token ids, without ever holding up the event loop for a large text."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any, Final

from tenantd.api.openai_types import ChatRequest
from tenantd.errors import ContextLengthExceeded, InvalidRequest
from tenantd.text.chat import ChatFormatter
from tenantd.text.vocabulary import Vocabulary

MAX_PROMPTS: Final = 128
INLINE_CHARACTERS: Final = 4096
"""Longer texts are tokenised in a thread (llama.cpp runs without the GIL there)."""


class PromptReader:
    """Turns prompts into tokens for one vocabulary."""

    def __init__(self, vocabulary: Vocabulary, chat: ChatFormatter) -> None:
        self._vocabulary = vocabulary
        self._chat = chat

    async def completions(self, prompt: Any, context_tokens: int) -> list[list[int]]:
        """The prompts of a completion request, at least one. Raises InvalidRequest, ContextLengthExceeded."""
        if isinstance(prompt, str):
            return [await self._text(prompt, context_tokens)]
        if not isinstance(prompt, list) or not prompt:
            raise _bad_prompt("must be a text, a list of token ids, or a list of either, and not empty")
        if isinstance(prompt[0], int):
            return [self._tokens(prompt, context_tokens)]
        if len(prompt) > MAX_PROMPTS:
            raise _bad_prompt(f"at most {MAX_PROMPTS} prompts in one request")
        result: list[list[int]] = []
        for one in prompt:
            if isinstance(one, str):
                result.append(await self._text(one, context_tokens))
            elif isinstance(one, list):
                result.append(self._tokens(one, context_tokens))
            else:
                raise _bad_prompt("a list of prompts holds texts or lists of token ids")
        return result

    async def chat(self, request: ChatRequest, context_tokens: int) -> list[int]:
        """The rendered conversation. Raises InvalidRequest, ContextLengthExceeded."""
        size = sum(_text_bytes(message.get(key)) for message in request.messages for key in ("content", "refusal"))
        self._check_length(size, context_tokens)
        work = functools.partial(self._chat.render, request.messages)
        return await _off_loop_if(size > INLINE_CHARACTERS, work)

    async def _text(self, text: str, context_tokens: int) -> list[int]:
        if not text:
            raise _bad_prompt("must not be empty")
        self._check_length(_utf8_bytes(text), context_tokens)
        return await _off_loop_if(
            len(text) > INLINE_CHARACTERS, functools.partial(self._vocabulary.tokenize, text, add_bos=True)
        )

    def _tokens(self, tokens: list[Any], context_tokens: int) -> list[int]:
        if not tokens:
            raise _bad_prompt("must not be empty")
        if len(tokens) > context_tokens:
            raise ContextLengthExceeded.of(len(tokens), context_tokens)
        limit = self._vocabulary.n_tokens
        for token in tokens:
            if type(token) is not int or not 0 <= token < limit:
                raise _bad_prompt(f"{str(token)[:40]} is not a token id of this model (0 to {limit - 1})")
        return tokens

    def _check_length(self, size_bytes: int, context_tokens: int) -> None:
        """A token is at most the longest piece, so a text of megabytes is refused without tokenising it."""
        at_least = size_bytes // self._vocabulary.longest_piece_bytes
        if at_least > context_tokens:
            raise ContextLengthExceeded.of(at_least, context_tokens, at_least=True)


async def _off_loop_if(large: bool, work: Callable[[], list[int]]) -> list[int]:
    return await asyncio.to_thread(work) if large else work()


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _text_bytes(content: Any) -> int:
    """What a message's content holds at least, whether or not it is well formed."""
    if isinstance(content, str):
        return _utf8_bytes(content)
    if isinstance(content, list):
        return sum(_text_bytes(part.get("text")) for part in content if isinstance(part, dict))
    return 0


def _bad_prompt(reason: str) -> InvalidRequest:
    return InvalidRequest(f"prompt: {reason}", param="prompt")
