"""What holds the real model to a form: probabilities, biases, schemas and grammars."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal

import jsonschema
import openai
import pydantic
import pytest

from tenantd.text.vocabulary import LlamaVocabulary
from tests.conformance.conftest import connect
from tests.model.conftest import SLOTS, Ask
from tests.support.daemon import Daemon
from tests.support.models import gemma_path

PROMPT = "One, two, three,"
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "colours": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 1, "maxItems": 3},
        "alive": {"type": "boolean"},
    },
    "required": ["name", "age", "colours", "alive"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def vocabulary() -> Iterator[LlamaVocabulary]:
    opened = LlamaVocabulary.open(gemma_path())
    yield opened
    opened.close()


def test_logprobs_are_a_distribution_and_greedy_takes_its_best(ask: Ask) -> None:
    choice = ask.choice(PROMPT, max_tokens=6, logprobs=5)
    logprobs = choice["logprobs"]
    assert "".join(logprobs["tokens"]) == choice["text"]
    assert logprobs["text_offset"] == [len("".join(logprobs["tokens"][:i])) for i in range(6)]
    for token, logprob, top in zip(*(logprobs[k] for k in ("tokens", "token_logprobs", "top_logprobs")), strict=True):
        assert next(iter(top)) == token and top[token] == pytest.approx(logprob)
        assert list(top.values()) == sorted(top.values(), reverse=True)
        assert 0 < sum(map(math.exp, top.values())) <= 1.0001
    assert sum(map(math.exp, logprobs["top_logprobs"][0].values())) > 0.5, "the next number is no surprise"


def test_logprobs_are_the_models_own_whatever_the_samplers_do(ask: Ask) -> None:
    plain = ask.choice(PROMPT, max_tokens=1, logprobs=5)["logprobs"]
    (chosen,) = plain["tokens"]
    settings = {"temperature": 2, "top_k": 1, "ignore_eos": True, "grammar": "root ::= [^q]+"}
    held = ask.choice(PROMPT, max_tokens=1, logprobs=5, **settings)["logprobs"]
    assert held["tokens"] == [chosen]
    assert held["top_logprobs"][0] == pytest.approx(plain["top_logprobs"][0])


def test_a_bias_forbids_a_token_and_another_forces_one(ask: Ask, vocabulary: LlamaVocabulary) -> None:
    (first,) = ask.choice(PROMPT, max_tokens=1, logprobs=0)["logprobs"]["tokens"]
    (token,) = vocabulary.tokenize(first, add_bos=False)
    for temperature in (0, 1):
        assert ask.text(PROMPT, max_tokens=1, temperature=temperature, logit_bias={str(token): -100}) != first
    (forced,) = vocabulary.tokenize(" banana", add_bos=False)
    assert ask.text(PROMPT, max_tokens=2, logit_bias={str(forced): 100}) == " banana banana"


def test_choices_of_a_seeded_request_differ(ask: Ask) -> None:
    choices = ask.whole(PROMPT, n=4, seed=70, temperature=1.5, max_tokens=12, ignore_eos=True)["choices"]
    assert len({choice["text"] for choice in choices}) == 4


def test_repetition_is_penalised(ask: Ask) -> None:
    prompt = "cat cat cat cat cat cat cat cat"
    assert "cat" in ask.text(prompt, max_tokens=6)
    assert "cat" not in ask.text(prompt, max_tokens=6, repeat_penalty=10)


def test_a_json_schema_is_kept(ask: Ask) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    for settings in ({"temperature": 0}, {"temperature": 1.2, "seed": 5}):
        choice = ask.choice("A person, as JSON: ", max_tokens=120, response_format=form, **settings)
        assert choice["finish_reason"] == "stop"
        person = json.loads(choice["text"])
        assert list(person) == ["name", "age", "colours", "alive"]
        assert isinstance(person["name"], str) and len(person["name"]) <= 8
        assert type(person["age"]) is int and 0 <= person["age"] <= 120
        assert 1 <= len(person["colours"]) <= 3 and set(person["colours"]) <= {"red", "green", "blue"}
        assert type(person["alive"]) is bool


SEEDS = int(os.environ.get("TENANTD_SEEDS", "100"))
FORMS: dict[str, dict[str, Any]] = {
    "integers": {
        "type": "object",
        "properties": {
            "age": {"type": "integer", "minimum": 18, "maximum": 67},
            "change": {"type": "integer", "exclusiveMinimum": -10, "exclusiveMaximum": 0},
        },
        "required": ["age", "change"],
        "additionalProperties": False,
    },
    "patterns": {
        "type": "object",
        "properties": {"code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}},
        "required": ["code"],
        "additionalProperties": False,
    },
    "enums": {"type": "array", "items": {"enum": ["red", "green", 3, None]}, "minItems": 1, "maxItems": 4},
    "references": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "value": {"type": "boolean"},
                    "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                },
                "required": ["value", "next"],
                "additionalProperties": False,
            }
        },
    },
    "choices": {"anyOf": [{"type": "string", "maxLength": 12}, {"type": "number", "minimum": 0, "maximum": 1}]},
    "formats": {
        "type": "object",
        "properties": {name: {"type": "string", "format": name} for name in ("date", "ipv4", "time")},
        "required": ["date"],
        "additionalProperties": False,
    },
    "texts": {"type": "array", "items": {"type": "string", "maxLength": 20}, "minItems": 1, "maxItems": 3},
}


def test_every_answer_that_stops_is_json_that_fits_its_schema(daemon: Daemon) -> None:
    """At a temperature at which this model writes anything but JSON by itself."""
    forms = [*FORMS.items(), ("any object", {"type": "object"})]
    ended: Counter[str] = Counter()

    def one(seed: int) -> None:
        name, schema = (
            forms[seed % (len(forms) + 1) - 1] if seed % (len(forms) + 1) else ("any object", {"type": "object"})
        )
        form: dict[str, Any] = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        if name == "any object":
            form = {"type": "json_object"}
        settings = {"temperature": 1.5, "seed": seed, "max_tokens": 60, "response_format": form}
        answer = daemon.complete("acme", f"Answer {seed} in JSON:\n", **settings)
        assert answer.status_code == 200, answer.text
        (choice,) = answer.json()["choices"]
        ended[f"{name}: {choice['finish_reason']}"] += 1
        if choice["finish_reason"] == "stop":
            value = json.loads(choice["text"])
            checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
            jsonschema.validate(value, schema, jsonschema.Draft202012Validator, format_checker=checker)

    stopped: set[str] = set()
    with ThreadPoolExecutor(SLOTS) as pool:
        for seeds in (range(first, min(first + 4 * SLOTS, SEEDS)) for first in range(0, SEEDS, 4 * SLOTS)):
            list(pool.map(one, seeds))
            stopped = {end.split(":")[0] for end in ended if end.endswith("stop")}
            if stopped >= set(FORMS) and "TENANTD_SEEDS" not in os.environ:
                break
    print(dict(sorted(ended.items())))
    assert stopped >= set(FORMS), "each form came to its end at least once"


class Parcel(pydantic.BaseModel):
    """As users of the official client write them."""

    to: Annotated[str, pydantic.Field(max_length=12)]
    grams: Annotated[int, pydantic.Field(ge=1, le=20_000)]
    kind: Literal["letter", "box"]
    note: Annotated[str, pydantic.Field(max_length=10)] | None


def test_the_official_client_parses_what_it_asked_for(daemon: Daemon) -> None:
    with connect(daemon, daemon.add_tenant("parcels")) as client:
        for seed in range(8):
            answer = client.chat.completions.parse(
                model=client.models.list().data[0].id,
                messages=[{"role": "user", "content": "A parcel, please."}],
                response_format=Parcel,
                temperature=1.3,
                seed=seed,
                max_tokens=120,
            )
            parcel = answer.choices[0].message.parsed
            assert answer.choices[0].finish_reason == "stop"
            assert parcel is not None and 1 <= parcel.grams <= 20_000 and parcel.kind in ("letter", "box")


def test_the_official_client_is_told_what_cannot_be_enforced(daemon: Daemon) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array", "uniqueItems": True}}}
    with (
        connect(daemon, daemon.add_tenant("unenforced")) as client,
        pytest.raises(openai.BadRequestError, match="uniqueItems"),
    ):
        client.completions.create(
            model=client.models.list().data[0].id, prompt="x", extra_body={"response_format": form}
        )


def test_a_grammar_is_kept_at_any_temperature(ask: Ask) -> None:
    grammar = 'root ::= ("yes" | "no") " " [0-9]{3}'
    for settings in ({"temperature": 0}, {"temperature": 2, "seed": 2}, {"temperature": 1, "ignore_eos": True}):
        choice = ask.choice("Is water wet? ", max_tokens=20, grammar=grammar, **settings)
        assert re.fullmatch(r"(yes|no) \d{3}", choice["text"])
        assert choice["finish_reason"] == "stop"


def test_a_grammar_that_does_not_parse_is_the_clients_mistake(daemon: Daemon) -> None:
    answer = daemon.complete("acme", PROMPT, grammar="root ::= (", max_tokens=3)
    assert answer.status_code == 400
    assert "grammar" in answer.json()["error"]["message"]
