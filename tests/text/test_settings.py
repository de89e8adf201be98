"""Settings that a client hands to a chat template (`chat_template_kwargs`) never become special tokens."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tenantd.errors import InvalidRequest
from tenantd.text.chat import ChatFormatter
from tenantd.text.chat_options import ChatOptions
from tenantd.text.special import SpecialToken, TokenKind
from tenantd.text.template import ChatTemplate
from tenantd.text.vocabulary import ByteVocabulary
from tests.support.vocabularies import template
from tests.text.with_template import WithTemplate

MARK = re.compile(r"<\|[^|<>\s]+\|>|\[/?[A-Z_]+\]")
FAMILIES = ("meta-llama-Llama-3.1-8B-Instruct", "openai-gpt-oss-120b", "Qwen-Qwen3-0.6B")
PRINTS = (
    "{{- '<|system|>\\n' + (date_string or 'x') + (builtin_tools or []) | join(', ') + '<|end|>\\n' }}"
    "{%- if mood == 'gl' + 'ad' %}glad{% endif %}{%- set broken = '<|' %}"
    "{%- for message in messages %}{{ '<|' + message.role + '|>' + message.content + '<|end|>\\n' }}{% endfor %}"
    "{{- '<|assistant|>\\n' }}"
)


class Marked(ByteVocabulary):
    """Bytes, and a control token for each mark that a template has."""

    def __init__(self, text: str) -> None:
        marks = sorted({*MARK.findall(text), "<|user|>"})
        self.special_tokens = tuple(SpecialToken(300 + at, mark, TokenKind.CONTROL) for at, mark in enumerate(marks))
        self.n_tokens = 300 + len(marks)

    def piece(self, token: int) -> bytes:
        return b"" if token >= 256 else super().piece(token)


def marks(chats: ChatFormatter, settings: dict[str, Any]) -> list[int] | str:
    """The control tokens of a prompt; the error if the template does not take the settings."""
    try:
        prompt = chats.conversation(
            [{"role": "user", "content": "hi"}], 100_000, options=ChatOptions(settings=settings), system_prompt="Rule"
        )
    except InvalidRequest as e:
        return type(e).__name__
    return [token for token in prompt.tokens if token >= 300]


@pytest.mark.parametrize("name", ["prints", *FAMILIES])
def test_a_setting_that_repeats_the_template_s_own_marks_is_text(name: str) -> None:
    text = PRINTS if name == "prints" else template(name)
    chats = ChatFormatter(WithTemplate(Marked(text), text))
    read = ChatTemplate(text, "", "")
    spelling = [literal for literal in read.literals if MARK.search(literal)]
    assert spelling and read.settings
    for setting in sorted(read.settings):
        for literal in [*spelling, "<|", "|>"]:
            for as_sent in (lambda value: value, lambda value: [value, "own", value], lambda value: {value: value}):
                assert marks(chats, {setting: as_sent(literal)}) == marks(chats, {setting: as_sent("zq")}), (
                    setting,
                    literal,
                )
