"""Bodies and answers of the routes for text, with llama-server's names."""

from __future__ import annotations

from typing import Annotated, Final, TypedDict

from pydantic import FailFast, Field

from tenantd.api.names import Fields, Names
from tenantd.api.openai import tool_fields
from tenantd.api.openai.types import Messages, ToolList, check_message_names

MOST_TEXT_BYTES: Final = 512 * 1024
"""Of one text, in UTF-8: tokenising it takes about a second at most."""
MOST_TOKENS: Final = 128 * 1024

TokenId = Annotated[int, Field(ge=0, le=0x7FFFFFFF)]


class TokenizeRequest(Fields):
    """POST /tokenize."""

    content: str
    add_special: bool | None = None  # begin with the model's BOS token, if it wants one
    parse_special: bool | None = None  # the text may contain special tokens, if the tenant is allowed to send them
    with_pieces: bool | None = None
    model: str = ""


class DetokenizeRequest(Fields):
    """POST /detokenize."""

    tokens: Annotated[list[TokenId], FailFast(), Field(max_length=MOST_TOKENS)]
    model: str = ""


class ApplyTemplateRequest(Fields):
    """POST /apply-template."""

    messages: Messages = Field(min_length=1)
    tools: ToolList | None = None
    add_generation_prompt: bool | None = None
    model: str = ""

    def check_names(self, names: Names) -> None:
        check_message_names(self.messages, names)
        tool_fields.check_tools(names, self.tools)


class Piece(TypedDict):
    """A token and its text, or its bytes if they are not a text by themselves."""

    id: int
    piece: str | list[int]


class Tokens(TypedDict):
    """Token ids, or with `with_pieces` the tokens."""

    tokens: list[int | Piece]


class Content(TypedDict):
    """The text of tokens. Control tokens have none, and bytes that are not UTF-8 become U+FFFD."""

    content: str


class Templated(TypedDict):
    """The messages as the model's chat template writes them."""

    prompt: str
