"""What every program here is given, and how it reports: one line for each check that passed.

A program runs in an environment that has only its client. There are two servers: one with a real model, and one whose
model is scripted: it calls `get_weather` of its own accord, for Paris, and says ANSWER to the result and to any chat
without tools. Each has a key, and the real one a second key that may ask once a minute.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple


class Server(NamedTuple):
    """`api` is the base URL of OpenAI's clients."""

    url: str
    key: str
    model: str

    @property
    def api(self) -> str:
        return f"{self.url}/v1"


def _server(name: str) -> Server:
    return Server(*(os.environ[f"{name}_{what}"] for what in ("URL", "KEY", "MODEL")))


REAL = _server("REAL")
SCRIPTED = _server("SCRIPTED")
BUSY = REAL._replace(key=os.environ["BUSY_KEY"])
QUESTION = "Write one sentence about the sea."
WEATHER_QUESTION = "What is the weather in Paris?"
ANSWER = "It is sunny in Paris."
SHORT: dict[str, Any] = {"temperature": 0, "max_tokens": 40}
OBJECT: dict[str, Any] = {"temperature": 0, "max_tokens": 200}
asked: list[str] = []
"""The cities that the tool was asked for."""


def get_weather(city: str) -> str:
    """The weather in a city."""
    asked.append(city)
    return "sunny"


def was_asked() -> bool:
    """Whether the tool was called, once, for Paris; the next check begins anew."""
    cities = asked.copy()
    asked.clear()
    return cities == ["Paris"]


def passed(check: str) -> None:
    print(check, flush=True)


@contextmanager
def refused(*errors: type[BaseException]) -> Iterator[list[BaseException]]:
    """What is in the block must raise one of these; it is then in the list."""
    found: list[BaseException] = []
    try:
        yield found
    except errors as e:
        found.append(e)
    else:
        raise AssertionError(f"nothing was raised; one of {errors} was to be")


def waits(headers: Any) -> bool:
    """Whether a refusal says how long to wait: at most the minute that clients believe."""
    return 1 <= int(headers["retry-after"]) <= 60 and 0 < int(headers["retry-after-ms"]) <= 60_000
