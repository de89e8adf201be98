"""Converts the messages of a chat to the token ids of a prompt, such that no message can forge a turn.

1. Spellings of special tokens in contents are replaced by sentinels: digits nobody can guess. The template is rendered
   with these (so trimming and searching contents works as intended), and the sentinels become plain text again when
   the result is tokenised.
2. A spelling could still arise from parts: at the border of a content and the template's text, or because the template
   splits contents. So the template is also rendered with sentinels for whole contents, which shows the special tokens
   that it intends. If those of (1) differ, the second rendering is used, and contents are tokenised separately.
   (So contents can only affect which special tokens appear by markers that the template looks for; see Guard.)
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jinja2

from tenantd.text.chat_messages import Message, read_messages
from tenantd.text.guard import Guard, GuardedTokens
from tenantd.text.template import ChatTemplate
from tenantd.text.vocabulary import Vocabulary


class ChatFormatter:
    """Renders chats for one vocabulary. Safe to use from several threads.

    `warning` tells why chats are plain text, if the model has no usable template. `stops` are then the stop strings
    of a chat, because such a model would continue with the user's next turn.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.warning: str | None = None
        self.stops: tuple[str, ...] = ()
        self._template: ChatTemplate | None = None
        if vocabulary.chat_template is None:
            reason = "no chat template: this looks like a base model"
        else:
            try:
                self._template = ChatTemplate(vocabulary.chat_template, vocabulary.bos_text, vocabulary.eos_text)
            except jinja2.TemplateError as e:
                reason = f"invalid chat template: {e}"
        if self._template is None:
            self.warning = f'{vocabulary.name}: {reason}; chats are sent as plain "User: …" text'
            self.stops = ("\nUser:",)
        self._guard = Guard(vocabulary, self._template)

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        context_tokens: int | None = None,
        *,
        add_generation_prompt: bool = True,
    ) -> list[int]:
        """The prompt, with a BOS if the model wants one.

        Raises InvalidRequest (`messages`), ContextLengthExceeded if the prompt is far too long for `context_tokens`.
        """
        conversation = read_messages(messages)
        if self._template is None:
            return self._plain(conversation, context_tokens, add_generation_prompt)

        whole = _Sentinels()
        whole_text = self._render(conversation, lambda text, _: whole.hide_all(text), add_generation_prompt)
        structure = GuardedTokens(self._guard, context_tokens)
        for template_text, _ in whole.split(whole_text):
            structure.add_template(template_text)

        marked = _Sentinels()
        marked_text = self._render(conversation, self._hide_spellings_in(marked), add_generation_prompt)
        tokens = self._tokens(marked, marked_text, context_tokens)
        ignored = self._ignored_marks(conversation)
        if _without(tokens.trail, ignored) == _without(structure.trail, ignored):
            return tokens.ids
        return self._tokens(whole, whole_text, context_tokens).ids

    def prompt(self, text: str, context_tokens: int | None = None, *, parse_special: bool = False) -> list[int]:
        """A plain-text prompt, with a BOS if the model wants one.

        `parse_special` lets it contain any special token; otherwise it never yields one that structures a conversation.
        Raises ContextLengthExceeded if the prompt is far too long for `context_tokens`.
        """
        tokens = GuardedTokens(self._guard, context_tokens)
        if parse_special:
            tokens.add_template(text)
        else:
            tokens.add_message(text)
        return tokens.ids

    def _render(self, conversation: list[Message], hide: Callable[[str, str], str], add_generation_prompt: bool) -> str:
        assert self._template
        shown: list[dict[str, str]] = []
        for message in conversation:
            shown.append({"role": message.role, "content": hide(message.content, message.role)})
            if message.name:
                shown[-1]["name"] = hide(message.name, "user")
        return self._template.render(shown, add_generation_prompt=add_generation_prompt)

    def _hide_spellings_in(self, sentinels: _Sentinels) -> Callable[[str, str], str]:
        def hide(text: str, role: str) -> str:
            pairs = self._guard.forbidden_to(role).split(text)
            return "".join(gap + (sentinels.hide(spelling) if spelling else "") for gap, spelling in pairs)

        return hide

    def _tokens(self, sentinels: _Sentinels, rendered: str, context_tokens: int | None) -> GuardedTokens:
        tokens = GuardedTokens(self._guard, context_tokens)
        for template_text, message_text in sentinels.split(rendered):
            tokens.add_template(template_text)
            tokens.add_message(message_text)
        return tokens

    def _ignored_marks(self, conversation: list[Message]) -> frozenset[int]:
        """Special tokens that the template looks for in an assistant's turn; it may keep, move or remove them."""
        for message in conversation:
            if message.role == "assistant" and any(found for _, found in self._guard.inspected.split(message.content)):
                return self._guard.inspected_ids
        return frozenset()

    def _plain(self, conversation: list[Message], context_tokens: int | None, add_generation_prompt: bool) -> list[int]:
        lines = [f"{message.role.capitalize()}: {message.content.strip()}\n" for message in conversation]
        if add_generation_prompt:
            lines.append("Assistant:")
        tokens = GuardedTokens(self._guard, context_tokens)
        tokens.add_message("".join(lines))
        return tokens.ids


class _Sentinels:
    """Hides texts behind numbers. Digits survive what templates do to contents: trimming, changing case, JSON."""

    def __init__(self) -> None:
        self._mark = f"{secrets.randbits(128):039d}"
        self._numbers: dict[str, int] = {}

    def hide(self, text: str) -> str:
        return f"{self._mark}{self._numbers.setdefault(text, len(self._numbers)):09d}"

    def hide_all(self, text: str) -> str:
        """Hide a text without the whitespace around it, which the template may trim."""
        inner = text.strip()
        start = text.find(inner)
        return text[:start] + self.hide(inner) + text[start + len(inner) :] if inner else text

    def split(self, rendered: str) -> Iterator[tuple[str, str]]:
        """Pairs of template text and the hidden text after it; the last pair hides nothing."""
        texts = list(self._numbers)
        template_text, *rest = re.split(rf"{self._mark}(\d{{9}})", rendered)
        for number, after in zip(rest[::2], rest[1::2], strict=True):
            yield template_text, texts[int(number)]
            template_text = after
        yield template_text, ""


def _without(trail: list[int], ignored: frozenset[int]) -> list[int]:
    return [token for token in trail if token not in ignored]
