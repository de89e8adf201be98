"""What the audit trail says of requests: their hashes and lengths, and never a text."""

from __future__ import annotations

import hashlib
import hmac
import struct
from pathlib import Path
from typing import Any

import pytest

from tenantd.domain import Actor, FinishReason, Sampling, Tenant
from tenantd.errors import LedgerUnavailable
from tenantd.events import Started
from tenantd.live.generation import Generation
from tenantd.serving import entries
from tenantd.tenancy import fingerprints
from tenantd.tenancy.directory import AuditKey
from tests.serving.daemon_kit import config, run, until
from tests.serving.scene import Scene, read

KEY = b"k" * 32
TENANT = Tenant(id=7, name="acme")
ACTOR = Actor(uid=1000, pid=4711)


class Kept(Scene):
    """A scene whose tenant has an id and a key for its hashes."""

    def __init__(self, folder: Path, *script: dict[str, Any], **options: Any) -> None:
        super().__init__(folder, *script, tenants=(TENANT,), **options)
        self.directory._audit_keys = {7: AuditKey.of(KEY, "")}

    async def ask(self, prompt: list[int], **changes: Any) -> Any:
        generation = Generation(kind="completion", prompt=prompt, max_tokens=10, **changes)
        [stream] = await self.service.submit_all(TENANT, [generation], actor=ACTOR)
        return stream


def test_a_request_enters_and_is_answered_with_hashes_that_its_owner_can_compute(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Kept(tmp_path) as s:
            sampling = Sampling(temperature=0.5, logprobs=3)
            stream = await s.ask([1, 2, 300], sampling=sampling, choice=1, choices=2, is_flex=True)
            said = "".join(delta.text for delta in await read(stream))
            entered, response = s.ledger.entries
        assert (entered.event, entered.request_id, entered.tenant_id, entered.tenant) == (
            "entered",
            stream.id,
            7,
            "acme",
        )
        assert entered.at_micros == stream.created_micros
        assert entered.detail == {
            "uid": 1000,
            "pid": 4711,
            "key_id": None,
            "kind": "completion",
            "choice": 1,
            "n": 2,
            "prompt_tokens": 3,
            "prompt_hmac": hmac.new(KEY, struct.pack("<3I", 1, 2, 300), hashlib.sha256).hexdigest(),
            "max_tokens": 10,
            "temperature": 0.5,
            "logprobs": 3,
            "queue_position": 0,
            "is_flex": True,
        }
        assert (response.event, response.request_id, response.tenant_id) == ("response", stream.id, 7)
        assert response.detail == {
            "state": "length",
            "cause": None,
            "prompt_tokens": 0,  # another choice pays for it
            "cached_tokens": 0,
            "completion_tokens": 10,
            "text_bytes": len(said.encode()),
            "text_hmac": hmac.new(KEY, said.encode(), hashlib.sha256).hexdigest(),
        }
        assert said and response.at_micros >= entered.at_micros

    run(scene())


def test_equal_prompts_of_a_tenant_have_equal_hashes_and_those_of_another_differ(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Kept(tmp_path) as s:
            for prompt in ([1, 2], [1, 2], [2, 1]):
                await read(await s.ask(prompt))
            s.directory._audit_keys = {7: AuditKey.of(b"another", "")}
            await read(await s.ask([1, 2]))
            hashes = [e.detail["prompt_hmac"] for e in s.ledger.entries if e.event == "entered"]
        assert hashes[0] == hashes[1] and len(set(hashes)) == 3

    run(scene())


def test_a_prompt_is_hashed_once_whatever_the_number_of_choices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[list[int]] = []

    def of_tokens(key: bytes, prompt: list[int]) -> str:
        hashed.append(prompt)
        return fingerprints.of_tokens(key, prompt)

    monkeypatch.setattr(entries, "of_tokens", of_tokens)

    async def scene() -> None:
        async with Kept(tmp_path) as s:
            prompts = [[1, 2], [2, 1]]
            generations = [
                Generation(kind="completion", prompt=prompt, max_tokens=2, choice=choice, choices=2)
                for prompt in prompts
                for choice in range(2)
            ]
            for stream in await s.service.submit_all(TENANT, generations, actor=ACTOR):
                await read(stream)
            found = [e.detail["prompt_hmac"] for e in s.ledger.entries if e.event == "entered"]
        assert found == [fingerprints.of_tokens(KEY, prompt) for prompt in ([1, 2], [1, 2], [2, 1], [2, 1])]
        assert hashed == prompts

    run(scene())


def test_a_tenant_without_a_key_has_no_hashes(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Kept(tmp_path) as s:
            s.directory._audit_keys = {}
            await read(await s.ask([1, 2]))
            entered, response = s.ledger.entries
        assert entered.detail["prompt_hmac"] is response.detail["text_hmac"] is None

    run(scene())


def test_a_request_keeps_its_key_although_its_tenant_is_forgotten_meanwhile(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Kept(tmp_path) as s:
            stream = await s.ask([1, 2])
            s.directory._audit_keys = {7: AuditKey.of(b"new", "")}
            said = "".join(delta.text for delta in await read(stream))
            response = s.ledger.entries[-1]
        assert response.detail["text_hmac"] == hmac.new(KEY, said.encode(), hashlib.sha256).hexdigest()

    run(scene())


def test_text_behind_a_stop_string_is_no_part_of_the_answer(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Kept(tmp_path) as s:
            whole = "".join(delta.text for delta in await read(await s.ask([1, 2])))
            stream = await s.ask([1, 2], stops=(whole[3:5],))
            said = "".join(delta.text for delta in await read(stream))
            response = s.ledger.entries[-1]
        assert said == whole[:3] and response.detail["state"] == "stop"
        assert response.detail["text_bytes"] == len(said.encode())
        assert response.detail["text_hmac"] == hmac.new(KEY, said.encode(), hashlib.sha256).hexdigest()

    run(scene())


def test_an_answer_that_nobody_got_because_its_row_was_late_is_empty(tmp_path: Path) -> None:
    async def scene() -> None:
        settings = config().model_copy(update={"ledger": config().ledger.model_copy(update={"settle_timeout_s": 0.05})})
        async with Kept(tmp_path, settings=settings) as s:
            s.ledger.admit_gate.clear()
            stream = await s.ask([1])
            await until(lambda: stream.error is not None)
            s.ledger.admit_gate.set()
            await until(lambda: stream.id in s.ledger.settlements)
            entered, response = s.ledger.entries
        assert entered.event == "entered" and isinstance(stream.error, LedgerUnavailable)
        assert (response.detail["state"], response.detail["cause"]) == (FinishReason.FAILED, "ledger_unavailable")
        assert (response.detail["text_bytes"], response.detail["completion_tokens"]) == (0, 0)

    run(scene())


def test_a_slot_is_given_with_the_adapter_and_the_system_prompt_of_that_time(tmp_path: Path) -> None:
    async def scene() -> None:
        async with Kept(tmp_path) as s:
            s.directory.tenants = {"acme": Tenant(id=7, name="acme", adapter="/srv/acme/lora.gguf")}
            await read(await s.ask([1], system_prompt_hmac="ab"))
            s.directory.tenants = {"acme": TENANT}
            await read(await s.ask([1]))
        first, second = [event for event in s.heard if isinstance(event, Started)]
        path_hash = hashlib.sha256(b"/srv/acme/lora.gguf").hexdigest()
        assert (first.adapter, first.adapter_sha256, first.system_prompt_hmac) == ("lora.gguf", path_hash, "ab")
        assert (second.adapter, second.adapter_sha256, second.system_prompt_hmac) == (None, None, None)
        assert first.tenant_id == second.tenant_id == 7

    run(scene())


def test_nothing_is_recorded_while_the_trail_is_off(tmp_path: Path) -> None:
    async def scene() -> None:
        off = config().model_copy(update={"security": config().security.model_copy(update={"audit": "off"})})
        async with Kept(tmp_path, settings=off) as s:
            stream = await s.ask([1, 2])
            await read(stream)
            assert s.ledger.settlements and s.ledger.entries == []
            assert stream.said is None, "nobody wants its text"

    run(scene())
