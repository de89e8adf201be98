"""Pydantic AI: agents with a tool and with an output type, over each of the three APIs."""

from __future__ import annotations

import asyncio
from typing import Any

from anthropic import AsyncAnthropic
from given import (
    ANSWER,
    BUSY,
    QUESTION,
    REAL,
    SCRIPTED,
    SHORT,
    WEATHER_QUESTION,
    Server,
    get_weather,
    passed,
    refused,
    was_asked,
)
from openai import AsyncOpenAI
from pydantic import BaseModel, Field
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider


class Place(BaseModel):
    """A place."""

    name: str = Field(max_length=20)
    is_coastal: bool


def chat_model(server: Server) -> OpenAIChatModel:
    return OpenAIChatModel(server.model, provider=_provider(server))


def responses_model(server: Server) -> OpenAIResponsesModel:
    return OpenAIResponsesModel(server.model, provider=_provider(server))


def messages_model(server: Server) -> AnthropicModel:
    client = AsyncAnthropic(base_url=server.url, api_key=server.key, max_retries=0)
    return AnthropicModel(server.model, provider=AnthropicProvider(anthropic_client=client))


def _provider(server: Server) -> OpenAIProvider:
    client = AsyncOpenAI(base_url=server.api, api_key=server.key, max_retries=0)
    return OpenAIProvider(openai_client=client)


async def agrees(model: Any) -> bool:
    """Whether an agent calls the tool and says what it then should, whole and streamed."""
    agent = Agent(model, tools=[get_weather], model_settings={"max_tokens": 40})
    whole = await agent.run(WEATHER_QUESTION)
    first = whole.output == ANSWER and was_asked()
    async with agent.run_stream(WEATHER_QUESTION) as stream:
        streamed = await stream.get_output()
    return first and streamed == ANSWER and was_asked()


async def main() -> None:
    agent = Agent(chat_model(REAL), model_settings=SHORT)
    whole = await agent.run(QUESTION)
    assert whole.output
    passed("chat")

    async with agent.run_stream(QUESTION) as stream:
        parts = [part async for part in stream.stream_text(delta=True, debounce_by=None)]
    assert len(parts) > 1 and "".join(parts) == whole.output
    passed("stream")

    assert await agrees(chat_model(SCRIPTED))
    passed("tools")
    passed("streamed tools")

    shaped = Agent(chat_model(REAL), output_type=Place, model_settings={"temperature": 0, "max_tokens": 200})
    assert isinstance((await shaped.run("Describe Paris.")).output, Place)
    passed("schema")

    assert await agrees(responses_model(SCRIPTED))
    passed("responses")
    assert await agrees(messages_model(SCRIPTED))
    passed("messages")

    with refused(ModelHTTPError) as found:
        await Agent(chat_model(REAL._replace(key="wrong"))).run(QUESTION)
    assert found[0].status_code == 401
    passed("wrong key")

    busy = Agent(chat_model(BUSY), model_settings=SHORT)
    await busy.run(QUESTION)
    with refused(ModelHTTPError) as found:
        await busy.run(QUESTION)
    assert found[0].status_code == 429
    passed("limit")


if __name__ == "__main__":
    asyncio.run(main())
