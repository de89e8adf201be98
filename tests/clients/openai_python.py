"""What a program does with the official Python client: whole and streamed, sync and async, parsed, with tools, refused.

Run as a program, with `TENANTD_URL` or `TENANTD_SOCKET`, the key in `TENANTD_API_KEY`, and a second key in `BUSY_KEY`
that may ask once a minute. The model's weights are random, so it only checks what holds for any of them. Prints what it
checked, one a line.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pydantic

from tests.support.openai_http import on_socket, on_socket_async

SOCKET = os.environ.get("TENANTD_SOCKET", "")
URL = os.environ.get("TENANTD_URL", "http://tenantd") + "/v1"
MODEL = "tiny"
MESSAGES: Any = [{"role": "user", "content": "Look at the sky and at the sea."}]
ENDLESS: dict[str, Any] = {"max_tokens": 12, "seed": 1, "extra_body": {"ignore_eos": True}}


class Look(pydantic.BaseModel):
    """Looks at something."""

    at: Literal["sky", "sea"]
    twice: bool


def settings(key: str) -> dict[str, Any]:
    return {"base_url": URL, "api_key": os.environ[key], "max_retries": 0}


def connect(key: str = "TENANTD_API_KEY") -> openai.OpenAI:
    """On the socket if there is one."""
    return openai.OpenAI(**settings(key), **({"http_client": on_socket(Path(SOCKET))} if SOCKET else {}))


def connect_async() -> openai.AsyncOpenAI:
    http = {"http_client": on_socket_async(Path(SOCKET))} if SOCKET else {}
    return openai.AsyncOpenAI(**settings("TENANTD_API_KEY"), **http)


def helpers(client: openai.OpenAI) -> Any:
    """Where `parse` and `stream` are: of beta before 1.92."""
    return client.chat.completions if hasattr(client.chat.completions, "parse") else client.beta.chat.completions


def plain(client: openai.OpenAI) -> Iterator[str]:
    """Models, and an answer that is the same whole and streamed."""
    assert [model.id for model in client.models.list()] == [MODEL]
    yield "models"
    whole = client.chat.completions.create(model=MODEL, messages=MESSAGES, **ENDLESS)
    assert whole.usage is not None and whole.usage.completion_tokens == 12
    yield "chat"
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    *parts, last = client.chat.completions.create(model=MODEL, messages=MESSAGES, **usage, **ENDLESS)  # type: ignore[call-overload]
    assert "".join(part.choices[0].delta.content or "" for part in parts) == whole.choices[0].message.content
    assert last.usage == whole.usage
    yield "chat streamed"
    text = client.completions.create(model=MODEL, prompt="Once", **ENDLESS).choices[0].text
    with client.completions.create(model=MODEL, prompt="Once", stream=True, **ENDLESS) as stream:
        assert "".join(chunk.choices[0].text for chunk in stream) == text
    yield "completion"


def structured(client: openai.OpenAI) -> Iterator[str]:
    """The helpers of the client: schemas made of classes, tools, and streams that are put together."""
    asked: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "max_tokens": 200, "seed": 1}
    parsed = helpers(client).parse(**asked, response_format=Look)
    assert isinstance(parsed.choices[0].message.parsed, Look)
    yield "parse"
    with helpers(client).stream(**asked, response_format=Look) as stream:
        kinds = {event.type for event in stream}
        assert {"content.delta", "content.done"} <= kinds
        assert stream.get_final_completion().choices[0].message.parsed == parsed.choices[0].message.parsed
    yield "stream helper"
    tools: Any = {"tools": [openai.pydantic_function_tool(Look)], "tool_choice": "required"}
    message = helpers(client).parse(**asked, **tools).choices[0].message
    [call] = message.tool_calls
    assert isinstance(call.function.parsed_arguments, Look)
    yield "tools"
    with helpers(client).stream(**asked, **tools) as stream:
        assert "tool_calls.function.arguments.done" in {event.type for event in stream}
        [again] = stream.get_final_completion().choices[0].message.tool_calls
        assert again.function.parsed_arguments == call.function.parsed_arguments
    yield "tools streamed"
    function = {"name": call.function.name, "arguments": call.function.arguments}
    said: Any = {"role": "assistant", "tool_calls": [{"id": call.id, "type": "function", "function": function}]}
    result = {"role": "tool", "tool_call_id": call.id, "content": "blue"}
    answer = client.chat.completions.create(model=MODEL, messages=[*MESSAGES, said, result], **ENDLESS)
    assert answer.choices[0].finish_reason == "length"
    yield "tool result"


def refused(client: openai.OpenAI) -> Iterator[str]:
    """Errors as classes of the client, and when to come back."""
    stranger = client.with_options(api_key="wrong")
    for error, asking, ask in (
        (openai.BadRequestError, client, {"temperature": 3}),
        (openai.NotFoundError, client, {"model": "gpt-4"}),
        (openai.AuthenticationError, stranger, {}),
    ):
        try:
            asking.chat.completions.create(**{"model": MODEL, "messages": MESSAGES, "max_tokens": 1, **ask})
        except error as e:
            assert e.message
        else:
            raise AssertionError(f"not refused: {ask}")
    yield "errors"
    with connect("BUSY_KEY") as busy:
        try:
            for _ in range(2):
                busy.completions.create(model=MODEL, prompt="x", max_tokens=1)
            raise AssertionError("its limit did not hold")
        except openai.RateLimitError as e:
            assert e.code == "requests_per_minute_exceeded"
            assert 1 <= int(e.response.headers["retry-after"]) <= 60
    yield "retry-after"


async def asynchronous() -> str:
    async with connect_async() as client:
        asked: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, **ENDLESS}
        answers = await asyncio.gather(*(client.chat.completions.create(**asked) for _ in range(8)))
        [text] = {answer.choices[0].message.content for answer in answers}
        stream = await client.chat.completions.create(stream=True, **asked)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == text
    return "async"


if __name__ == "__main__":
    with connect() as one:
        for group in (plain, structured, refused):
            for checked in group(one):
                print(checked)
    print(asyncio.run(asynchronous()))
