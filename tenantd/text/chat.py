"""Converts the messages of a chat to the token ids of a prompt, such that no message can forge a turn.

1. Spellings of special tokens in contents are replaced by sentinels: digits nobody can guess. The template is rendered
   with these (so trimming and searching contents works as intended), and the sentinels become plain text again when
   the result is tokenised.
2. A spelling could still arise from parts: at the border of a content and the template's text, or because the template
   splits contents. So the template is also rendered with sentinels for whole contents, which shows the special tokens
   that it intends. If those of (1) differ, the second rendering is used, and contents are tokenised separately.
   (So contents can only affect which special tokens appear by markers that the template looks for; see Guard.)

The template never sees a tenant's system prompt: in both renderings it is a sentinel, and replaced by the text, without
special tokens, afterwards. So whatever the template does to contents, and whatever else is in them, it is there whole;
and no error of the template quotes it.
"""

from __future__ import annotations

import functools
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import jinja2

from tenantd.errors import InvalidRequest
from tenantd.text.chat_messages import Message, read_messages
from tenantd.text.guard import Guard, GuardedTokens
from tenantd.text.system_prompt import BLANK_LINE, Prompt, arrangements, joined
from tenantd.text.template import ChatTemplate
from tenantd.text.turn_ends import line_ends, turn_marks
from tenantd.text.vocabulary import Vocabulary

LEADS_KEPT: Final = 32
"""System prompts whose tokens are kept."""


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
        self.lead = functools.lru_cache(LEADS_KEPT)(self._lead)

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        context_tokens: int | None = None,
        *,
        system_prompt: str = "",
        add_generation_prompt: bool = True,
    ) -> list[int]:
        """The tokens of `conversation`."""
        return self.conversation(
            messages, context_tokens, system_prompt=system_prompt, add_generation_prompt=add_generation_prompt
        ).tokens

    def conversation(
        self,
        messages: Sequence[dict[str, Any]],
        context_tokens: int | None = None,
        *,
        system_prompt: str = "",
        add_generation_prompt: bool = True,
    ) -> Prompt:
        """The prompt, with a BOS if the model wants one, and the system prompt of the tenant before all messages.

        Raises InvalidRequest (`messages`), ContextLengthExceeded if the prompt is far too long for `context_tokens`.
        """
        conversation = read_messages(messages)
        if self._template is None:
            return self._plain(conversation, context_tokens, system_prompt, add_generation_prompt)

        whole = _Sentinels()
        conversation, whole_cut = self._whole(whole, conversation, system_prompt, add_generation_prompt)
        structure = GuardedTokens(self._guard, context_tokens)
        begun: list[int] = []  # for each message text, how many special tokens are before it
        for template_text, _ in whole.split("".join(whole_cut)):
            structure.add_template(template_text)
            begun.append(len(structure.trail))

        marked = _Sentinels()
        hide, lead = self._hide_spellings_in(marked), marked.hide_apart(system_prompt)
        first, rest = _cut(self._render(conversation, hide, lead, add_generation_prompt), lead)
        is_complete = bool(first) or not system_prompt
        tokens = self._tokens(marked, (first.replace(lead, hide(system_prompt, "system")), rest), context_tokens)
        ignored = self._ignored_marks(conversation)
        if not is_complete or _without(tokens.trail, ignored) != _without(structure.trail, ignored):
            tokens = self._tokens(whole, whole_cut, context_tokens)
        # A turn ends with the first special token after its text. The last count is of those before the end.
        ends = [tokens.places[count] for count in begun[:-1] if count < len(tokens.places)]
        return Prompt(tokens.ids, tokens.hidden_tokens, () if ignored else turn_marks(ends))

    def prompt(
        self,
        text: str,
        context_tokens: int | None = None,
        *,
        parse_special: bool = False,
        system_prompt: str = "",
    ) -> list[int]:
        """A plain-text prompt, with a BOS if the model wants one, and after a system prompt if there is one.

        `parse_special` lets it contain any special token; otherwise it never yields one that structures a conversation.
        Raises ContextLengthExceeded if the prompt is far too long for `context_tokens`.
        """
        tokens = GuardedTokens(self._guard, context_tokens, self.lead(system_prompt) if system_prompt else None)
        if parse_special:
            tokens.add_template(text)
        else:
            tokens.add_message(text)
        return tokens.ids

    def _lead(self, system_prompt: str) -> tuple[int, ...]:
        """The tokens of a system prompt and a blank line, before those of a plain prompt; with a BOS if the model wants
        one. No token reaches over its end."""
        tokens = GuardedTokens(self._guard)
        tokens.add_message(system_prompt + BLANK_LINE)
        return tuple(tokens.ids)

    def _whole(
        self, sentinels: _Sentinels, conversation: list[Message], system_prompt: str, add_generation_prompt: bool
    ) -> tuple[list[Message], tuple[str, str]]:
        """The conversation with the system prompt, and its rendering with sentinels for whole contents, cut at the end
        of the system prompt.

        Raises InvalidRequest if the template shows the system prompt nowhere.
        """
        assert self._template

        def hide(text: str, _: str) -> str:
            return sentinels.hide_all(text)

        if not system_prompt:
            return conversation, ("", self._render(conversation, hide, "", add_generation_prompt))
        lead = sentinels.hide_apart(system_prompt)
        for arranged in arrangements(conversation, has_system_role=self._template.has_system_role):
            text = self._render(arranged, hide, lead, add_generation_prompt)
            if lead in text:
                return arranged, _cut(text, lead)
        raise InvalidRequest(
            "messages: the model's chat template leaves out the first message of this conversation, which this server "
            "requires",
            param="messages",
        )

    def _render(
        self, conversation: list[Message], hide: Callable[[str, str], str], lead: str, add_generation_prompt: bool
    ) -> str:
        """Render with hidden contents. `lead` is what stands for the system prompt, in the message that it leads."""
        assert self._template
        shown: list[dict[str, str]] = []
        for message in conversation:
            content = hide(message.content, message.role)
            shown.append({"role": message.role, "content": joined(lead, content) if message.leads else content})
            if message.name:
                shown[-1]["name"] = hide(message.name, "user")
        return self._template.render(shown, add_generation_prompt=add_generation_prompt)

    def _hide_spellings_in(self, sentinels: _Sentinels) -> Callable[[str, str], str]:
        def hide(text: str, role: str) -> str:
            pairs = self._guard.forbidden_to(role).split(text)
            return "".join(gap + (sentinels.hide(spelling) if spelling else "") for gap, spelling in pairs)

        return hide

    def _tokens(self, sentinels: _Sentinels, cut: tuple[str, str], context_tokens: int | None) -> GuardedTokens:
        """`cut` is the rendering up to the end of the system prompt, "" without one, and the rest."""
        tokens = GuardedTokens(self._guard, context_tokens)
        for rendered, is_first in zip(cut, (True, False), strict=True):
            for template_text, message_text in sentinels.split(rendered):
                tokens.add_template(template_text)
                tokens.add_message(message_text)
            if is_first and rendered:
                tokens.end_system_prompt()
        return tokens

    def _ignored_marks(self, conversation: list[Message]) -> frozenset[int]:
        """Special tokens that the template looks for in an assistant's turn; it may keep, move or remove them."""
        for message in conversation:
            if message.role == "assistant" and any(found for _, found in self._guard.inspected.split(message.content)):
                return self._guard.inspected_ids
        return frozenset()

    def _plain(
        self,
        conversation: list[Message],
        context_tokens: int | None,
        system_prompt: str,
        add_generation_prompt: bool,
    ) -> Prompt:
        tokens = GuardedTokens(self._guard, context_tokens)
        lines: list[str] = []
        if system_prompt:
            own, *conversation = next(arrangements(conversation, has_system_role=True))
            tokens.add_message(f"System: {system_prompt}")
            tokens.end_system_prompt()
            lines.append(f"{BLANK_LINE}{own.content.rstrip()}\n" if own.content.strip() else "\n")
        lines += [f"{m.role.capitalize()}: {m.content.strip()}\n" for m in conversation]
        if add_generation_prompt:
            lines.append("Assistant:")
        before = len(tokens.ids)
        tokens.add_message("".join(lines))
        ends = line_ends(self._guard.vocabulary, tokens.ids, before, lines[:-1] if add_generation_prompt else lines)
        return Prompt(tokens.ids, tokens.hidden_tokens, turn_marks(ends))


class _Sentinels:
    """Hides texts behind numbers. Digits survive what templates do to contents: trimming, changing case, JSON."""

    def __init__(self) -> None:
        self._mark = f"{secrets.randbits(128):039d}"
        self._texts: list[str] = []
        self._known: dict[str, str] = {}

    def hide(self, text: str) -> str:
        if (sentinel := self._known.get(text)) is None:
            sentinel = self._known[text] = self.hide_apart(text)
        return sentinel

    def hide_apart(self, text: str) -> str:
        """Hide a text behind a sentinel that no other text has, even if it is the same."""
        self._texts.append(text)
        return f"{self._mark}{len(self._texts) - 1:09d}"

    def hide_all(self, text: str) -> str:
        """Hide a text without the whitespace around it, which the template may trim."""
        inner = text.strip()
        start = text.find(inner)
        return text[:start] + self.hide(inner) + text[start + len(inner) :] if inner else text

    def split(self, rendered: str) -> Iterator[tuple[str, str]]:
        """Pairs of template text and the hidden text after it; the last pair hides nothing."""
        template_text, *rest = re.split(rf"{self._mark}(\d{{9}})", rendered)
        for number, after in zip(rest[::2], rest[1::2], strict=True):
            yield template_text, self._texts[int(number)]
            template_text = after
        yield template_text, ""


def _cut(rendered: str, lead: str) -> tuple[str, str]:
    """A rendering up to the end of the last `lead`, "" if there is none, and the rest."""
    before, found, rest = rendered.rpartition(lead)
    return before + found, rest


def _without(trail: list[int], ignored: frozenset[int]) -> list[int]:
    return [token for token in trail if token not in ignored]
