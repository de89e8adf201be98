"""Request ids: one format in headers, the ledger, logs and commands, and its relation to an answer's own `id`.

A request id is `req_` and 32 hexadecimal digits: 56 bits of microseconds since 1970, so ids sort by time, then 72
random bits. The `id` of an OpenAI answer has the prefix that its clients expect, then the same digits.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from typing import Final

from tenantd import clock

PREFIX: Final = "req_"
COMPLETION_PREFIX: Final = "cmpl-"
CHAT_PREFIX: Final = "chatcmpl-"
RESPONSE_PREFIX: Final = "resp_"
MESSAGE_PREFIX: Final = "msg_"
LEAST_OF_A_PART: Final = 8
RANDOM_BYTES: Final = 9
DRAWN_AT_ONCE: Final = 256
_drawn: Final[list[str]] = []  # digits that no id has yet
_PART: Final = re.compile(rf"(?:{PREFIX})?[0-9a-f]{{{LEAST_OF_A_PART},31}}")
_FORMS: Final = re.compile(
    rf"(?:{PREFIX}|{COMPLETION_PREFIX}|{CHAT_PREFIX}|{RESPONSE_PREFIX}|{MESSAGE_PREFIX})?([0-9a-f]{{32}})"
)


def new_request_id(now_micros: int | None = None) -> str:
    """A new id for a request that arrived at `now_micros` (default: now)."""
    micros = clock.now_micros() if now_micros is None else now_micros
    return f"{PREFIX}{micros & (1 << 56) - 1:014x}{_digits()}"


def _digits() -> str:
    """18 random digits, drawn for many ids at once: asking the system for each lets other threads go first."""
    try:
        return _drawn.pop()
    except IndexError:
        fresh = secrets.token_hex(RANDOM_BYTES * DRAWN_AT_ONCE)
        size = 2 * RANDOM_BYTES
        _drawn.extend(fresh[start : start + size] for start in range(size, len(fresh), size))
        return fresh[:size]


def answer_id(request_id: str, prefix: str) -> str:
    """The `id` of an answer to this request."""
    return prefix + request_id.removeprefix(PREFIX)


def request_id_in(text: str) -> str | None:
    """The request id for `text`, which may be a request id or the `id` of an answer; None for anything else."""
    found = _FORMS.fullmatch(text.strip())
    return PREFIX + found[1] if found else None


def ids_with_part(text: str, ids: Iterable[str]) -> list[str]:
    """Those request ids that begin with `text`, with or without `req_`, or end with it; none if it is too short."""
    part = text.strip()
    if not _PART.fullmatch(part):
        return []
    start = part if part.startswith(PREFIX) else PREFIX + part
    return [each for each in ids if each.startswith(start) or each.endswith(part)]


def digits_in(text: str) -> str | None:
    """The digits of a part of a request id: at least 8, with or without `req_`; None for anything else."""
    part = text.strip()
    return part.removeprefix(PREFIX) if _PART.fullmatch(part) else None
