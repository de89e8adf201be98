"""Renders the chat template of a GGUF: Jinja in a sandbox, as Transformers does it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tenantd.errors import InvalidRequest
from tenantd.text.excerpt import clean

MOST_REASON_CHARACTERS: Final = 300
"""Maximum length of a template's error message, which could quote all messages."""
_PROBE: Final = "314159265358979"
NO_SETTINGS: Final[Mapping[str, Any]] = {}
_NOT_SETTINGS: Final = {"messages", "tools", "add_generation_prompt"}


class TemplateRefused(Exception):
    """The template called `raise_exception`, because the messages do not suit the model."""


class _GenerationTag(jinja2.ext.Extension):
    """`{% generation %}` marks text for training; here its content is simply rendered."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

    def parse(self, parser: Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """One compiled template.

    `literals` are the texts that it consists of; `inspected` those that it compares contents with or searches for.
    `has_system_role` tells whether it shows a system message before the user's first. `settings` are the variables that
    it reads besides those that every template is given.
    """

    def __init__(self, source: str, bos_text: str, eos_text: str) -> None:
        """Raises jinja2.TemplateSyntaxError."""
        environment = _environment()
        self.source = source
        self._template = environment.from_string(source)
        self._context: dict[str, Any] = {
            "bos_token": bos_text,
            "eos_token": eos_text,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
            "documents": None,
        }
        tree = environment.parse(source)
        self.literals = _constants([tree])
        self.inspected = _constants(tree.find_all((jinja2.nodes.Compare, jinja2.nodes.Call)))
        self.settings = frozenset(jinja2.meta.find_undeclared_variables(tree)) - self._context.keys() - _NOT_SETTINGS
        self._wants_parts = self._finds_only_parts()
        self.has_system_role = self._shows_system()

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[dict[str, Any]] | None = None,
        settings: Mapping[str, Any] = NO_SETTINGS,
    ) -> str:
        """Render `messages` (role, content, and what else the template reads). `tools` and `settings` are given to it,
        too. Raises InvalidRequest with the template's message."""
        try:
            return self._render(messages, self._wants_parts, add_generation_prompt, tools, settings)
        except TemplateRefused as e:
            reason = clean(str(e), MOST_REASON_CHARACTERS)
            raise InvalidRequest(
                f"messages: refused by the model's chat template: {reason}", param="messages"
            ) from None
        except Exception as e:  # a template is a program and can fail in any way
            reason = clean(f"{type(e).__name__}: {e}", MOST_REASON_CHARACTERS)
            raise InvalidRequest(f"messages: the model's chat template failed: {reason}", param="messages") from e

    def render_as_is(self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> str:
        """As `render`. Raises whatever the template does."""
        return self._render(messages, self._wants_parts, True, tools, NO_SETTINGS)

    def _render(
        self,
        messages: Sequence[dict[str, Any]],
        as_parts: bool,
        add_generation_prompt: bool,
        tools: Sequence[dict[str, Any]] | None = None,
        settings: Mapping[str, Any] = NO_SETTINGS,
    ) -> str:
        shown: list[dict[str, Any]] = [dict(message) for message in messages]
        if as_parts:
            for message in shown:
                message["content"] = [{"type": "text", "text": message["content"]}]
        context = {**settings, **self._context, "tools": tools}
        return self._template.render(messages=shown, add_generation_prompt=add_generation_prompt, **context)

    def _finds_only_parts(self) -> bool:
        """Whether the template ignores contents unless they are lists of parts (as for some vision models)."""
        messages = [{"role": "user", "content": _PROBE}]
        return not self._shows_probe(messages, as_parts=False) and self._shows_probe(messages, as_parts=True)

    def _shows_system(self) -> bool:
        """Whether the template shows a system message; some refuse one, and some leave it out."""
        messages = [{"role": "system", "content": _PROBE}, {"role": "user", "content": "a"}]
        return self._shows_probe(messages, self._wants_parts)

    def _shows_probe(self, messages: Sequence[dict[str, str]], as_parts: bool) -> bool:
        try:
            return _PROBE in self._render(messages, as_parts, True)
        except Exception:  # render() will report the error for real messages
            return False


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    return environment


def _constants(nodes: Any) -> frozenset[str]:
    """The string constants and template text under `nodes`."""
    found: set[str] = set()
    for node in nodes:
        for leaf in node.find_all((jinja2.nodes.Const, jinja2.nodes.TemplateData)):
            value = leaf.value if isinstance(leaf, jinja2.nodes.Const) else leaf.data
            if isinstance(value, str):
                found.add(value)
    return frozenset(found)


def _raise_exception(message: str) -> None:
    raise TemplateRefused(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON filter that, unlike Jinja's, escapes nothing for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
