"""The prompts that a text could have been sent as, to find it by its hash in the audit trail."""

from __future__ import annotations

from collections.abc import Iterable

from tenantd.domain import Tenant
from tenantd.errors import ContextLengthExceeded
from tenantd.text.chat import ChatFormatter


def possible_prompts(chat: ChatFormatter, tenant: Tenant, texts: Iterable[str]) -> list[list[int]]:
    """The tokens of each text as a plain prompt, and as the only message of a user; each with the system prompt that
    the tenant has now, and without one.

    Texts that are far too long for any context are left out. Raises InvalidRequest. May take long.
    """
    found: list[list[int]] = []
    for text in texts:
        for system_prompt in dict.fromkeys(("", tenant.system_prompt)):
            try:
                found.append(chat.prompt(text, system_prompt=system_prompt))
                if tenant.allow_special:
                    found.append(chat.prompt(text, parse_special=True, system_prompt=system_prompt))
                found.append(chat.render([{"role": "user", "content": text}], system_prompt=system_prompt))
            except ContextLengthExceeded:
                continue
    return found
