"""Converts the messages of a chat to the token ids of a prompt, and knows how the model's answers are read.

`rendering.py` keeps texts of clients from becoming special tokens.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import jinja2

from tenantd.errors import InvalidRequest
from tenantd.text import history
from tenantd.text.abilities import Abilities, abilities_of
from tenantd.text.chat_messages import Message, read_messages
from tenantd.text.chat_options import DEFAULTS, EFFORT, SWITCHES, ChatOptions, settings_for
from tenantd.text.dialects import GENERIC, HARMONY, Dialect, Opening, dialect_of, format_or_call, opening_of
from tenantd.text.guard import Guard, GuardedTokens
from tenantd.text.harmony import FINAL
from tenantd.text.image_parts import ImagePlaces
from tenantd.text.prompt import Prompt
from tenantd.text.reading import Reading
from tenantd.text.reasoning import Tags, tags_of
from tenantd.text.rendering import CONTINUE, Rendered, Rendering
from tenantd.text.special import TokenKind
from tenantd.text.system_prompt import BLANK_LINE, arrangements
from tenantd.text.template import ChatTemplate
from tenantd.text.tools import Tool, Tools
from tenantd.text.turn_ends import line_ends, turn_marks
from tenantd.text.vocabulary import Vocabulary

LEADS_KEPT: Final = 32
"""System prompts whose tokens are kept."""
MARKS_KEPT: Final = 16
"""Sets of marks whose tokens are kept; a model has two or three."""
WITHOUT_TOOLS: Final = (
    "the model's chat template does not support tools; they are described to the model as text, and it may ignore them"
)


class _Form(NamedTuple):
    """A template and what follows from it. `dialect` None: it knows of no tools, or it is unknown how that is read."""

    template: ChatTemplate
    guard: Guard
    abilities: Abilities
    dialect: Dialect | None
    tags: Tags | None


class ChatFormatter:
    """Renders chats for one vocabulary. Safe to use from several threads.

    `warning` tells why chats are plain text, if the model has no usable template. `stops` are then the stop strings
    of a chat, because such a model would continue with the user's next turn.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.warning: str | None = None
        self.stops: tuple[str, ...] = ()
        self._vocabulary = vocabulary
        self._form: _Form | None = None
        if vocabulary.chat_template is None:
            reason = "no chat template: this looks like a base model"
        else:
            try:
                self._form = self._form_of(vocabulary.chat_template)
            except jinja2.TemplateError as e:
                reason = f"invalid chat template: {e}"
        if self._form is None:
            self.warning = f'{vocabulary.name}: {reason}; chats are sent as plain "User: …" text'
            self.stops = ("\nUser:",)
        self._guard = Guard(vocabulary, None) if self._form is None else self._form.guard
        self._tool_form = self._form
        if vocabulary.tool_template is not None:
            with contextlib.suppress(jinja2.TemplateError):  # then the other one is used
                self._tool_form = self._form_of(vocabulary.tool_template)
        self.lead = functools.lru_cache(LEADS_KEPT)(self._lead)
        self._pieces = functools.lru_cache(MARKS_KEPT)(self._pieces_of)

    def _form_of(self, source: str) -> _Form:
        """Raises jinja2.TemplateError."""
        template = ChatTemplate(source, self._vocabulary.bos_text, self._vocabulary.eos_text)
        guard = Guard(self._vocabulary, template)
        return _Form(template, guard, abilities_of(template), dialect_of(source), tags_of(source))

    @property
    def reasons(self) -> bool:
        """Whether the model's template knows of reasoning."""
        return self._form is not None and (self._form.tags is not None or self._form.dialect is HARMONY)

    @property
    def has_effort(self) -> bool:
        """Whether the template has a setting for how much to reason."""
        known = frozenset() if self._form is None else self._form.template.settings
        return not known.isdisjoint((EFFORT, *SWITCHES))

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        context_tokens: int | None = None,
        *,
        system_prompt: str = "",
        options: ChatOptions = DEFAULTS,
    ) -> list[int]:
        """The tokens of `conversation`."""
        return self.conversation(messages, context_tokens, system_prompt=system_prompt, options=options).tokens

    def conversation(
        self,
        messages: Sequence[dict[str, Any]],
        context_tokens: int | None = None,
        *,
        system_prompt: str = "",
        options: ChatOptions = DEFAULTS,
        images: ImagePlaces | None = None,
    ) -> Prompt:
        """The prompt, with a BOS if the model wants one, and the system prompt of the tenant before all messages; and
        how its answers are read. `images` are those that have marks in the messages.

        Raises InvalidRequest, ContextLengthExceeded if the prompt is far too long for `context_tokens`.
        """
        conversation = read_messages(messages)
        if options.continues and (conversation[-1].role != "assistant" or conversation[-1].calls):
            raise InvalidRequest(f"{CONTINUE}: the last message must be an assistant's, without calls", param=CONTINUE)
        tools = options.tools
        listed: tuple[Tool, ...] = () if tools is None else tools.tools
        has_tools = bool(listed) or any(message.calls for message in conversation)
        form = self._tool_form if has_tools else self._form
        settings = settings_for(None if form is None else form.template, options)
        dialect: Dialect | None = None
        if has_tools:
            dialect, conversation = _shaped(form, conversation, listed)
        forced, grammar = None, None
        if dialect is not None and tools is not None and tools.forced:
            forced = opening_of(dialect, tools.forced)
            grammar = forced.grammar
        elif dialect is not None and tools is not None and options.is_constrained:
            grammar = format_or_call(dialect, listed, options.schema)
        if form is None:
            rendered = self._plain(conversation, context_tokens, system_prompt, options, images)
        else:
            rendering = Rendering(
                form.template,
                form.guard,
                form.abilities,
                options=options,
                tools=() if dialect is GENERIC else listed,
                settings=settings,
                system_prompt=system_prompt,
                context_tokens=context_tokens,
                images=images,
            )
            opened = functools.partial(_opened, form, forced, options.is_constrained)
            rendered = rendering.run(conversation, opened)
        return Prompt(
            rendered.tokens.ids,
            rendered.tokens.hidden_tokens,
            () if images else rendered.marks,
            self._reading(form, dialect, tools, rendered),
            grammar,
            WITHOUT_TOOLS if listed and dialect is GENERIC else "",
            tuple(rendered.tokens.placed),
        )

    def prompt(
        self,
        text: str,
        context_tokens: int | None = None,
        *,
        parse_special: bool = False,
        system_prompt: str = "",
        add_bos: bool = True,
        suffix: str = "",
    ) -> list[int]:
        """A plain-text prompt, with a BOS if the model wants one, and after a system prompt if there is one. Without
        `add_bos`, only the text. With a `suffix`, the model is asked for what comes between the two.

        `parse_special` lets it contain any special token; otherwise it never yields one that structures a conversation.
        Raises ContextLengthExceeded if the prompt is far too long for `context_tokens`.
        """
        start = self.lead(system_prompt) if system_prompt else None if add_bos else ()
        tokens = GuardedTokens(self._guard, context_tokens, start)
        add = tokens.add_template if parse_special else tokens.add_message
        if not suffix:
            add(text)
            return tokens.ids
        if (marks := self._guard.vocabulary.fill_in) is None:
            raise InvalidRequest(
                "suffix: this model cannot fill in text: its vocabulary has no tokens for that", param="suffix"
            )
        for mark, part in zip(marks, (text, suffix, ""), strict=True):
            tokens.add_mark(mark)
            add(part)
        return tokens.ids

    def text(self, messages: Sequence[dict[str, Any]], options: ChatOptions = DEFAULTS) -> str:
        """The messages and tools as the template writes them, without a system prompt of the tenant. Raises
        InvalidRequest (`messages`)."""
        conversation = read_messages(messages)
        form = self._form
        tools = () if options.tools is None else options.tools.tools
        if tools or any(message.calls for message in conversation):
            form = self._tool_form
            dialect, conversation = _shaped(form, conversation, tools)
            tools = () if dialect is GENERIC else tools
        if form is None:
            return "".join(_lines(conversation, options))
        rendering = Rendering(
            form.template,
            form.guard,
            form.abilities,
            options=options,
            tools=tools,
            settings={},
            system_prompt="",
            context_tokens=None,
        )
        return rendering.text(conversation)

    def _lead(self, system_prompt: str) -> tuple[int, ...]:
        """The tokens of a system prompt and a blank line, before those of a plain prompt; with a BOS if the model wants
        one. No token reaches over its end."""
        tokens = GuardedTokens(self._guard)
        tokens.add_message(system_prompt + BLANK_LINE)
        return tuple(tokens.ids)

    def _reading(
        self, form: _Form | None, dialect: Dialect | None, tools: Tools | None, rendered: Rendered
    ) -> Reading | None:
        """How answers are read; None if they are only text."""
        is_harmony = form is not None and form.dialect is HARMONY
        tags = None if form is None or is_harmony else form.tags
        if tools is None and tags is None and not is_harmony:
            return None
        calls = dialect if tools is not None else None
        marks = frozenset((*(HARMONY.marks if is_harmony else ()), *(calls.marks if calls else ()), *(tags or ())))
        return Reading(
            form=calls.form if calls else None,
            tags=tags,
            is_harmony=is_harmony,
            is_thinking=tags is not None and tags.left_open(rendered.ending),
            names=frozenset(tool.name for tool in tools.tools) if tools else frozenset(),
            most_calls=1 if tools and (tools.forced or not tools.parallel) else None,
            begun=rendered.opening,
            is_certain=bool(tools and tools.forced),
            pieces=self._pieces(marks),
        )

    def _pieces_of(self, marks: frozenset[str]) -> Mapping[int, bytes]:
        """The control tokens among `marks`, with their texts. A vocabulary has up to thousands of special tokens."""
        return {
            token.id: token.text.encode()
            for token in self._vocabulary.special_tokens
            if token.kind is TokenKind.CONTROL and token.text in marks
        }

    def _plain(
        self,
        conversation: list[Message],
        context_tokens: int | None,
        system_prompt: str,
        options: ChatOptions,
        images: ImagePlaces | None,
    ) -> Rendered:
        tokens = GuardedTokens(self._guard, context_tokens, images=images)
        lines: list[str] = []
        if system_prompt:
            own, *conversation = next(arrangements(conversation, has_system_role=True))
            tokens.add_message(f"System: {system_prompt}")
            tokens.end_system_prompt()
            lines.append(f"{BLANK_LINE}{own.content.rstrip()}\n" if own.content.strip() else "\n")
        lines += _lines(conversation, options)
        before = len(tokens.ids)
        tokens.add_message("".join(lines))
        if images is not None:
            return Rendered(tokens, ())  # nobody needs to know where turns end
        is_open = options.continues or options.add_generation_prompt
        ends = line_ends(self._guard.vocabulary, tokens.ids, before, lines[:-1] if is_open else lines)
        return Rendered(tokens, turn_marks(ends))


def _shaped(form: _Form | None, conversation: list[Message], tools: Sequence[Tool]) -> tuple[Dialect, list[Message]]:
    """How calls are written, and the conversation as the template gets it."""
    if form is not None and form.dialect is not None and form.abilities.has_calls:
        if form.abilities.has_tools or not tools:
            return form.dialect, history.native(conversation, form.abilities)
    elif form is not None and form.abilities.has_calls and not tools:
        return GENERIC, history.native(conversation, form.abilities)
    has_system_role = form is None or form.template.has_system_role
    return GENERIC, history.generic(conversation, tools, has_system_role=has_system_role)


def _opened(form: _Form, forced: Opening | None, is_constrained: bool, ending: str) -> str:
    """How the answer begins, after the `ending` of the prompt, if a grammar decides what it is: without reasoning."""
    if forced is not None:
        text = forced.text
    elif is_constrained:
        text = FINAL if form.dialect is HARMONY else ""
    else:
        return ""
    is_open = form.dialect is not HARMONY and form.tags is not None and form.tags.left_open(ending)
    return f"\n{form.tags.closing}\n\n{text}" if is_open and form.tags is not None else text


def _lines(conversation: list[Message], options: ChatOptions) -> list[str]:
    """A conversation for a model without a template."""
    lines = [f"{m.role.capitalize()}: {m.content.strip()}\n" for m in conversation]
    if options.continues:
        lines[-1] = f"Assistant: {conversation[-1].content}"
    elif options.add_generation_prompt:
        lines.append("Assistant:")
    return lines
