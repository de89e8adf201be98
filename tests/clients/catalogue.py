"""The clients that `make clients` tries: what is installed for each, what is run, and which checks it is to pass."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple


class Client(NamedTuple):
    """`packages` are installed in an environment that has nothing else; the first one's version is shown. `program` is
    in `programs/`, and prints each of `checks`, in this order."""

    name: str
    kind: Literal["python", "node", "system"]
    packages: tuple[str, ...]
    program: str
    checks: tuple[str, ...]


_COMMON: Final = ("chat", "stream", "tools", "streamed tools")
_REFUSED: Final = ("wrong key", "limit")

CLIENTS: Final = (
    Client("curl", "system", ("curl",), "with_curl.sh", ("models", "chat", "stream", "tools", *_REFUSED, "waits")),
    Client(
        "LangChain",
        "python",
        ("langchain", "langchain-openai"),
        "with_langchain.py",
        (*_COMMON, "forced tool", "schema", *_REFUSED),
    ),
    Client("llm", "python", ("llm",), "with_llm.py", (*_COMMON, "schema", "wrong key", "waits")),
    Client("litellm", "python", ("litellm",), "with_litellm.py", (*_COMMON, "responses", "messages", *_REFUSED)),
    Client(
        "litellm proxy",
        "python",
        ("litellm[proxy]", "openai"),
        "with_litellm_proxy.py",
        (*_COMMON, "responses", "messages", *_REFUSED),
    ),
    Client(
        "instructor",
        "python",
        ("instructor",),
        "with_instructor.py",
        ("schema", "tool as schema", "streamed schema", *_REFUSED),
    ),
    Client(
        "Pydantic AI",
        "python",
        ("pydantic-ai-slim[openai,anthropic]",),
        "with_pydantic_ai.py",
        (*_COMMON, "schema", "responses", "messages", *_REFUSED),
    ),
    Client(
        "OpenAI Agents",
        "python",
        ("openai-agents",),
        "with_openai_agents.py",
        (*_COMMON, "schema", "responses", "streamed responses", *_REFUSED),
    ),
    Client(
        "AI SDK",
        "node",
        ("ai", "@ai-sdk/openai", "@ai-sdk/openai-compatible", "@ai-sdk/anthropic", "zod"),
        "with_ai_sdk.mjs",
        (*_COMMON, "schema", "responses", "messages", *_REFUSED),
    ),
    Client("aider", "python", ("aider-chat",), "with_aider.py", ("chat", "stream", "wrong key")),
)
