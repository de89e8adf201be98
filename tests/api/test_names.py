"""Names of fields: none is dropped in silence, whatever server its sender has in mind."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from tenantd.api.anthropic import blocks, message_input
from tenantd.api.anthropic import types as anthropics
from tenantd.api.names import Foreign, Parts, Refused, Same, Taken
from tenantd.api.openai import known_names
from tenantd.api.openai.types import ChatRequest, CompletionRequest, GenerationRequest
from tenantd.api.responses import items, response_input, types
from tenantd.text.compiler import Source, compile_grammar
from tests.api.conftest import Api, serve

CHAT: Any = {"messages": [{"role": "user", "content": "Hi"}]}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
BY_SCHEMA = {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}}
BY_CHOICE = {"grammar": 'root ::= "yes" | "no \\"or\\\\so\\""'}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    yield from serve(tmp_path_factory.mktemp("api"))


@pytest.fixture(scope="module")
def lenient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    yield from serve(tmp_path_factory.mktemp("lenient"), {"server": {"lenient": True}})


def refused(api: Api, param: str, says: str = "", *, chat: bool = False, **body: Any) -> None:
    before = len(api.service.streams)
    answer = api.chat(**{**CHAT, **body}) if chat else api.completion(**{"prompt": "Hi", **body})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param), error
    assert error["message"].startswith(param) and says in error["message"]
    assert len(api.service.streams) == before


def settings(api: Api, **body: Any) -> Any:
    """What reaches the engine."""
    answer = api.completion(**{"prompt": "Hi", "max_tokens": 3, **body})
    assert answer.status_code == 200, answer.text
    generation = api.service.generations[-1]
    return generation.max_tokens, generation.sampling


# ---- other names for what there is --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"repetition_penalty": 1.2}, {"repeat_penalty": 1.2}),
        ({"rep_pen": 1.2}, {"repeat_penalty": 1.2}),
        ({"max_tokens": None, "n_predict": 2}, {"max_tokens": 2}),
        ({"max_tokens": None, "num_predict": -1}, {"max_tokens": None}),
        ({"max_tokens": None, "max_new_tokens": 2}, {"max_tokens": 2}),
        ({"max_tokens": None, "max_completion_tokens": 2}, {"max_tokens": 2}),
        ({"random_seed": 7}, {"seed": 7}),
        ({"typical": 0.5}, {"typical_p": 0.5}),
        ({"seed": -1}, {}),
        ({"guided_json": SCHEMA}, BY_SCHEMA),
        ({"guided_json": json.dumps(SCHEMA)}, BY_SCHEMA),
        ({"json_schema": SCHEMA}, BY_SCHEMA),
        ({"structured_outputs": {"json": SCHEMA, "regex": None, "disable_fallback": True}}, BY_SCHEMA),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, BY_SCHEMA),
        ({"response_format": {"type": "json_schema", "schema": SCHEMA}}, BY_SCHEMA),
        ({"response_format": {"type": "json_object", "json_schema": {"schema": SCHEMA}}}, BY_SCHEMA),
        ({"structured_outputs": {"json_object": True}}, {"response_format": {"type": "json_object"}}),
        ({"structured_outputs": {"json_object": False}}, {}),
        ({"guided_grammar": 'root ::= "a"'}, {"grammar": 'root ::= "a"'}),
        ({"ebnf": 'root ::= "a"'}, {"grammar": 'root ::= "a"'}),
        ({"structured_outputs": {"grammar": 'root ::= "a"'}}, {"grammar": 'root ::= "a"'}),
        ({"guided_choice": ["yes", 'no "or\\so"']}, BY_CHOICE),
        ({"structured_outputs": {"choice": ["yes", 'no "or\\so"']}}, BY_CHOICE),
        ({"logit_bias": [[65, 5], [66, False]]}, {"logit_bias": {"65": 5, "66": -100}}),
        ({"repetition_penalty": 1.2, "repeat_penalty": 1.2}, {"repeat_penalty": 1.2}),
        ({"repetition_penalty": None, "repeat_penalty": 1.2}, {"repeat_penalty": 1.2}),
        ({"repetition_penalty": 1.2, "repeat_penalty": None}, {"repeat_penalty": 1.2}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_another_servers_name_sets_the_same(api: Api, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    assert settings(api, **theirs) == settings(api, **ours)
    if ours and None not in theirs.values() and None not in ours.values():
        assert settings(api, **ours) != settings(api), "it does something"


@pytest.mark.parametrize("choices", [["yes", "yes no", "no"], ['a"b', "c\\d", "é🦙", "]", "x\ny\tz", "$(1)|/*"]])
def test_the_choices_and_nothing_else_are_allowed(choices: list[str]) -> None:
    choice = known_names.SETTINGS["guided_choice"]
    assert isinstance(choice, Same)
    compiled = compile_grammar(Source("gbnf", choice.convert(choices)))
    assert not compiled.error

    def ends_with(text: str) -> bool:
        matcher = LLMatcher(LLTokenizer("byte"), compiled.grammar)
        return matcher.consume_tokens(list(text.encode())) and matcher.is_accepting()

    assert all(map(ends_with, choices))
    assert not any(ends_with(choice + "!") or ends_with("!" + choice) for choice in choices)
    assert not any(ends_with(choice[:-1]) for choice in choices)


def test_two_names_for_one_setting_must_agree(api: Api) -> None:
    refused(api, "repetition_penalty", "repeat_penalty", repetition_penalty=1.1, repeat_penalty=1.2)
    refused(api, "max_new_tokens", "n_predict", n_predict=1, max_new_tokens=2)
    refused(api, "guided_json", "response_format", guided_json={}, response_format={"type": "text"})
    refused(api, "guided_choice", "not both", guided_choice=["a"], guided_json=SCHEMA)


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"n_predict": "many"}, "n_predict", "must be a whole number"),
        ({"n_predict": -2}, "n_predict", "must be at least"),
        ({"repetition_penalty": 0}, "repetition_penalty", "must be more than 0"),
        ({"guided_json": 5}, "guided_json", "object"),
        ({"guided_json": "{"}, "guided_json", "not valid JSON"),
        ({"guided_json": "[" * 60_000}, "guided_json", "not valid JSON"),
        ({"json_schema": {"type": 5}}, "json_schema", ""),
        ({"structured_outputs": {"json": 5}}, "structured_outputs.json", "object"),
        ({"structured_outputs": []}, "structured_outputs", "object"),
        ({"structured_outputs": {"regex": "a+"}}, "structured_outputs.regex", "grammar"),
        ({"structured_outputs": {"jsn": {}}}, "structured_outputs.jsn", "did you mean json?"),
        ({"structured_outputs": {"json_object": 1}}, "structured_outputs.json_object", "true or false"),
        ({"guided_choice": []}, "guided_choice", "1 to 256"),
        ({"guided_choice": ["a"] * 257}, "guided_choice", "1 to 256"),
        ({"guided_choice": ["a", 5]}, "guided_choice", "a string"),
        ({"guided_choice": ["a", "b" * 16_384]}, "guided_choice", "together"),
        ({"guided_json": '{"enum": [' + "1," * 100_000 + "1]}"}, "guided_json", "at most 65536"),
        ({"logit_bias": [[65, 1]] * 1025}, "logit_bias", "at most 1024"),
        ({"guided_choice": ["\x1b[31m"]}, "guided_choice", "control"),
        ({"logit_bias": [[65]]}, "logit_bias", "pairs"),
        ({"logit_bias": [["a", 1]]}, "logit_bias", "pairs"),
        ({"response_format": {"type": "json_object", "schema": 5}}, "response_format.schema", ""),
        ({"response_format": {"type": "text", "schema": {}}}, "response_format", "json_schema"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_wrong_is_said_with_the_name_that_was_sent(
    api: Api, body: dict[str, Any], param: str, says: str
) -> None:
    refused(api, param, says, **body)


# ---- what cannot be had -----------------------------------------------------------------------------------------


def neutral_values(table: dict[str, Foreign]) -> list[tuple[str, Any]]:
    return [(name, value) for name, f in table.items() if isinstance(f, Refused) for value in (None, *f.neutral)]


@pytest.mark.parametrize("chat", [False, True])
def test_whatever_would_change_the_answer_and_cannot_be_had_is_refused(api: Api, chat: bool) -> None:
    table = known_names.CHAT if chat else known_names.COMPLETION
    names = [name for name, foreign in table.items() if isinstance(foreign, Refused)]
    assert len(names) > 60
    for name in names:
        refused(api, name, "is not supported: ", chat=chat, **{name: {"something": 1}})


@pytest.mark.parametrize("chat", [False, True])
def test_what_asks_for_nothing_special_is_taken(api: Api, chat: bool) -> None:
    table = known_names.CHAT if chat else known_names.COMPLETION
    for name, value in neutral_values(table):
        answer = api.chat(**CHAT, **{name: value}) if chat else api.completion(prompt="Hi", **{name: value})
        assert answer.status_code == 200, (name, value, answer.text)
        assert "x-tenantd-ignored" not in answer.headers
    harmless = {name: {"any": ["thing"]} for name, foreign in table.items() if isinstance(foreign, Taken)}
    answer = api.chat(**CHAT, **harmless) if chat else api.completion(prompt="Hi", **harmless)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_tokens", 5),
        ("min_tokens", False),
        ("stop_token_ids", [1]),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function", "function": {"name": "f"}}),
        ("modalities", ["text", "audio"]),
        ("continue_final_message", True),
        ("chat_template_kwargs", {"enable_thinking": False}),
        ("mirostat", 2),
        ("dry_multiplier", 0.8),
        ("reasoning_effort", "low"),
        ("samplers", ["top_k"]),
        ("tools", [{"type": "function"}]),
    ],
)
def test_names_of_other_servers_that_would_change_a_chat_are_refused(api: Api, name: str, value: Any) -> None:
    refused(api, name, chat=True, **{name: value})


def test_what_the_official_client_can_send_is_known() -> None:
    """Every parameter of the installed client is one of ours or has an entry in the table."""
    from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming as Chat
    from openai.types.completion_create_params import CompletionCreateParamsStreaming as Completion

    models: list[tuple[Any, type[GenerationRequest]]] = [(Chat, ChatRequest), (Completion, CompletionRequest)]
    for client, model in models:
        names = {name for base in (client, *client.__orig_bases__) for name in getattr(base, "__annotations__", {})}
        assert len(names) > 15
        assert names - set(model.model_fields) - set(model.foreign) == set()


def test_no_table_has_a_name_that_is_ours_or_leads_nowhere() -> None:
    models: list[type[GenerationRequest]] = [ChatRequest, CompletionRequest]
    for model in models:
        own = set(model.model_fields)
        assert not own & set(model.foreign)
        for foreign in model.foreign.values():
            for same in foreign.parts.values() if isinstance(foreign, Parts) else [foreign]:
                assert not isinstance(same, Same) or same.field in own


# ---- misspelt and unknown -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"temprature": 0.1}, "temprature", "did you mean temperature?"),
        ({"maxTokens": 5}, "maxTokens", "did you mean max_tokens?"),
        ({"top-p": 0.5}, "top-p", "did you mean top_p?"),
        ({"promt": "Hi"}, "promt", "did you mean prompt?"),
        ({"seeed": None}, "seeed", "did you mean seed?"),
        ({"frobnicate": 1}, "frobnicate", "unknown field"),
        ({"stream_options": {"include_usge": True}}, "stream_options.include_usge", "did you mean include_usage?"),
        ({"response_format": {"typ": "text"}}, "response_format.typ", "did you mean type?"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schem": {}}}},
            "response_format.json_schema.schem",
            "did you mean schema?",
        ),
        ({"x\x1b[31m" + "y" * 100_000: 1}, "x\ufffd[31m" + "y" * 34 + "…", "unknown field"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_misspelt_name_is_refused_with_the_one_it_may_be(
    api: Api, body: dict[str, Any], param: str, says: str
) -> None:
    refused(api, param, says, **body)


@pytest.mark.parametrize(
    ("message", "param", "says"),
    [
        ({"role": "user", "contents": "Hi"}, "messages[0].contents", "did you mean content?"),
        ({"role": "user", "content": "Hi", "images": ["x"]}, "messages[0].images", "image_url"),
        ({"role": "assistant", "content": "Hi", "prefix": True}, "messages[0].prefix", "continue"),
        ({"role": "assistant", "content": "Hi", "thinking": "hm"}, "messages[0].thinking", "reasoning_content"),
        (
            {"role": "user", "content": [{"type": "text", "text": "Hi", "txt": 1}]},
            "messages[0].content[0].txt",
            "text?",
        ),
    ],
)
def test_names_in_a_message_are_read_too(api: Api, message: dict[str, Any], param: str, says: str) -> None:
    refused(api, param, says, chat=True, messages=[message])


def test_an_image_is_refused_for_what_it_is(api: Api) -> None:
    part: dict[str, Any] = {"type": "image_url", "image_url": {"url": "x"}}
    message = {"role": "user", "content": [part]}
    error = api.chat(messages=[message]).json()["error"]
    assert "model.projector" in error["message"] and error["param"] == "messages"
    part["colour"] = "red"
    refused(api, "messages[0].content[0].colour", chat=True, messages=[message])


def test_more_fields_than_anybody_has_are_refused_at_once(api: Api, lenient: Api) -> None:
    for one in (api, lenient):
        answer = one.completion(prompt="Hi", **{f"field{i}": 1 for i in range(20_000)})
        assert answer.status_code == 400 and "more than 256 fields" in answer.json()["error"]["message"]


def test_a_lenient_daemon_leaves_unknown_names_out_and_says_so(lenient: Api) -> None:
    body: dict[str, Any] = {"prompt": "Hi", "temprature": 0.1, "x\r\nset-cookie: a": 1}
    for streamed in (False, True):
        answer = lenient.completion(**body, stream=streamed, stream_options=None)
        assert answer.status_code == 200
        assert answer.headers["x-tenantd-ignored"] == "temprature, x??set-cookie:?a"
        assert "set-cookie" not in answer.headers
    nested = lenient.chat(**CHAT, stream=True, stream_options={"include_usge": True})
    assert nested.headers["x-tenantd-ignored"] == "stream_options.include_usge"
    assert "x-tenantd-ignored" not in lenient.completion(prompt="Hi", user="me").headers


def test_the_header_has_a_bound(lenient: Api) -> None:
    answer = lenient.completion(prompt="Hi", **{f"{'y' * 200}{i}": 1 for i in range(200)})
    assert answer.status_code == 200
    assert len(answer.headers["x-tenantd-ignored"]) < 2000
    assert answer.headers["x-tenantd-ignored"].endswith(", ...")


def test_a_lenient_daemon_refuses_what_it_knows_and_cannot_do(lenient: Api) -> None:
    refused(lenient, "min_tokens", min_tokens=5)
    refused(lenient, "temperature", temperature=-1)


def test_administrators_get_the_same_hint(api: Api) -> None:
    answer = api.client.post("/admin/v1/tenants", json={"name": "x", "wieght": 2})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "wieght: unknown field; did you mean weight?"
    answer = api.client.post("/admin/v1/tenants", json={"name": "x", "limits": {"max_queue": 2}})
    assert answer.json()["error"]["message"] == "limits.max_queue: unknown field; did you mean max_queued?"


# ---- the document -----------------------------------------------------------------------------------------------


def rows(table: dict[str, Foreign], prefix: str = "") -> Iterator[str]:
    """The table as docs/api.md has it."""
    for name, foreign in table.items():
        match foreign:
            case Same():
                yield f"| `{prefix}{name}` | same as `{foreign.field}`{f': {foreign.note}' * bool(foreign.note)} |"
            case Taken():
                yield f"| `{prefix}{name}` | accepted: {foreign.reason} |"
            case Refused():
                values = ", ".join(f"`{json.dumps(value)}`" for value in foreign.neutral)
                yield f"| `{prefix}{name}` | refused{f' unless {values}' * bool(values)}: {foreign.reason} |"
            case Parts():
                yield from rows(dict(foreign.parts) | dict(foreign.foreign), f"{prefix}{name}.")


def test_the_document_has_every_field_of_ours() -> None:
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text("utf-8")
    fields = text.split("## Fields")[1].split("## ")[0]
    own = text.split("## Responses")[1].split("## ")[0]
    own_too = text.split("## Messages")[1].split("## ")[0]
    assert [name for name in anthropics.MessagesRequest.model_fields if f"`{name}" not in own_too] == []
    missing = [name for name in types.ResponseRequest.model_fields if f"`{name}" not in own]
    assert missing == []
    missing = [name for model in (ChatRequest, CompletionRequest) for name in model.model_fields if name not in fields]
    assert missing == []


def test_the_document_is_the_table() -> None:
    expected = list(rows(known_names.SETTINGS))
    for own in (known_names.COMPLETION, known_names.CHAT):
        expected += rows({name: foreign for name, foreign in own.items() if name not in known_names.SETTINGS})
    expected += rows(known_names.STREAM_OPTIONS, "stream_options.")
    expected += rows(known_names.RESPONSE_FORMAT, "response_format.")
    expected += rows(known_names.MESSAGE, "messages[].")
    expected += rows(known_names.TOOL, "tools[].")
    expected += rows(known_names.PART, "messages[].content[].")
    expected += [*rows(known_names.EMBEDDINGS), *rows(known_names.RERANK)]
    expected += [*rows(types.RESPONSE), *rows(types.TEXT, "text."), *rows(types.REASONING, "reasoning.")]
    expected += [*rows(types.STREAM_OPTIONS, "stream_options."), *rows(response_input.TOOL, "tools[].")]
    expected += [*rows(items.ITEM, "input[]."), *rows(items.PART, "input[].content[].")]
    expected += [*rows(anthropics.MESSAGES), *rows(anthropics.OUTPUT, "output_config.")]
    expected += [*rows(anthropics.THINKING, "thinking."), *rows(message_input.TOOL, "tools[].")]
    expected += rows(blocks.BLOCK, "messages[].content[].")
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text("utf-8")
    found = re.findall(r"^\| `[^|]+ \| (?:same as|accepted|refused).*$", text, re.MULTILINE)
    assert found == expected
