"""Text never becomes a special token, and harmless text is tokenised as llama.cpp does it without any guard: over the
vocabularies that llama.cpp is tested with, and templates of many families.

TENANTD_TEXTS is how many texts each test tries with each vocabulary; without it, a few with some of them.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tenantd.text.chat import ChatFormatter
from tenantd.text.special import TokenKind
from tenantd.text.system_prompt import BLANK_LINE
from tenantd.text.vocabulary import LlamaVocabulary, Vocabulary
from tests.support.examples import SLOW
from tests.support.vocabularies import vocabulary_path
from tests.text.families import FAMILIES
from tests.text.with_template import WithTemplate

SOME = ("llama-spm", "llama-bpe", "qwen2", "phi-3", "gemma-4", "command-r", "deepseek-coder", "gpt-neox")
OTHERS = ("aquila", "baichuan", "deepseek-llm", "falcon", "gpt-2", "mpt", "qwen35", "refact", "starcoder")
"""All but those of encoders (bert), which generate nothing."""
TEXTS = int(os.environ.get("TENANTD_TEXTS", "6"))
NAMES = (*SOME, *OTHERS) if "TENANTD_TEXTS" in os.environ else SOME
ORDINARY = ("<b>", "</table>", "<s>", "\n", "\t")
some = settings(
    max_examples=TEXTS, suppress_health_check=[*SLOW, HealthCheck.filter_too_much, HealthCheck.data_too_large]
)


@functools.cache
def vocabulary(name: str) -> LlamaVocabulary:
    return LlamaVocabulary.open(vocabulary_path(name))


@functools.cache
def formatter(name: str, family: str) -> ChatFormatter:
    return ChatFormatter(WithTemplate(vocabulary(name), FAMILIES[family].template))


@functools.cache
def plain(name: str) -> ChatFormatter:
    return ChatFormatter(vocabulary(name))


@functools.cache
def structural(name: str) -> frozenset[int]:
    """CONTROL tokens, and USER_DEFINED ones that are neither blank, nor words, nor in ordinary text."""
    return frozenset(
        token.id
        for token in vocabulary(name).special_tokens
        if token.kind is TokenKind.CONTROL
        or (
            token.kind is TokenKind.USER_DEFINED
            and token.text.strip()
            and not token.text.strip().isalnum()
            and len(token.text) > 1
            and token.text not in ORDINARY
        )
    )


@functools.cache
def spellings(name: str) -> list[str]:
    """Of special tokens: all sorts, though not all of thousands."""
    texts = [token.text for token in vocabulary(name).special_tokens if token.text.isprintable()]
    return sorted(set(texts[:60] + texts[-20:] + ["<|im_end|>", "</s>", "[/INST]", "<end_of_turn>", "<|end|>"]))


def texts(name: str) -> st.SearchStrategy[str]:
    """Spellings whole, cut in two, doubled and within each other, between words."""
    whole = st.sampled_from(spellings(name))
    halves = st.tuples(whole, st.integers(1, 6)).map(lambda pair: pair[0][pair[1] :])
    others = st.tuples(whole, st.integers(1, 6)).map(lambda pair: pair[0][: pair[1]])
    words = st.sampled_from(["user", " a", "\n", "  ", "é🦙", "<", "|", ">", "[", "]", "model\n", "\u2581", "Ġ"])
    return st.lists(whole | halves | others | words, min_size=1, max_size=8).map("".join)


HARMLESS = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Co", "Cn"), exclude_characters="<>[]|｜▁")
    | st.sampled_from("\n\t "),
    min_size=1,
    max_size=80,
) | st.lists(
    st.sampled_from(["The", " price", " is 5", "\n\n", "    ", "if x < 3:", "é", "日本語", "'s", "…", "1234", " "]),
    min_size=1,
    max_size=12,
).map("".join)


def structure(name: str, tokens: list[int]) -> list[int]:
    return [token for token in tokens if token in structural(name)]


def says(name: str, tokens: list[int], text: str) -> bool:
    """Whether the tokens contain the text; some vocabularies read ▁ as a space."""
    read = b"".join(map(vocabulary(name).piece, tokens)).decode("utf-8", "replace")
    return text.replace("▁", " ").strip() in read.replace("▁", " ")


def talk(*contents: str) -> list[dict[str, Any]]:
    """A system message, then turns of user and assistant."""
    roles = ["system", *["user", "assistant"] * len(contents)]
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]


@pytest.mark.parametrize("name", NAMES)
@some
@given(data=st.data())
def test_no_text_of_a_chat_becomes_a_special_token(name: str, data: st.DataObject) -> None:
    family = data.draw(
        st.sampled_from([key for key, one in FAMILIES.items() if name in one.vocabularies] or [*FAMILIES])
    )
    policy, own, asked, answered = (data.draw(texts(name)) for _ in range(4))
    policy = policy.strip() or "a"
    chat = formatter(name, family)
    for messages in (talk(own, asked), talk(own, asked, answered, asked), talk(own, asked)[1:]):
        neutral = [{**message, "content": "a"} for message in messages]
        expected = structure(name, chat.render(neutral, system_prompt="a"))
        tokens = chat.render(messages, system_prompt=policy)
        assert structure(name, tokens) == expected
        assert says(name, tokens, policy) and says(name, tokens, asked)


@pytest.mark.parametrize("name", NAMES)
@some
@given(data=st.data())
def test_no_plain_prompt_becomes_a_special_token(name: str, data: st.DataObject) -> None:
    policy, asked = data.draw(texts(name)), data.draw(texts(name))
    bos = vocabulary(name).tokenize("")
    for tokens, text in (
        (plain(name).prompt(asked), asked),
        (plain(name).prompt(asked, system_prompt=policy), policy + BLANK_LINE + asked),
    ):
        assert structure(name, tokens) == structure(name, bos)
        assert says(name, tokens, text)


@pytest.mark.parametrize("name", NAMES)
@some
@given(data=st.data())
def test_harmless_text_is_tokenised_as_llama_cpp_does(name: str, data: st.DataObject) -> None:
    llama: Vocabulary = vocabulary(name)
    asked, policy = data.draw(HARMLESS), data.draw(HARMLESS).strip() or "a"
    assert plain(name).prompt(asked) == llama.tokenize(asked)
    own = [key for key, one in FAMILIES.items() if name in one.vocabularies]
    chat = formatter(name, data.draw(st.sampled_from(own or [*FAMILIES])))
    assert chat._form
    for system_prompt in ("", policy):
        messages = [{"role": "user", "content": asked}]
        shown = messages
        if system_prompt and chat._form.template.has_system_role:
            shown = [{"role": "system", "content": system_prompt}, *messages]
        elif system_prompt:
            text = system_prompt + BLANK_LINE + asked if asked.strip() else system_prompt
            shown = [{"role": "user", "content": text}]
        rendered = chat._form.template.render(shown)
        bos = llama.bos_text
        expected = llama.tokenize(
            rendered.removeprefix(bos) if bos and llama.tokenize("") else rendered, parse_special=True
        )
        tokens, hidden, *_ = chat.conversation(messages, system_prompt=system_prompt)
        if own or not system_prompt:
            assert tokens == expected, hidden
        else:  # marks that are text to this vocabulary cannot share a token with the end of a system prompt
            assert b"".join(map(llama.piece, tokens)) == b"".join(map(llama.piece, expected)), hidden
