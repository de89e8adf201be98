"""Images in chats of a real daemon with llama.cpp: what they change, what they cost, and what is refused."""

from __future__ import annotations

import base64
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest

from tests.support.daemon import Daemon, wait_until
from tests.support.pictures import address, bomb, message, part, png
from tests.support.program import tenantctl
from tests.support.tiny_gguf import write_tiny_gguf
from tests.support.tiny_projector import TOKENS, write_tiny_projector


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("images")
    model = {
        "path": str(write_tiny_gguf(folder / "tiny.gguf", is_packed=False)),
        "projector": str(write_tiny_projector(folder / "mmproj.gguf", kind="mlp")),
    }
    with Daemon(
        folder,
        engine={"backend": "llama", "slots": 4, "threads": 1},
        model=model,
        images={"max_per_request": 3, "max_bytes": 200_000, "bytes_per_tenant": 60_000},
    ) as daemon:
        daemon.add_tenant("acme")
        daemon.add_tenant("beta")
        yield daemon
        assert daemon.stop() == 0
        assert "Traceback" not in daemon.log.read_text()


def ask(daemon: Daemon, *parts: Any, tenant: str = "acme", **body: Any) -> httpx.Response:
    asked = {"messages": [message(*parts)], "max_tokens": 8, "temperature": 0, "ignore_eos": True, **body}
    return daemon.post("/v1/chat/completions", asked, headers={"X-Tenant": tenant})


def said(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def refusal(answer: httpx.Response, status: int = 400) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"]["message"])


def test_an_answer_depends_on_the_image_and_on_where_it_is(daemon: Daemon) -> None:
    first = said(ask(daemon, "what is", png(1)))
    assert said(ask(daemon, "what is", png(1))) == first
    others = [said(ask(daemon, *parts)) for parts in (("what is", png(2)), (png(1), "what is"), ("what is",))]
    assert first not in others and len(set(others)) == 3


def test_images_are_billed_as_prompt_tokens(daemon: Daemon) -> None:
    def prompt_tokens(*parts: Any) -> int:
        answer = ask(daemon, *parts)
        row = next(row for row in daemon.rows() if row["id"] == answer.headers["x-request-id"])
        assert row["state"] == "length" and row["prompt_tokens"] == answer.json()["usage"]["prompt_tokens"]
        assert row["engine_micros"] > 0
        return int(row["prompt_tokens"])

    one, two = prompt_tokens("a", png(1)), prompt_tokens("a", png(1), png(1, 300, 20))
    assert two - one in range(TOKENS["mlp"], TOKENS["mlp"] + 3), "whatever its size, and a line break"
    assert prompt_tokens("a", part(png(1), detail="low")) == one


def test_tenants_beside_each_other_get_the_answers_that_they_get_alone(daemon: Daemon) -> None:
    asked: list[tuple[str, list[Any]]] = [("acme", [png(n), f"what is {n}"]) for n in range(3)]
    asked += [("beta", [f"what is {n}", png(n)]) for n in range(3)]
    alone = [said(ask(daemon, *parts, tenant=tenant, max_tokens=40)) for tenant, parts in asked]
    assert len(set(alone)) == 6
    with ThreadPoolExecutor(6) as pool:
        beside = list(pool.map(lambda one: said(ask(daemon, *one[1], tenant=one[0], max_tokens=40)), asked))
    assert beside == alone


def test_choices_and_streams_see_the_same_image(daemon: Daemon) -> None:
    one = said(ask(daemon, "what is", png(1)))
    both = ask(daemon, "what is", png(1), n=2)
    assert [choice["message"]["content"] for choice in both.json()["choices"]] == [one, one]
    lines = ask(daemon, "what is", png(1), stream=True).text.split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert "".join(event["choices"][0]["delta"].get("content") or "" for event in events) == one


def test_other_apis_take_images_too(daemon: Daemon) -> None:
    first = said(ask(daemon, "what is", png(1)))
    asked = {"max_tokens": 8, "temperature": 0, "ignore_eos": True}
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(png(1)).decode()}
    blocks: list[dict[str, Any]] = [{"type": "text", "text": "what is"}, {"type": "image", "source": source}]
    answer = daemon.post(
        "/v1/messages", {"messages": [{"role": "user", "content": blocks}], **asked}, headers={"X-Tenant": "acme"}
    )
    assert answer.status_code == 200 and answer.json()["content"][0]["text"] == first, answer.text
    parts = [{"type": "input_text", "text": "what is"}, {"type": "input_image", "image_url": address(png(1))}]
    given = {
        "input": [{"role": "user", "content": parts}],
        "max_output_tokens": 8,
        "temperature": 0,
        "ignore_eos": True,
    }
    answer = daemon.post("/v1/responses", given, headers={"X-Tenant": "acme"})
    assert answer.status_code == 200 and answer.json()["output"][-1]["content"][0]["text"] == first, answer.text
    more = {"input": "and then", "previous_response_id": answer.json()["id"], "max_output_tokens": 8}
    later = daemon.post("/v1/responses", more, headers={"X-Tenant": "acme"}).json()
    assert later["usage"]["input_tokens"] > answer.json()["usage"]["input_tokens"], "the image is part of what was said"
    blocks[1]["source"] = {"type": "url", "url": "https://example.org/a.png"}
    answer = daemon.post(
        "/v1/messages", {"messages": [{"role": "user", "content": blocks}], **asked}, headers={"X-Tenant": "acme"}
    )
    assert "fetches nothing" in refusal(answer)


def test_what_is_no_image_is_refused_and_costs_nothing(daemon: Daemon) -> None:
    rows = len(daemon.rows())
    assert "far too many pixels" in refusal(ask(daemon, bomb()))
    assert "has 20000 × 4000 pixels" in refusal(ask(daemon, bomb(20_000, 4_000)))
    assert "neither a PNG nor a JPEG" in refusal(ask(daemon, b"RIFF0000WEBPVP8 "))
    assert "damaged" in refusal(ask(daemon, b"\xff\xd8\xff\xe0" + bytes(50)))
    assert "at most 200000 bytes" in refusal(ask(daemon, bytes(10_000_000)))
    assert "at most 3 images" in refusal(ask(daemon, *[png(1)] * 4))
    assert "unknown" in refusal(ask(daemon, part(png(1), size="big")))
    long = ask(daemon, "a " * 3000, png(1))
    assert long.status_code == 400 and long.json()["error"]["code"] == "context_length_exceeded"
    assert len(daemon.rows()) == rows


def test_limits_and_budgets_refuse_before_images_are_decoded(daemon: Daemon) -> None:
    damaged = b"\xff\xd8\xff\xe0" + bytes(50)
    daemon.add_tenant("slow", limits={"requests_per_minute": 1, "on_limit": "reject"})
    assert "damaged" in refusal(ask(daemon, damaged, tenant="slow")), "while it may"
    assert ask(daemon, "what is", png(1), tenant="slow").status_code == 200
    assert "per minute" in refusal(ask(daemon, damaged, tenant="slow"), 429)
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(png(1)).decode()}
    counted = {"messages": [{"role": "user", "content": [{"type": "image", "source": source}]}]}
    daemon.add_tenant("counting", limits={"requests_per_minute": 1, "on_limit": "reject"})
    answer = daemon.post("/v1/messages/count_tokens", counted, headers={"X-Tenant": "counting"})
    assert answer.status_code == 200 and answer.json()["input_tokens"] >= TOKENS["mlp"], answer.text
    daemon.add_tenant("poor")
    assert tenantctl(daemon, "budget", "set", "poor", "--daily-tokens", "10").returncode == 0
    assert "budget" in refusal(ask(daemon, damaged, tenant="poor"), 429), "an image has 16 tokens"


def test_neither_a_killed_decoder_nor_a_killed_engine_costs_a_request(daemon: Daemon) -> None:
    first = said(ask(daemon, "what is", png(1), max_tokens=300))

    def decoders() -> list[psutil.Process]:
        children = psutil.Process(daemon.running.pid).children()
        return [child for child in children if "tenantd.text.image_worker" in child.cmdline()]

    [decoder] = decoders()
    decoder.kill()
    decoder.wait()
    assert said(ask(daemon, "what is", png(1), max_tokens=300)) == first
    with ThreadPoolExecutor(2) as pool:
        answers = [
            pool.submit(ask, daemon, "what is", png(1), max_tokens=300, tenant=name) for name in ("acme", "beta")
        ]
        # on a machine that does much else they may end unseen
        wait_until(lambda: daemon.status()["running"] or all(answer.done() for answer in answers), "requests that run")
        os.kill(daemon.engine_pid(), signal.SIGKILL)
        assert [said(answer.result()) for answer in answers] == [first, first]
    wait_until(lambda: daemon.status()["engine_restarts"] == 1, "another engine")


def test_clients_and_operators_are_told_that_images_are_understood(daemon: Daemon) -> None:
    [model] = daemon.get("/v1/models", headers={"X-Tenant": "acme"}).json()["data"]
    assert model["input_modalities"] == ["text", "image"]
    told = tenantctl(daemon, "status").stdout
    assert "mmproj.gguf (mlp), 16 prompt tokens each" in told
    doctor = tenantctl(daemon, "doctor", "--config", str(daemon.config)).stdout
    assert "sees 32 × 32 pixels" in doctor
