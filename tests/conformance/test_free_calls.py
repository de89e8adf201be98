"""A model that calls a tool of its own accord, through real llama.cpp: what an agent does with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest

from tests.conformance.conftest import connect
from tests.support.daemon import Daemon
from tests.support.scripted_gguf import ANSWER, ARGUMENTS, TOOL, write_scripted_gguf

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Any = [{"type": "function", "function": {"name": TOOL, "parameters": PARAMETERS}}]
FORMAT: Any = {
    "type": "json_schema",
    "json_schema": {"name": "x", "schema": {"type": "object", "properties": {"sunny": {"type": "boolean"}}}},
}


def run_agent(client: openai.OpenAI, **settings: Any) -> tuple[list[str], str | None]:
    """The arguments of the call, and the answer to its result."""
    talk: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
    first = client.chat.completions.create(model="scripted", messages=talk, tools=TOOLS, **settings).choices[0]
    assert first.finish_reason == "tool_calls"
    [call] = first.message.tool_calls or []
    talk += [first.message.to_dict(), {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    with client.chat.completions.stream(model="scripted", messages=talk, tools=TOOLS) as stream:
        return [call.function.arguments], stream.get_final_completion().choices[0].message.content


def test_a_call_is_made_answered_and_told_apart_from_text(tmp_path: Path) -> None:
    model = {"path": str(write_scripted_gguf(tmp_path / "scripted.gguf"))}
    engine = {"backend": "llama", "context_tokens": 2048, "slots": 2}
    with Daemon(tmp_path, engine=engine, model=model) as daemon, connect(daemon, daemon.add_tenant("acme")) as client:
        assert run_agent(client) == ([ARGUMENTS], "".join(ANSWER))
        assert run_agent(client, response_format=FORMAT) == ([ARGUMENTS], "".join(ANSWER)), (
            "a call instead of the format"
        )
        plain = client.chat.completions.create(model="scripted", messages=[{"role": "user", "content": "Hi"}])
        assert plain.choices[0].message.content == "".join(ANSWER)
        with pytest.raises(openai.BadRequestError, match="cannot be combined with tools"):
            run_agent(client, extra_body={"grammar": 'root ::= "a"'})
