from __future__ import annotations

import jinja2
import pytest

from tenantd.text.template import ChatTemplate

HI = [{"role": "user", "content": "hi & <bye> é"}]


def rendered(source: str) -> str:
    return ChatTemplate(source, "<s>", "</s>").render(HI)


def test_templates_see_what_transformers_gives_them() -> None:
    assert rendered("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}") == "<s>hi & <bye> é</s>"
    assert rendered("{{ tools is none and add_generation_prompt }}") == "True"
    assert rendered("{{ messages[0].content | tojson }}") == '"hi & <bye> é"'
    assert rendered("{{ strftime_now('%Y') | length }}") == "4"


def test_the_extensions_of_transformers_are_there() -> None:
    assert rendered("{% for i in [1, 2, 3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "1"
    assert rendered("{% generation %}a{{ 1 }}{% endgeneration %}b") == "a1b"
    assert rendered("  {% if true %}\n  x\n  {% endif %}\ny") == "  x\ny"


def test_the_sandbox_lets_no_template_out() -> None:
    template = ChatTemplate("{{ ''.__class__.__mro__[1].__subclasses__() }}", "", "")
    with pytest.raises(Exception, match="unsafe"):
        template.render(HI)


def test_a_template_cannot_change_the_messages() -> None:
    with pytest.raises(Exception, match="unsafe"):
        ChatTemplate("{{ messages[0].update({'content': 'x'}) }}", "", "").render(HI)
    assert HI[0]["content"].startswith("hi")


def test_a_syntax_error_is_found_when_it_is_compiled() -> None:
    with pytest.raises(jinja2.TemplateSyntaxError):
        ChatTemplate("{% if %}", "", "")


def test_literals_are_what_it_writes_and_inspected_what_it_looks_for() -> None:
    template = ChatTemplate(
        "a{{ 'b' }}{% if 'c' in x or y == 'd' %}{{ z.split('e')[0] | replace('f', 'g') }}{% endif %}", "", ""
    )
    assert template.literals >= {"a", "b", "c", "d", "e", "f", "g"}
    assert template.inspected == {"c", "d", "e"}
