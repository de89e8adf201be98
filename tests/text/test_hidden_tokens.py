"""How many tokens of a prompt stand before the end of the system prompt: what nothing but the model may look at."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.text.chat import ChatFormatter
from tenantd.text.vocabulary import LlamaVocabulary
from tests.support.examples import examples
from tests.support.tiny_gguf import CHAT_TEMPLATE
from tests.text.families import FAMILIES
from tests.text.with_template import CHATML, WithTemplate

BEFORE_THE_LAST = """\
{% for m in messages if m.role == 'user' %}{% if loop.last %}{{ messages[0].content }}{% endif %}<|user|>\
{{ m.content }}{% endfor %}"""
TWICE = "{% for m in messages %}{{ m.content }}{% endfor %}{{ messages[0].content }}<|end|>"
CUTTING = "{% for m in messages %}<{{ m.content }}|>{% endfor %}<|"
TEMPLATES = [None, CHATML, CHAT_TEMPLATE, BEFORE_THE_LAST, TWICE, CUTTING, *(f.template for f in FAMILIES.values())]
policies = st.lists(st.sampled_from(["Zulu", ".", "\n", " ", "<|end|>", "<|", "é", "a"]), max_size=5).map(
    lambda parts: f"Z{''.join(parts)}q"
)
texts = st.lists(st.sampled_from(["hi", ".", "\n", " ", "<|end|>", "|>", "é"]), min_size=1, max_size=4).map("".join)
CHATS = (
    lambda own, asked: [{"role": "user", "content": asked}],
    lambda own, asked: [{"role": "system", "content": own}, {"role": "user", "content": asked}],
)


@pytest.mark.parametrize("template", TEMPLATES, ids=range(len(TEMPLATES)))
@examples(15)
@given(policy=policies, own=texts, asked=texts)
def test_they_hold_the_system_prompt_and_nothing_after_them_does(
    template: str | None, policy: str, own: str, asked: str, tiny_without_space: LlamaVocabulary
) -> None:
    vocabulary = tiny_without_space
    chat = ChatFormatter(WithTemplate(vocabulary, template))
    for make in CHATS:
        tokens, hidden, *_ = chat.conversation(make(own, asked), system_prompt=policy)
        head, rest = (b"".join(map(vocabulary.piece, part)).decode() for part in (tokens[:hidden], tokens[hidden:]))
        assert head.endswith(policy) and policy not in rest
        assert template in (BEFORE_THE_LAST, TWICE) or "hi" not in head
    assert chat.conversation(CHATS[0](own, asked)).hidden_tokens == 0
