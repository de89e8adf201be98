"""Grammars as the engine gets them."""

from __future__ import annotations

import json
from typing import Any

from tenantd.text.compiler import Source, compile_grammar


def compiled(gbnf: str) -> str:
    """Of GBNF."""
    answer = compile_grammar(Source("gbnf", gbnf))
    assert not answer.error, answer.error
    return answer.grammar


def compiled_schema(schema: Any) -> str:
    """Of a JSON schema."""
    answer = compile_grammar(Source("json_schema", json.dumps(schema)))
    assert not answer.error, answer.error
    return answer.grammar
