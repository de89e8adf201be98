"""litellm's proxy in front of tenantd, asked by OpenAI's client and over HTTP."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
from given import ANSWER, BUSY, QUESTION, REAL, SCRIPTED, SHORT, WEATHER_QUESTION, Server, passed, refused
from with_litellm import TOOLS, TURN

START_TIMEOUT_S = 400.0
MASTER_KEY = f"sk-{secrets.token_hex(32)}"


def entry(name: str, server: Server, provider: str = "openai") -> dict[str, Any]:
    base = server.api if provider == "openai" else server.url
    given = {"model": f"{provider}/{server.model}", "api_base": base, "api_key": server.key, "max_retries": 0}
    return {"model_name": name, "litellm_params": given}


@contextmanager
def proxy() -> Iterator[str]:
    """The URL of one that serves both models, and the real one with a wrong key and with one at its limit."""
    config = {
        "model_list": [
            entry("real", REAL),
            entry("scripted", SCRIPTED),
            entry("anthropic", SCRIPTED, "anthropic"),
            entry("wrong", REAL._replace(key="wrong")),
            entry("busy", BUSY),
        ],
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
        "general_settings": {"master_key": MASTER_KEY},
    }
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.yaml")
        path.write_text(json.dumps(config))  # JSON is YAML
        program = Path(sys.executable).with_name("litellm")
        command = [str(program), "--config", str(path), "--host", "127.0.0.1", "--port", str(port)]
        with subprocess.Popen(command, cwd=folder) as process:
            try:
                wait_for(f"http://127.0.0.1:{port}/health/liveliness", process)
                yield f"http://127.0.0.1:{port}"
            finally:
                process.terminate()


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline_s, pause = time.monotonic() + START_TIMEOUT_S, threading.Event()
    while time.monotonic() < deadline_s:
        assert process.poll() is None, "the proxy has ended"
        try:
            if httpx.get(url, trust_env=False).is_success:
                return
        except httpx.TransportError:
            pause.wait(0.2)
    raise AssertionError("the proxy did not start")


def calls(client: openai.OpenAI, model: str) -> bool:
    """Whether the model calls the tool, and answers to its result."""
    given: dict[str, Any] = {"model": model, "tools": TOOLS, "max_tokens": 40}
    said = client.chat.completions.create(messages=TURN, **given).choices[0].message
    [call] = said.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    messages = [*TURN, said.model_dump(exclude_none=True), result]
    return client.chat.completions.create(messages=messages, **given).choices[0].message.content == ANSWER


def check(url: str) -> None:
    client = openai.OpenAI(base_url=url, api_key=MASTER_KEY, max_retries=0)
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTION}], **SHORT}
    whole = client.chat.completions.create(model="real", **asked)
    assert whole.choices[0].message.content and whole.usage.completion_tokens > 0
    passed("chat")

    parts = client.chat.completions.create(model="real", stream=True, **asked)
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == whole.choices[0].message.content
    passed("stream")

    assert calls(client, "scripted")
    passed("tools")
    with client.chat.completions.stream(model="scripted", messages=TURN, tools=TOOLS) as stream:
        [call] = stream.until_done().get_final_completion().choices[0].message.tool_calls
    assert call.function.name == "get_weather" and json.loads(call.function.arguments) == {"city": "Paris"}
    passed("streamed tools")

    assert client.responses.create(model="scripted", input=WEATHER_QUESTION).output_text == ANSWER
    passed("responses")

    assert calls(client, "anthropic")
    body = {"model": "anthropic", "max_tokens": 40, "messages": TURN}
    headers = {"Authorization": f"Bearer {MASTER_KEY}"}
    answer = httpx.post(f"{url}/v1/messages", json=body, headers=headers, timeout=60, trust_env=False)
    message = answer.raise_for_status().json()
    assert message["content"][0]["text"] == ANSWER
    passed("messages")

    with refused(openai.AuthenticationError):
        client.chat.completions.create(model="wrong", **asked)
    passed("wrong key")

    client.chat.completions.create(model="busy", **asked)
    with refused(openai.RateLimitError):
        client.chat.completions.create(model="busy", **asked)
    passed("limit")


if __name__ == "__main__":
    with proxy() as where:
        check(where)
