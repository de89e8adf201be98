"""Checks a system prompt against the model that is served, when an administrator sets it."""

from __future__ import annotations

import functools
from typing import Final

from tenantd.errors import InvalidRequest
from tenantd.text.chat import ChatFormatter
from tenantd.text.pool import ADMINISTRATORS, TextPool

SHORTEST_CHAT: Final = ({"role": "user", "content": "a"},)


async def check_fits(text: str, chat: ChatFormatter, pool: TextPool, context_tokens: int | None) -> None:
    """Raises InvalidRequest if the shortest chat with this system prompt leaves no room for an answer in a context
    (None: not known yet), or if the model's template does not show the system prompt."""
    work = functools.partial(chat.render, SHORTEST_CHAT, system_prompt=text)
    try:
        count = len(await pool.run(ADMINISTRATORS, work))
    except InvalidRequest as e:
        raise InvalidRequest(f"system_prompt: cannot be put before a chat: {e.message}", param="system_prompt") from e
    if context_tokens is not None and count >= context_tokens:
        raise InvalidRequest(
            f"system_prompt: the shortest chat with it has {count} tokens, but a context holds {context_tokens}; "
            "shorten it, or raise engine.context_tokens",
            param="system_prompt",
        )
