"""Grammars and schemas made to stop everybody: their sender waits or is refused, and nobody else notices."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.kit import unharmed
from tests.support.daemon import Daemon, wait_until
from tests.support.models import gemma_path

BOMBS = {
    "brackets": "root ::= " + "[" * 48_000,
    "exploding": "root ::= " + " ".join(["a?"] * 100) + "\na ::= [a-z] a | [a-z]",
    "doubling": "\n".join(["root ::= e0", *[f"e{n} ::= e{n + 1} | e{n + 1}" for n in range(60)], 'e60 ::= "a"']),
    "a count": 'root ::= "a"{5,3}',
    "ambiguous": 'root ::= a a a a\na ::= b a | b | ""\nb ::= "a" | "aa" | [a-z] | b b',
    "nullable": "root ::= " + "x " * 400 + '\nx ::= "(" x ")" | [a-z] x | ',
    "a chain": "root ::= r0\n" + "".join(f"r{n} ::= r{n + 1}\n" for n in range(3000)) + 'r3000 ::= "a"',
    "states": 'root ::= .* "a" .{200} "b" .{100} x\nx ::= "(" x ")" | "b"',
    "rules": "root ::= "
    + " | ".join(f"r{n}" for n in range(1800))
    + "\n"
    + "".join(f'r{n} ::= "a{n}" root\n' for n in range(1800)),
    "text": 'root ::= "' + "a" * 60_000 + '"',
}
SCHEMAS: dict[str, Any] = {
    "properties": {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(1000)}},
    "a pattern": {"type": "string", "pattern": "^(.*a.{200}b.{300})$"},
    "an enum": {"enum": [str(n * 7919) for n in range(4000)]},
    "choices": {"anyOf": [{"type": "string", "pattern": f"^.*{n}.*$"} for n in range(200)]},
    "products": {"allOf": [{"anyOf": [{"properties": {f"p{n}{m}": {}}} for m in range(2)]} for n in range(16)]},
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Any:
    engine = {"backend": "llama", "slots": 4, "context_tokens": 512, "threads": 1}
    with Daemon(tmp_path_factory.mktemp("gemma"), engine=engine, model={"path": str(gemma_path())}) as running:
        yield running
        assert running.stop() == 0
        assert "Traceback" not in running.log.read_text()


def test_grammars_and_schemas_that_explode_keep_nobody_waiting(daemon: Daemon, tmp_path: Path) -> None:
    daemon.add_tenant("mallory")
    bodies: list[dict[str, Any]] = [{"grammar": bomb} for bomb in BOMBS.values()]
    bodies += [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
        for schema in SCHEMAS.values()
    ]
    answered: list[int] = []
    with unharmed(daemon) as watch:
        for body in itertools.cycle(bodies):
            if not watch.goes_on and len(answered) > len(bodies):
                break
            answer = daemon.complete("mallory", "x", max_tokens=20, temperature=1.5, seed=len(answered), **body)
            answered.append(answer.status_code)
            if answer.status_code != 200:
                assert answer.json()["error"]["param"] in ("grammar", "response_format"), answer.text
    assert 400 in answered and set(answered) <= {200, 400}
    harmless = {"grammar": 'root ::= "a" [b-d]*', "max_tokens": 3}
    wait_until(
        lambda: daemon.complete("mallory", "x", **harmless).status_code == 200, "its own harmless ones to be taken"
    )
