"""instructor: answers as objects, by a schema, as a forced tool and streamed."""

from __future__ import annotations

import instructor
import openai
from given import BUSY, OBJECT, REAL, Server, passed, refused
from instructor.core.exceptions import InstructorRetryException
from pydantic import BaseModel, Field

ASKED = [{"role": "user", "content": "Nice is a city in France, by the sea."}]


class Place(BaseModel):
    """A place."""

    name: str = Field(max_length=20)
    is_coastal: bool


def connect(server: Server, mode: instructor.Mode = instructor.Mode.TOOLS) -> instructor.Instructor:
    client = openai.OpenAI(base_url=server.api, api_key=server.key, max_retries=0)
    return instructor.from_openai(client, mode=mode)


def ask(client: instructor.Instructor) -> object:
    return client.chat.completions.create(
        model=REAL.model, messages=ASKED, response_model=Place, max_retries=0, **OBJECT
    )


def main() -> None:
    assert isinstance(ask(connect(REAL, instructor.Mode.JSON_SCHEMA)), Place)
    passed("schema")

    assert isinstance(ask(connect(REAL)), Place)
    passed("tool as schema")

    asked = {"model": REAL.model, "messages": ASKED, **OBJECT}
    parts = list(connect(REAL).chat.completions.create_partial(response_model=Place, **asked))
    assert len(parts) > 1 and parts[-1].name
    passed("streamed schema")

    with refused(InstructorRetryException, openai.AuthenticationError) as found:
        ask(connect(REAL._replace(key="wrong")))
    assert "401" in str(found[0])
    passed("wrong key")

    busy = connect(BUSY)
    ask(busy)
    with refused(InstructorRetryException, openai.RateLimitError) as found:
        ask(busy)
    assert "429" in str(found[0])
    passed("limit")


if __name__ == "__main__":
    main()
