"""What holds the real model to a form: probabilities, biases, schemas and grammars."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator

import pytest

from tenantd.text.vocabulary import LlamaVocabulary
from tests.model.conftest import Ask
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
