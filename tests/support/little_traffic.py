"""A tenant's small days, as events: harmless ones, and some on which it copies the model. Always the same."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from tenantd.domain import FinishReason, Usage
from tenantd.events import Admitted, Event, PathKind, Settled, Sketched
from tenantd.text.sketches import Sketcher

DAY_MICROS = 24 * 3600 * 1_000_000
BEGIN_MICROS = 20_000 * DAY_MICROS
Prompt = tuple[list[int], int, bool]
"""Tokens, output tokens, and whether logprobs are asked for."""


def harmless(rng: random.Random) -> Prompt:
    """A template of 40 bytes and 60 more, out of 40 that are often used."""
    return [*range(20, 60), *(rng.randrange(97, 123) for _ in range(60))], rng.randrange(20, 60), False


def extraction(rng: random.Random) -> Prompt:
    """Random bytes, and their probabilities."""
    return [rng.randrange(256) for _ in range(rng.randrange(8, 40))], rng.randrange(60, 120), True


def day(
    sketcher: Sketcher,
    number: int,
    requests: int,
    make: Callable[[random.Random], Prompt],
    tenant_id: int = 1,
    begin_micros: int = BEGIN_MICROS,
) -> Iterator[Event]:
    """The events of a day's requests, from 8 in the morning for 10 hours."""
    rng = random.Random(number)
    for i in range(requests):
        at = begin_micros + number * DAY_MICROS + int((8 + 10 * i / requests) / 24 * DAY_MICROS)
        prompt, output, probing = make(rng)
        yield from events_of(sketcher, at, prompt, output, probing=probing, tenant_id=tenant_id)


def events_of(
    sketcher: Sketcher, at_micros: int, prompt: list[int], output: int, *, probing: bool, tenant_id: int = 1
) -> Iterator[Event]:
    """What the watch hears of one request."""
    who = {"tenant": f"tenant{tenant_id}", "tenant_id": tenant_id}
    yield Admitted(
        at_micros=at_micros,
        request_id="req_1",
        key_id=None,
        uid=0,
        path=PathKind.COMPLETION,
        prompt_tokens=len(prompt),
        max_tokens=output,
        choice=0,
        queue_position=0,
        logprobs=5 if probing else None,
        logit_biases=0,
        **who,  # type: ignore[arg-type]
    )
    yield Sketched(at_micros=at_micros, sketch=sketcher.sketch(prompt), **who)  # type: ignore[arg-type]
    yield Settled(
        at_micros=at_micros,
        request_id="req_1",
        key_id=None,
        state=FinishReason.STOP,
        usage=Usage(prompt_tokens=len(prompt), completion_tokens=output),
        first_token_micros=1,
        duration_micros=2,
        cause=None,
        path=PathKind.COMPLETION,
        queue_micros=0,
        kv_token_micros=0,
        **who,  # type: ignore[arg-type]
    )
