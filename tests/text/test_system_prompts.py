"""A tenant's system prompt in chats and plain prompts: always there, always first, always text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.errors import InvalidRequest
from tenantd.text.chat import ChatFormatter
from tenantd.text.chat_messages import Message
from tenantd.text.system_prompt import MOST_BYTES, arrangements, checked_system_prompt
from tenantd.text.vocabulary import ByteVocabulary, LlamaVocabulary
from tests.support.examples import examples
from tests.support.tiny_gguf import CHAT_TEMPLATE
from tests.text.families import FAMILIES
from tests.text.with_template import CHATML, WithTemplate, special_ids, spelled

POLICY = "Be  kind.\nAlways."
NO_SYSTEM = "{% for m in messages if m.role in ('user', 'assistant') %}<|user|>{{ m.content }}<|end|>{% endfor %}"
LAST_SYSTEM = """\
{% set ns = namespace(system='') %}{% for m in messages if m.role == 'system' %}{% set ns.system = m.content %}\
{% endfor %}{{ ns.system }}{% for m in messages if m.role == 'user' %}<|user|>{{ m.content }}{% endfor %}"""
LOOKING = """\
{% for m in messages if 'quiet' not in m.content %}<|user|>\
{{ m.content.split('</think>')[-1].replace('kind', 'rude')[:200] }}<|end|>{% endfor %}"""


def user(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def system(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "system", "content": content, **more}


def shown(vocabulary: Any, template: str | None, messages: list[dict[str, Any]], policy: str = POLICY) -> str:
    formatter = ChatFormatter(WithTemplate(vocabulary, template))
    return spelled(vocabulary, formatter.render(messages, system_prompt=policy))


# ---- where it stands --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([user("hi")], f"<|system|>{POLICY}<|end|><|user|>hi<|end|>"),
        ([system("Be brief."), user("hi")], f"<|system|>{POLICY}\n\nBe brief.<|end|><|user|>hi<|end|>"),
        ([{**system("Be brief."), "role": "developer"}], f"<|system|>{POLICY}\n\nBe brief.<|end|>"),
        ([system(""), user("")], f"<|system|>{POLICY}<|end|><|user|><|end|>"),
        ([system(" \n "), user("hi")], f"<|system|>{POLICY}<|end|><|user|>hi<|end|>"),
        ([system([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}])],
         f"<|system|>{POLICY}\n\none\ntwo<|end|>"),
        ([system("a"), system("b"), user("hi")],
         f"<|system|>{POLICY}\n\na<|end|><|system|>b<|end|><|user|>hi<|end|>"),
        ([user("hi"), system("b")], f"<|system|>{POLICY}<|end|><|user|>hi<|end|><|system|>b<|end|>"),
        ([{"role": "assistant", "content": "yes"}], f"<|system|>{POLICY}<|end|><|assistant|>yes<|end|>"),
    ],
)  # fmt: skip
def test_it_is_one_message_with_the_one_that_the_request_begins_with(
    messages: list[dict[str, Any]], expected: str, tiny_without_space: LlamaVocabulary
) -> None:
    assert shown(tiny_without_space, CHATML, messages) == f"<s>{expected}<|assistant|>"


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([user("hi"), user("more")], f"<|user|>{POLICY}\n\nhi<|end|><|user|>more<|end|>"),
        ([system("Be brief."), user("hi")], f"<|user|>{POLICY}\n\nBe brief.\n\nhi<|end|>"),
        ([system("Be brief."), user(" ")], f"<|user|>{POLICY}\n\nBe brief.<|end|>"),
        (
            [{"role": "assistant", "content": "yes"}, user("hi")],
            f"<|user|>{POLICY}<|end|><|user|>yes<|end|><|user|>hi<|end|>",
        ),
        ([system("Be brief.")], f"<|user|>{POLICY}\n\nBe brief.<|end|>"),
        ([{"role": "tool", "content": "1"}], f"<|user|>{POLICY}<|end|>"),
    ],
)
def test_a_template_without_a_system_role_gets_it_before_the_first_message_of_the_user(
    messages: list[dict[str, Any]], expected: str, tiny_without_space: LlamaVocabulary
) -> None:
    assert shown(tiny_without_space, NO_SYSTEM, messages) == f"<s>{expected}"


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([user("hi")], f"{POLICY}<|user|>hi"),
        ([system("Be brief."), user("hi")], f"{POLICY}\n\nBe brief.<|user|>hi"),
        ([system("a"), system("b"), user("hi")], f"{POLICY}\n\na\n\nb<|user|>hi"),
        ([system(""), {**system("b"), "role": "developer"}, user("hi")], f"{POLICY}\n\nb<|user|>hi"),
        ([user("hi"), system("b")], f"{POLICY}\n\nb<|user|>hi"),
        ([user("hi"), system("")], f"{POLICY}<|user|>hi"),
    ],
)
def test_a_template_that_shows_the_last_system_message_gets_one(
    messages: list[dict[str, Any]], expected: str, tiny_without_space: LlamaVocabulary
) -> None:
    assert shown(tiny_without_space, LAST_SYSTEM, messages) == f"<s>{expected}"


def test_a_template_that_shows_no_message_cannot_answer(tiny: LlamaVocabulary) -> None:
    with pytest.raises(InvalidRequest, match="leaves out the first message") as e:
        shown(tiny, "<|user|>{{ messages[-1].content }}", [user("hi"), user("more")])
    assert e.value.param == "messages" and POLICY not in e.value.message


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_of_templates_shows_it_once_and_first(name: str, tiny_without_space: LlamaVocabulary) -> None:
    family = FAMILIES[name]
    formatter = ChatFormatter(WithTemplate(tiny_without_space, family.template))
    assert formatter._form and formatter._form.template.has_system_role == (family.system == "shown")
    for messages in ([user("hi")], [system("Be brief."), user("hi")]):
        text = spelled(tiny_without_space, formatter.render(messages, system_prompt=POLICY))
        assert text.count(POLICY) == 1 and text.index(POLICY) < text.index("hi")
        if len(messages) == 2:
            assert f"{POLICY}\n\nBe brief." in text
    talk = [user("hi"), {"role": "assistant", "content": "yes"}, user("more"), {"role": "assistant", "content": "no"}]
    assert spelled(tiny_without_space, formatter.render(talk, system_prompt=POLICY)).count(POLICY) == 1


def test_a_model_without_a_template_reads_it_first(tiny_without_space: LlamaVocabulary) -> None:
    text = shown(tiny_without_space, None, [system("Be brief."), user("hi")])
    assert text == f"<s>System: {POLICY}\n\nBe brief.\nUser: hi\nAssistant:"
    assert shown(ByteVocabulary(), None, [user("hi")]).endswith(f"System: {POLICY}\nUser: hi\nAssistant:")


def test_no_name_stands_before_it(tiny_without_space: LlamaVocabulary) -> None:
    named = "{% for m in messages %}{{ m.name }}:{{ m.content }}{% endfor %}"
    assert shown(tiny_without_space, named, [system("a", name="Ignore")]) == f"<s>:{POLICY}\n\na"
    assert shown(tiny_without_space, named, [user("a", name="bob")]) == f"<s>:{POLICY}bob:a"
    for one in arrangements([Message("user", "a", "bob")], has_system_role=False):
        assert one == [Message("user", "a", leads=True)]


# ---- nothing removes or changes it ------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["</think>", "quiet", "kind", "a </think> b", "x" * 100])
@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_a_template_that_looks_into_contents_leaves_it_alone(
    role: str, content: str, tiny_without_space: LlamaVocabulary
) -> None:
    text = shown(tiny_without_space, LOOKING, [{"role": role, "content": content}], "Be kind </think>, quiet.")
    assert text.startswith("<s><|user|>Be kind </think>, quiet.")


def test_a_message_that_repeats_it_does_not_stand_for_it(tiny_without_space: LlamaVocabulary) -> None:
    text = shown(tiny_without_space, NO_SYSTEM, [{"role": "assistant", "content": POLICY}, user(POLICY)])
    assert text == f"<s><|user|>{POLICY}<|end|><|user|>{POLICY}<|end|><|user|>{POLICY}<|end|>"


def test_no_message_of_a_template_quotes_it(tiny: LlamaVocabulary) -> None:
    for template in (
        "{{ raise_exception('cannot use ' + messages[0].content) }}",
        "{{ {}[messages[0].content] }}",
        "{{ messages[0].content + 1 }}",
        "{% for m in messages %}{{ m.content }}{% if m.content == 'hi' %}{{ raise_exception(messages[0].content) }}"
        "{% endif %}{% endfor %}",
    ):
        with pytest.raises(InvalidRequest) as e:
            shown(tiny, template, [user("hi")])
        assert not any(word in e.value.message for word in POLICY.split())


# ---- it is text -------------------------------------------------------------------------------------------------

SHARDS = [
    "<|",
    "|>",
    "<|e",
    "nd|>",
    "end",
    "<",
    ">",
    "<|end|>",
    "<|user|>",
    "<|note|>",
    "<s>",
    "</s>",
    "<tool>",
    "a",
    " ",
]
texts = st.lists(st.sampled_from(SHARDS), min_size=1, max_size=5).map("".join)
CUTTING = "{% for m in messages %}<{{ m.content }}|>{{ m.content | trim }}{% endfor %}<|"


@pytest.mark.parametrize("template", [CHATML, CHAT_TEMPLATE, NO_SYSTEM, CUTTING, None], ids=str)
@examples(60)
@given(policy=texts.filter(str.strip), own=texts, asked=texts)
def test_it_forms_no_special_token_alone_or_with_what_stands_beside_it(
    template: str | None, policy: str, own: str, asked: str, tiny_without_space: LlamaVocabulary
) -> None:
    vocabulary = tiny_without_space
    formatter = ChatFormatter(WithTemplate(vocabulary, template))
    marks = ["<s>", "</s>", "<unk>", "<|user|>", "<|end|>", "<|assistant|>", "<|system|>", "<|note|>"]
    policy = policy.strip()
    for messages in ([user(asked)], [system(own), user(asked)]):
        neutral = [{**message, "content": "a"} for message in messages]
        expected = special_ids(vocabulary, formatter.render(neutral, system_prompt="a"), *marks)
        tokens = formatter.render(messages, system_prompt=policy)
        assert special_ids(vocabulary, tokens, *marks) == expected
        assert policy in b"".join(map(vocabulary.piece, tokens)).decode()


@given(policy=texts.filter(str.strip), asked=texts)
@examples(60)
def test_before_a_plain_prompt_it_is_text_too(policy: str, asked: str, tiny_without_space: LlamaVocabulary) -> None:
    vocabulary, policy = tiny_without_space, policy.strip()
    formatter = ChatFormatter(vocabulary)
    tokens = formatter.prompt(asked, system_prompt=policy)
    assert special_ids(vocabulary, tokens, "<s>", "</s>", "<|user|>", "<|end|>", "<|note|>", "<tool>") == [
        vocabulary.bos
    ]
    assert b"".join(map(vocabulary.piece, tokens)).decode() == f"{policy}\n\n{asked}"
    lead = formatter.lead(policy)
    assert tuple(tokens[: len(lead)]) == lead
    special = formatter.prompt(asked, parse_special=True, system_prompt=policy)
    assert tuple(special[: len(lead)]) == lead, "even for a tenant whose prompts may contain special tokens"


# ---- bad input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a\0b", r"NUL character \(at character 1\)"),
        ("a\ud800", r"lone surrogate U\+D800 at character 1"),
        ("é" * (MOST_BYTES // 2 + 1), f"has {MOST_BYTES + 2} bytes; at most {MOST_BYTES} are allowed"),
    ],
)
def test_what_it_may_not_be_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=f"system_prompt: .*{reason}") as e:
        checked_system_prompt(text)
    assert e.value.param == "system_prompt"


def test_it_is_kept_without_the_whitespace_around_it() -> None:
    assert checked_system_prompt("\n Be kind.\n\n") == "Be kind."
    assert checked_system_prompt(" \n") == checked_system_prompt("") == ""
    assert len(checked_system_prompt("a" * MOST_BYTES)) == MOST_BYTES
