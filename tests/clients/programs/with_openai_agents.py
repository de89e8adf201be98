"""OpenAI's Agents SDK: runs with a tool and with an output type, over chats and over responses."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import openai
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from given import (
    ANSWER,
    BUSY,
    QUESTION,
    REAL,
    SCRIPTED,
    WEATHER_QUESTION,
    Server,
    get_weather,
    passed,
    refused,
    waits,
    was_asked,
)
from pydantic import BaseModel, Field

SHORT = ModelSettings(temperature=0, max_tokens=60)
Api = type[OpenAIChatCompletionsModel] | type[OpenAIResponsesModel]


class Place(BaseModel):
    """A place."""

    name: str = Field(max_length=20)
    is_coastal: bool


def agent(server: Server, api: Api, tools: Sequence[Any] = (), output_type: type | None = None) -> Agent:
    client = openai.AsyncOpenAI(base_url=server.api, api_key=server.key, max_retries=0)
    model = api(server.model, client)
    return Agent("helper", model=model, model_settings=SHORT, tools=list(tools), output_type=output_type)


async def calls(api: Api) -> bool:
    helper = agent(SCRIPTED, api, [function_tool(get_weather)])
    return (await Runner.run(helper, WEATHER_QUESTION)).final_output == ANSWER and was_asked()


async def calls_streamed(api: Api) -> bool:
    run = Runner.run_streamed(agent(SCRIPTED, api, [function_tool(get_weather)]), WEATHER_QUESTION)
    kinds = {event.type async for event in run.stream_events()}
    return {"raw_response_event", "run_item_stream_event"} <= kinds and run.final_output == ANSWER and was_asked()


async def main() -> None:
    set_tracing_disabled(True)
    chats, responses = OpenAIChatCompletionsModel, OpenAIResponsesModel

    whole = await Runner.run(agent(REAL, chats), QUESTION)
    assert whole.final_output
    passed("chat")

    run = Runner.run_streamed(agent(REAL, chats), QUESTION)
    deltas = [e.data.delta async for e in run.stream_events() if getattr(e, "data", None) and hasattr(e.data, "delta")]
    assert "".join(deltas) == run.final_output == whole.final_output
    passed("stream")

    assert await calls(chats)
    passed("tools")
    assert await calls_streamed(chats)
    passed("streamed tools")

    shaped = await Runner.run(agent(REAL, chats, output_type=Place), "Describe Paris.")
    assert isinstance(shaped.final_output, Place)
    passed("schema")

    assert await calls(responses)
    passed("responses")
    assert await calls_streamed(responses)
    passed("streamed responses")

    with refused(openai.AuthenticationError):
        await Runner.run(agent(REAL._replace(key="wrong"), chats), QUESTION)
    passed("wrong key")

    busy = agent(BUSY, chats)
    await Runner.run(busy, QUESTION)
    with refused(openai.RateLimitError) as found:
        await Runner.run(busy, QUESTION)
    assert waits(found[0].response.headers)
    passed("limit")


if __name__ == "__main__":
    asyncio.run(main())
