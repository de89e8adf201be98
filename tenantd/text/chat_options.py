"""What a chat request says besides its messages about how it becomes a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from tenantd.errors import InvalidRequest
from tenantd.text.excerpt import excerpt
from tenantd.text.template import NO_SETTINGS, ChatTemplate
from tenantd.text.tools import Tools, check_json

MOST_SETTINGS: Final = 16
MOST_SETTINGS_BYTES: Final = 4096
EFFORT: Final = "reasoning_effort"
SWITCHES: Final = ("enable_thinking", "thinking")
"""What templates call the switch for reasoning."""
FIELD: Final = "chat_template_kwargs"


class ChatOptions(NamedTuple):
    """`settings` are for the template; `effort` is how much to reason. With `continues` the answer goes on with the
    last message. `is_constrained`: a grammar of the client decides what the answer is. `schema` is its JSON schema, if
    that is for answers which are no calls; None is any object."""

    tools: Tools | None = None
    settings: Mapping[str, Any] = NO_SETTINGS
    effort: str | None = None
    continues: bool = False
    is_constrained: bool = False
    schema: Mapping[str, Any] | None = None
    add_generation_prompt: bool = True


DEFAULTS: Final = ChatOptions()


def settings_for(template: ChatTemplate | None, options: ChatOptions) -> Mapping[str, Any]:
    """What the template is given. Raises InvalidRequest for what it does not read."""
    known = frozenset() if template is None else template.settings
    settings = options.settings
    if settings:
        if len(settings) > MOST_SETTINGS:
            raise InvalidRequest(f"{FIELD}: at most {MOST_SETTINGS} are allowed", param=FIELD)
        check_json(settings, FIELD, most_bytes=MOST_SETTINGS_BYTES)
        for name in settings:
            if name not in known:
                reads = ", ".join(sorted(known)) or "none"
                raise InvalidRequest(
                    f"{FIELD}: the model's chat template does not read {excerpt(name)}; it reads: {reads}", param=FIELD
                )
    if options.effort is None:
        return settings
    if EFFORT in known:
        return {EFFORT: options.effort, **settings}
    switch = next((name for name in SWITCHES if name in known), None)
    if switch is None:
        raise InvalidRequest(f"{EFFORT}: the model's chat template has no setting for it", param=EFFORT)
    return {switch: options.effort != "none", **settings}
