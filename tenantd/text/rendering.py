"""Renders a conversation to tokens such that no text of a client can forge a turn.

1. Spellings of special tokens in contents are replaced by sentinels: digits nobody can guess. The template is rendered
   with these (so trimming and searching contents works as intended), and the sentinels become plain text again when
   the result is tokenised.
2. A spelling could still arise from parts: at the border of a content and the template's text, or because the template
   splits contents. So the template is also rendered with sentinels for whole contents, which shows the special tokens
   that it intends. If those of (1) differ, the second rendering is used, and contents are tokenised separately.
   (So contents can only affect which special tokens appear by markers that the template looks for; see Guard.)

Contents are all texts of the client: of messages, calls, tools and settings. Only words of JSON schemas and words that
the template itself contains are shown to it in (2), because it may compare them; none that spells or brackets a token.

The template never sees a tenant's system prompt: in both renderings it is a sentinel, and replaced by the text, without
special tokens, afterwards. So whatever the template does to contents, and whatever else is in them, it is there whole;
and no error of the template quotes it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, Final, NamedTuple

from tenantd.errors import InvalidRequest
from tenantd.text.abilities import Abilities
from tenantd.text.chat_messages import Message
from tenantd.text.chat_options import ChatOptions
from tenantd.text.guard import Guard, GuardedTokens
from tenantd.text.hiding import Sentinels, hidden
from tenantd.text.history import SCHEMA_WORDS, shown_calls, shown_tools
from tenantd.text.image_parts import ImagePlaces
from tenantd.text.system_prompt import arrangements, joined
from tenantd.text.template import ChatTemplate
from tenantd.text.tools import Tool
from tenantd.text.turn_ends import turn_marks

CONTINUE: Final = "continue_final_message"


class _Hiding(ABC):
    """What a template is shown instead of the client's texts."""

    def __init__(self) -> None:
        self.sentinels = Sentinels()

    @abstractmethod
    def text(self, text: str, role: str) -> str:
        """For the content of a message."""

    @abstractmethod
    def in_json(self, text: str, role: str) -> str:
        """For a text in a JSON value."""

    def json(self, value: Any, role: str, shown: Set[str] = frozenset()) -> Any:
        """For a JSON value; texts that are `shown` stay."""
        return hidden(value, lambda text: self.in_json(text, role), shown)


class _Whole(_Hiding):
    """All of them are hidden."""

    def text(self, text: str, role: str) -> str:
        return self.sentinels.hide_all(text)

    def in_json(self, text: str, role: str) -> str:
        return self.sentinels.hide_in_json(text)


class _Marked(_Hiding):
    """Only spellings of special tokens are hidden."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self._guard = guard

    def text(self, text: str, role: str) -> str:
        pairs = self._guard.forbidden_to(role).split(text)
        return "".join(gap + (self.sentinels.hide(spelling) if spelling else "") for gap, spelling in pairs)

    in_json = text


class _Open(_Hiding):
    """They are not hidden."""

    def text(self, text: str, role: str) -> str:
        return text

    in_json = text


class Rendered(NamedTuple):
    """`ending` is what the template, or the last message that the answer continues, ends the prompt with; `opening` is
    what comes after it."""

    tokens: GuardedTokens
    marks: tuple[int, ...]
    ending: str = ""
    opening: str = ""


class Rendering:
    """How one conversation is rendered."""

    def __init__(
        self,
        template: ChatTemplate,
        guard: Guard,
        abilities: Abilities,
        *,
        options: ChatOptions,
        tools: Sequence[Tool],
        settings: Mapping[str, Any],
        system_prompt: str,
        context_tokens: int | None,
        images: ImagePlaces | None = None,
    ) -> None:
        """`tools` are those that the template is given."""
        self._template = template
        self._guard = guard
        self._abilities = abilities
        self._options = options
        self._tools = tools
        self._settings = settings
        self._system_prompt = system_prompt
        self._context_tokens = context_tokens
        self._images = images

    def run(self, conversation: list[Message], opened: Callable[[str], str]) -> Rendered:
        """Render it. `opened` tells with which text the answer begins, after the end of the prompt that it is given.

        Raises InvalidRequest, ContextLengthExceeded.
        """
        whole = _Whole()
        conversation, whole_cut = self._whole(whole, conversation)
        ending = ""
        structure = GuardedTokens(self._guard, self._context_tokens)
        begun: list[int] = []  # for each message text, how many special tokens are before it
        for template_text, _ in whole.sentinels.split("".join(whole_cut)):
            structure.add_template(template_text)
            begun.append(len(structure.trail))
            ending = template_text
        if self._options.continues:
            ending = conversation[-1].content
        opening = opened(ending)
        structure.add_template(opening)

        marked = _Marked(self._guard)
        lead = marked.sentinels.hide_apart(self._system_prompt)
        first, rest = _cut(self._render(conversation, marked, lead), lead)
        is_complete = bool(first) or not self._system_prompt
        cut = first.replace(lead, marked.text(self._system_prompt, "system")), rest
        tokens = self._tokens(marked.sentinels, cut, opening)
        ignored = self._ignored_marks(conversation)
        if not is_complete or _without(tokens.trail, ignored) != _without(structure.trail, ignored):
            tokens = self._tokens(whole.sentinels, whole_cut, opening)
        # A turn ends with the first special token after its text. The last count is of those before the end.
        ends = [tokens.places[count] for count in begun[:-1] if count < len(tokens.places)]
        return Rendered(tokens, () if ignored else turn_marks(ends), ending, opening)

    def text(self, conversation: list[Message]) -> str:
        """The conversation as the template writes it, for people to see. Raises InvalidRequest."""
        return self._render(conversation, _Open(), "")

    def _whole(self, hiding: _Hiding, conversation: list[Message]) -> tuple[list[Message], tuple[str, str]]:
        """The conversation with the system prompt, and its rendering with sentinels for whole contents, cut at the end
        of the system prompt.

        Raises InvalidRequest if the template shows the system prompt nowhere.
        """
        if not self._system_prompt:
            return conversation, ("", self._render(conversation, hiding, ""))
        lead = hiding.sentinels.hide_apart(self._system_prompt)
        for arranged in arrangements(conversation, has_system_role=self._template.has_system_role):
            text = self._render(arranged, hiding, lead)
            if lead in text:
                return arranged, _cut(text, lead)
        raise InvalidRequest(
            "messages: the model's chat template leaves out the first message of this conversation, which this server "
            "requires",
            param="messages",
        )

    def _render(self, conversation: list[Message], hiding: _Hiding, lead: str) -> str:
        """Render with hidden contents. `lead` is what stands for the system prompt, in the message that it leads."""
        shown = [self._shown(message, hiding, lead) for message in conversation]
        end = ""
        if self._options.continues:
            end = hiding.sentinels.hide_apart("")
            shown[-1]["content"] += end
        text = self._template.render(
            shown,
            add_generation_prompt=self._options.add_generation_prompt and not end,
            tools=shown_tools(self._tools, lambda value: hiding.json(value, "system", SCHEMA_WORDS)) or None,
            settings=hiding.json(self._settings, "system", self._guard.shown_words),
        )
        if not end:
            return text
        text, found, _ = text.rpartition(end)
        if not found:
            raise InvalidRequest(
                f"{CONTINUE}: the model's chat template does not show the last message", param=CONTINUE
            )
        return text

    def _shown(self, message: Message, hiding: _Hiding, lead: str) -> dict[str, Any]:
        content = hiding.text(message.content, message.role)
        shown: dict[str, Any] = {
            "role": message.role,
            "content": joined(lead, content) if message.leads else content,
        }
        if message.name:
            shown["name"] = hiding.text(message.name, "user")
        if message.calls:
            shown["tool_calls"] = shown_calls(message, self._abilities, lambda value: hiding.json(value, "assistant"))
        if message.answers:
            shown["tool_call_id"] = message.answers
        if message.reasoning and self._abilities.reasoning:
            shown[self._abilities.reasoning] = hiding.text(message.reasoning, "assistant")
        return shown

    def _tokens(self, sentinels: Sentinels, cut: tuple[str, str], opening: str) -> GuardedTokens:
        """`cut` is the rendering up to the end of the system prompt, "" without one, and the rest."""
        tokens = GuardedTokens(self._guard, self._context_tokens, images=self._images)
        for rendered, is_first in zip(cut, (True, False), strict=True):
            for template_text, message_text in sentinels.split(rendered):
                tokens.add_template(template_text)
                tokens.add_message(message_text)
            if is_first and rendered:
                tokens.end_system_prompt()
        tokens.add_template(opening)
        return tokens

    def _ignored_marks(self, conversation: list[Message]) -> frozenset[int]:
        """Special tokens that the template looks for in an assistant's turn; it may keep, move or remove them."""
        for message in conversation:
            if message.role == "assistant" and any(
                found for _, found in self._guard.inspected.split(message.content + message.reasoning)
            ):
                return self._guard.inspected_ids
        return frozenset()


def _cut(rendered: str, lead: str) -> tuple[str, str]:
    """A rendering up to the end of the last `lead`, "" if there is none, and the rest."""
    before, found, rest = rendered.rpartition(lead)
    return before + found, rest


def _without(trail: list[int], ignored: frozenset[int]) -> list[int]:
    return [token for token in trail if token not in ignored]
