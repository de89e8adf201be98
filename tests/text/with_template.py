"""A vocabulary under another chat template, and what its tokens spell."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tenantd.text.vocabulary import Vocabulary

CHATML = """\
{% for message in messages %}{{ '<|' + message.role + '|>' + message.content + '<|end|>' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""

GEMMA = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- set role = "model" if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else "") }}
    {{- message['content'] | trim }}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\n' }}
{%- endif -%}
"""


class WithTemplate:
    """`vocabulary` as if its GGUF had this chat template."""

    def __init__(self, vocabulary: Vocabulary, chat_template: str | None) -> None:
        self._vocabulary = vocabulary
        self.chat_template = chat_template

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vocabulary, name)


def spelled(vocabulary: Vocabulary, tokens: Iterable[int]) -> str:
    """The tokens as text, special ones as a template writes them."""
    special = {token.id: token.text for token in vocabulary.special_tokens}
    return b"".join(special[t].encode() if t in special else vocabulary.piece(t) for t in tokens).decode()


def special_ids(vocabulary: Vocabulary, tokens: Iterable[int], *texts: str) -> list[int]:
    """Those of the tokens that are special (only `texts`, if given), in order."""
    wanted = {token.id for token in vocabulary.special_tokens if not texts or token.text in texts}
    return [token for token in tokens if token in wanted]
