"""LangChain: a chat model, an agent with a tool, and structured output."""

from __future__ import annotations

from typing import Any

import openai
from given import (
    ANSWER,
    BUSY,
    OBJECT,
    QUESTION,
    REAL,
    SCRIPTED,
    SHORT,
    WEATHER_QUESTION,
    Server,
    get_weather,
    passed,
    refused,
    waits,
    was_asked,
)
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field


class Place(BaseModel):
    """A place."""

    name: str = Field(max_length=20)
    is_coastal: bool


def chat_model(server: Server, **settings: Any) -> ChatOpenAI:
    given = {"base_url": server.api, "api_key": server.key, "model": server.model, **SHORT, **settings}
    return ChatOpenAI(max_retries=0, **given)


def main() -> None:
    model = chat_model(REAL)
    whole = model.invoke(QUESTION)
    assert whole.content and whole.usage_metadata["output_tokens"] > 0
    passed("chat")

    chunks = list(model.stream(QUESTION, stream_usage=True))
    assert "".join(chunk.content for chunk in chunks) == whole.content
    assert sum((chunk.usage_metadata or {}).get("output_tokens", 0) for chunk in chunks) > 0
    passed("stream")

    agent = create_agent(chat_model(SCRIPTED), [get_weather])
    answer = agent.invoke({"messages": [("user", WEATHER_QUESTION)]})
    assert answer["messages"][-1].content == ANSWER and was_asked()
    passed("tools")

    kinds = [
        type(message).__name__
        for message, _ in agent.stream({"messages": [("user", WEATHER_QUESTION)]}, stream_mode="messages")
    ]
    assert {"AIMessageChunk", "ToolMessage"} <= set(kinds) and was_asked()
    passed("streamed tools")

    talkative = chat_model(REAL, **OBJECT)
    forced = talkative.bind_tools([Place], tool_choice="any").invoke(WEATHER_QUESTION)
    assert isinstance(forced.tool_calls[0]["args"]["is_coastal"], bool)
    passed("forced tool")

    place = talkative.with_structured_output(Place).invoke("Describe Paris as JSON.")
    assert isinstance(place, Place)
    passed("schema")

    with refused(openai.AuthenticationError):
        chat_model(REAL._replace(key="wrong")).invoke(QUESTION)
    passed("wrong key")

    busy = chat_model(BUSY)
    busy.invoke(QUESTION)
    with refused(openai.RateLimitError) as found:
        busy.invoke(QUESTION)
    assert waits(found[0].response.headers)
    passed("limit")


if __name__ == "__main__":
    main()
