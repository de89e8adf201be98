"""Request bodies of the OpenAI routes: fields, types and ranges. As at OpenAI, null means the default.

Ranges are OpenAI's if it has the field (platform.openai.com/docs/api-reference), otherwise those that make sense for
llama.cpp's samplers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import BeforeValidator, FailFast, Field, WithJsonSchema, model_validator

from tenantd.api.names import Fields, Foreign, Names
from tenantd.api.openai import known_names, tool_fields
from tenantd.domain import SEED_VALUES, Priority, Sampling, Tier
from tenantd.errors import InvalidRequest
from tenantd.samplers import SAMPLERS
from tenantd.text.chat_messages import MOST_MESSAGES, MOST_NAME_CHARACTERS, PART_KINDS, REASONING, ROLES
from tenantd.text.chat_options import ChatOptions
from tenantd.text.grammar import GrammarSource, gbnf_source, schema_source
from tenantd.text.image_parts import DETAILS, IMAGE_PART
from tenantd.text.tools import read_tools

MESSAGE_FIELDS: Final = (
    *("role", "content", "name", "refusal", "tool_calls", "function_call", "tool_call_id"),
    *REASONING,
)
PART_FIELDS: Final = ("type", *PART_KINDS)
MAX_CHOICES: Final = 8
MAX_PROMPTS: Final = 128
MAX_STOPS: Final = 16
MAX_BIASES: Final = 1024


def _one_or_many(value: Any) -> Any:
    """A list of stop strings. Some clients send an empty string to mean none."""
    if value == "":
        return []
    return [value] if isinstance(value, str) else value


def _default_if_minus_one(value: Any) -> Any:
    """Other servers use -1 for the default."""
    return None if type(value) is int and value == -1 else value


OutputTokens = Annotated[Annotated[int, Field(ge=1, le=1 << 24)] | None, BeforeValidator(_default_if_minus_one)]
Seed = Annotated[Annotated[int, Field(ge=-(1 << 63), le=(1 << 63) - 1)] | None, BeforeValidator(_default_if_minus_one)]
TopK = Annotated[Annotated[int, Field(**SAMPLERS["top_k"].bounds)] | None, BeforeValidator(_default_if_minus_one)]


ServiceTier = Literal["auto", "default", "flex", "priority", "scale"]
"""Only `flex` changes anything; the class of a tenant is for an administrator to choose."""


def _sampler(name: str, *, bounded: bool = True) -> Any:
    """The field of a sampler. Its default is that of the configuration."""
    one = SAMPLERS[name]
    told = f"{one.help} Default: that of the server's configuration, {one.default:g} unless it is set there."
    return Field(None, description=told, **(one.bounds if bounded else {}))


def _biases_by_token(value: Any) -> Any:
    """Converts llama-server's pairs of token id and bias (false: never) to OpenAI's object."""
    if not isinstance(value, list):
        return value
    if len(value) > MAX_BIASES:
        raise ValueError(f"at most {MAX_BIASES} tokens are allowed")
    biases: dict[str, Any] = {}
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2 or type(pair[0]) is not int:
            raise ValueError("a list must hold pairs of token id and bias")
        biases[str(pair[0])] = -100 if pair[1] is False else pair[1]
    return biases


LogitBias = Annotated[
    dict[str, Annotated[float, Field(ge=-100, le=100)]],
    BeforeValidator(_biases_by_token),
    Field(json_schema_extra={"propertyNames": {"pattern": "^[0-9]{1,9}$"}, "maxProperties": MAX_BIASES}),
]
StopText = Annotated[str, Field(min_length=1, max_length=4096)]
StopTexts = Annotated[list[StopText], Field(max_length=MAX_STOPS)]
Stops = Annotated[StopTexts, BeforeValidator(_one_or_many, json_schema_input_type=StopText | StopTexts)]


_TOKENS: Final[dict[str, Any]] = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}}
_PROMPT: Final[dict[str, Any]] = {"anyOf": [{"type": "string", "minLength": 1}, _TOKENS]}
_PROMPTS: Final[dict[str, Any]] = {
    "description": "A text, token ids, or several of either",
    "anyOf": [*_PROMPT["anyOf"], {"type": "array", "minItems": 1, "maxItems": MAX_PROMPTS, "items": _PROMPT}],
}
_PARTS: Final[dict[str, Any]] = {
    "anyOf": [
        {
            "type": "object",
            "required": ["type", kind],
            "properties": {"type": {"const": kind}, kind: {"type": "string"}},
        }
        for kind in PART_KINDS
    ]
    + [
        {
            "type": "object",
            "required": ["type", IMAGE_PART],
            "properties": {
                "type": {"const": IMAGE_PART},
                IMAGE_PART: {
                    "type": "object",
                    "required": ["url"],
                    "properties": {
                        "url": {"type": "string", "description": "data:image/png;base64,… or data:image/jpeg;base64,…"},
                        "detail": {"enum": list(DETAILS)},
                    },
                },
            },
        }
    ]
}
_MESSAGE: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "role": {"enum": list(ROLES)},
        "content": {
            "description": "A text, or parts that become lines; a user's may be images; an assistant's may be null",
            "anyOf": [{"type": "string"}, {"type": "array", "items": _PARTS}],
        },
        "name": {"type": ["string", "null"], "maxLength": MOST_NAME_CHARACTERS},
        "refusal": {"type": ["string", "null"]},
        "reasoning_content": {"type": ["string", "null"], "description": "What an assistant thought before"},
        "tool_calls": {"type": ["array", "null"], "items": tool_fields.CALL},
        "tool_call_id": {"type": ["string", "null"], "description": "The call that a tool's message answers"},
    },
}
_MESSAGES: Final[dict[str, Any]] = {
    "type": "array",
    "minItems": 1,
    "maxItems": MOST_MESSAGES,
    "items": _MESSAGE,
}
ToolList = Annotated[list[Any], WithJsonSchema(tool_fields.TOOLS)]
ToolChoice = Annotated[Any, WithJsonSchema(tool_fields.TOOL_CHOICE)]
"""`read_tools` validates them."""
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Prompt = Annotated[Any, WithJsonSchema(_PROMPTS)]
"""`PromptReader` validates it: a union's errors would name fields that nobody sent."""
Messages = Annotated[list[dict[str, Any]], FailFast(), WithJsonSchema(_MESSAGES)]
"""The chat formatter validates them."""


def check_message_names(messages: list[dict[str, Any]], names: Names) -> None:
    """Check the field names of messages and their parts. Raises InvalidRequest."""
    for index, message in enumerate(messages):
        where = f"messages[{index}]."
        names.known(MESSAGE_FIELDS, known_names.MESSAGE, message, where)
        if isinstance(content := message.get("content"), list):
            for place, part in enumerate(content):
                if isinstance(part, dict) and part.get("type") in PART_KINDS:  # others are refused for their type
                    names.known(PART_FIELDS, known_names.PART, part, f"{where}content[{place}].")
                elif isinstance(part, dict) and part.get("type") == IMAGE_PART:
                    names.known(("type", IMAGE_PART), known_names.PART, part, f"{where}content[{place}].")
                    if isinstance(image := part.get(IMAGE_PART), dict):
                        names.known(("url", "detail"), {}, image, f"{where}content[{place}].{IMAGE_PART}.")
        tool_fields.check_calls(names, message.get("tool_calls"), f"{where}tool_calls")


class StreamOptions(Fields):
    """What a stream contains besides text."""

    foreign: ClassVar[Mapping[str, Foreign]] = known_names.STREAM_OPTIONS

    include_usage: bool | None = None


class JsonSchema(Fields):
    """The `json_schema` of a response format; only the schema has an effect."""

    schema_: dict[str, Any] | None = Field(None, alias="schema")
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(Fields):
    """The required format of an answer."""

    foreign: ClassVar[Mapping[str, Foreign]] = known_names.RESPONSE_FORMAT

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="before")
    @classmethod
    def _an_object_by_schema(cls, data: Any) -> Any:
        """llama-server accepts `json_object` with a schema, for `json_schema`."""
        if isinstance(data, dict) and data.get("json_schema") is not None:
            if data.get("type") == "json_object":
                return {**data, "type": "json_schema"}
            if data.get("type") == "text":
                raise ValueError("a schema needs the type json_schema")
        return data

    @model_validator(mode="after")
    def _has_its_schema(self) -> Self:
        if self.type == "json_schema" and (self.json_schema is None or self.json_schema.schema_ is None):
            raise ValueError("the type json_schema needs json_schema.schema")
        return self

    @property
    def wanted(self) -> dict[str, Any] | None:
        """What JSON must match; None if it may be any object."""
        return self.json_schema.schema_ if self.json_schema else None

    def grammar_source(self) -> GrammarSource | None:
        """The source to compile for this format; None for text. Raises InvalidRequest."""
        return None if self.type == "text" else schema_source(self.wanted)


class GenerationRequest(Fields):
    """The fields that completions and chat have in common."""

    model: str = ""
    max_tokens: OutputTokens = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    stop: Stops | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = _sampler("temperature")
    top_p: float | None = _sampler("top_p")
    top_k: TopK = _sampler("top_k", bounded=False)
    min_p: float | None = _sampler("min_p")
    typical_p: float | None = _sampler("typical_p")
    repeat_penalty: float | None = _sampler("repeat_penalty")
    repeat_last_n: int | None = _sampler("repeat_last_n")
    presence_penalty: float | None = _sampler("presence_penalty")
    frequency_penalty: float | None = _sampler("frequency_penalty")
    seed: Seed = None
    logit_bias: LogitBias | None = None
    ignore_eos: bool | None = None
    grammar: str | None = None
    response_format: ResponseFormat | None = None
    timeout_s: float | None = Field(None, gt=0, le=86_400)  # from arrival to the last token, waiting included
    service_tier: ServiceTier | None = None

    @property
    def choices(self) -> int:
        """Answers per prompt."""
        return self.n or 1

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def is_flex(self) -> bool:
        """Whether it runs in the background of its tenant's other requests."""
        return self.service_tier == "flex"

    def tier(self, priority: Priority) -> Tier | None:
        """What its tenant, of this class, gets; None if it does not ask."""
        if self.service_tier is None:
            return None
        return "flex" if self.is_flex else priority.tier

    def output_limit_tokens(self) -> int | None:
        """Maximum tokens of one choice; None for the daemon's default."""
        return self.max_tokens

    @abstractmethod
    def logprobs_wanted(self) -> int | None:
        """As `Sampling.logprobs`."""

    def sampling(self, vocabulary_tokens: int, defaults: object, grammar: str = "") -> Sampling:
        """How to sample tokens. `defaults` has samplers as the configuration's [sampling] table does; `grammar` is the
        compiled `grammar_source()`.

        Raises InvalidRequest for mistakes that can only be seen with the model's vocabulary.
        """
        chosen: dict[str, Any] = {
            name: getattr(defaults, name) if (value := getattr(self, name)) is None else value for name in SAMPLERS
        }
        return Sampling(
            **chosen,
            seed=None if self.seed is None else self.seed % SEED_VALUES,
            logit_bias=_biases(self.logit_bias or {}, vocabulary_tokens),
            logprobs=self.logprobs_wanted(),
            grammar=grammar,
            ignore_eos=bool(self.ignore_eos),
        )

    def grammar_source(self) -> GrammarSource | None:
        """The grammar or schema that the answer must match; None if there is none. Raises InvalidRequest."""
        by_format = self.response_format.grammar_source() if self.response_format else None
        if by_format and self.grammar:
            raise InvalidRequest("use either grammar or response_format, not both", param="grammar")
        return by_format or (gbnf_source(self.grammar) if self.grammar else None)

    def check(self) -> None:
        """Checks that involve more than one field. Raises InvalidRequest."""
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("stream_options: only allowed with stream", param="stream_options")


def _biases(biases: dict[str, float], vocabulary_tokens: int) -> dict[int, float]:
    if len(biases) > MAX_BIASES:
        raise InvalidRequest(
            f"logit_bias has {len(biases)} entries; at most {MAX_BIASES} are allowed", param="logit_bias"
        )
    result: dict[int, float] = {}
    for key, bias in biases.items():
        if not (key.isascii() and key.isdecimal() and len(key) < 10 and int(key) < vocabulary_tokens):
            raise InvalidRequest(
                f"logit_bias: {key[:40]!r} is not a token id of this model (0 to {vocabulary_tokens - 1})",
                param="logit_bias",
            )
        result[int(key)] = bias
    return result


class CompletionRequest(GenerationRequest):
    """POST /v1/completions."""

    foreign: ClassVar[Mapping[str, Foreign]] = known_names.COMPLETION

    prompt: Prompt
    logprobs: int | None = Field(None, ge=0, le=5)
    best_of: int | None = Field(None, ge=1)
    echo: Annotated[bool | None, WithJsonSchema({"enum": [False, None]})] = None
    suffix: str | None = None  # text after the answer, for models that fill in
    parse_special: bool | None = None  # the prompt may contain special tokens, if the tenant is allowed to send them

    def logprobs_wanted(self) -> int | None:
        return self.logprobs

    def check(self) -> None:
        super().check()
        if self.echo:
            raise InvalidRequest("echo is not supported: the prompt is not sent back", param="echo")
        if self.best_of is not None and self.best_of != self.choices:
            raise InvalidRequest("best_of is not supported; request n answers and choose one", param="best_of")


class ChatRequest(GenerationRequest):
    """POST /v1/chat/completions."""

    foreign: ClassVar[Mapping[str, Foreign]] = known_names.CHAT

    messages: Messages = Field(min_length=1)
    max_completion_tokens: OutputTokens = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: ToolList | None = None
    tool_choice: ToolChoice = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None

    def check_names(self, names: Names) -> None:
        check_message_names(self.messages, names)
        tool_fields.check_tools(names, self.tools)
        tool_fields.check_choice(names, self.tool_choice)

    def output_limit_tokens(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    def logprobs_wanted(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    def options(self) -> ChatOptions:
        """How the messages become a prompt. Raises InvalidRequest."""
        tools = read_tools(self.tools, self.tool_choice, parallel=self.parallel_tool_calls)
        has_format = self.response_format is not None and self.response_format.type != "text"
        is_constrained = bool(self.grammar) or has_format
        if tools is not None and self.grammar:
            raise InvalidRequest(
                "grammar: cannot be combined with tools; set tool_choice to 'none' for an answer that matches it",
                param="grammar",
            )
        return ChatOptions(
            tools,
            self.chat_template_kwargs or {},
            self.reasoning_effort,
            continues=bool(self.continue_final_message),
            is_constrained=is_constrained,
            schema=None if self.response_format is None else self.response_format.wanted,
            add_generation_prompt=self.add_generation_prompt is not False,
        )

    def check(self) -> None:
        super().check()
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest("top_logprobs: only allowed with logprobs", param="top_logprobs")
        if self.continue_final_message and self.add_generation_prompt:
            raise InvalidRequest(
                "add_generation_prompt: must be false with continue_final_message", param="add_generation_prompt"
            )
