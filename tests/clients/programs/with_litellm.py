"""litellm as a library: chats, responses and messages through its providers for OpenAI and Anthropic."""

from __future__ import annotations

import json
from typing import Any

import litellm
from given import ANSWER, BUSY, QUESTION, REAL, SCRIPTED, SHORT, WEATHER_QUESTION, Server, passed, refused, waits

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
TURN = [{"role": "user", "content": WEATHER_QUESTION}]


def at(server: Server, provider: str = "openai") -> dict[str, Any]:
    base = server.api if provider == "openai" else server.url
    return {"model": f"{provider}/{server.model}", "api_base": base, "api_key": server.key, "num_retries": 0}


def ask(server: Server, **settings: Any) -> Any:
    messages = [{"role": "user", "content": QUESTION}]
    return litellm.completion(messages=messages, max_retries=0, **at(server), **SHORT, **settings)


def calls(stream: bool, provider: str = "openai") -> bool:
    """Whether the model calls the tool, and answers to its result."""

    def complete(messages: list[Any]) -> Any:
        given = {"messages": messages, "tools": TOOLS, "stream": stream, "max_tokens": 40, **at(SCRIPTED, provider)}
        answer = litellm.completion(**given)
        return (litellm.stream_chunk_builder(list(answer)) if stream else answer).choices[0].message

    said = complete(TURN)
    [call] = said.tool_calls
    assert call.function.name == "get_weather" and json.loads(call.function.arguments) == {"city": "Paris"}
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    return complete([*TURN, said.model_dump(), result]).content == ANSWER


def main() -> None:
    whole = ask(REAL)
    assert whole.choices[0].message.content and whole.usage.completion_tokens > 0
    passed("chat")

    parts = ask(REAL, stream=True)
    assert "".join(part.choices[0].delta.content or "" for part in parts) == whole.choices[0].message.content
    passed("stream")

    assert calls(stream=False)
    passed("tools")
    assert calls(stream=True)
    passed("streamed tools")

    response = litellm.responses(input=WEATHER_QUESTION, max_output_tokens=40, **at(SCRIPTED))
    assert response.output[-1].content[0].text == ANSWER
    events = list(litellm.responses(input=WEATHER_QUESTION, stream=True, **at(SCRIPTED)))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == ANSWER
    passed("responses")

    assert calls(stream=False, provider="anthropic") and calls(stream=True, provider="anthropic")
    passed("messages")

    with refused(litellm.AuthenticationError):
        ask(REAL._replace(key="wrong"))
    passed("wrong key")

    ask(BUSY)
    with refused(litellm.RateLimitError) as found:
        ask(BUSY)
    assert waits(found[0].litellm_response_headers or found[0].response.headers)
    passed("limit")


if __name__ == "__main__":
    main()
