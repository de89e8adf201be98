"""A tenant's system prompt: what it may be, and where it stands in a chat.

The server puts it first. It becomes one message with the system message that the request begins with, if there is one:
the system prompt, a blank line, and the request's own text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from tenantd.errors import InvalidRequest
from tenantd.text.chat_messages import Message

MOST_BYTES: Final = 65_536
"""Every request with a system prompt tokenises it, so its length is bounded as that of any text is."""
BLANK_LINE: Final = "\n\n"
"""Between a system prompt and the text after it."""


def checked_system_prompt(text: str) -> str:
    """A system prompt without the whitespace around it. Raises InvalidRequest (`system_prompt`)."""
    if len(text) > MOST_BYTES:  # without encoding it
        raise _refused(f"has {len(text)} characters; at most {MOST_BYTES} bytes are allowed")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as e:
        raise _refused(f"not valid Unicode: lone surrogate U+{ord(text[e.start]):04X} at character {e.start}") from None
    if size > MOST_BYTES:
        raise _refused(f"has {size} bytes; at most {MOST_BYTES} are allowed")
    if (place := text.find("\0")) >= 0:
        raise _refused(f"must not contain a NUL character (at character {place})")
    return text.strip()


def arrangements(conversation: Sequence[Message], *, has_system_role: bool) -> Iterator[list[Message]]:
    """Ways to put the system prompt first, the best one first: each has one message that `leads`.

    It goes into the system message that the request begins with. For a template that shows only one, and not the first,
    it goes into one with all system messages of the request. For a template that shows none, it goes into a message of
    the user, with those, and with the user's message that comes first. A message that leads has no name: nothing of the
    request stands before it.
    """
    own = [message for message in conversation[:1] if message.role == "system"]
    others = list(conversation[len(own) :])
    texts = [message.content for message in own]
    if has_system_role:
        yield [Message("system", joined(*texts), leads=True), *others]
        texts += [message.content for message in others if message.role == "system"]
        others = [message for message in others if message.role != "system"]
        yield [Message("system", joined(*texts), leads=True), *others]
    if others and others[0].role == "user":
        texts.append(others.pop(0).content)
    yield [Message("user", joined(*texts), leads=True), *others]


def joined(*texts: str) -> str:
    """Texts with a blank line between them, without those that are blank."""
    return BLANK_LINE.join(text for text in texts if text.strip())


def _refused(reason: str) -> InvalidRequest:
    return InvalidRequest(f"system_prompt: {reason}", param="system_prompt")
