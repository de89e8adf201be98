"""Large answers: what they take is known before they are made, and slow readers do not hold it for long."""

from __future__ import annotations

import asyncio
import tracemalloc
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tenantd.api import portions
from tenantd.api.embeddings.vectors import SENT_BYTES, Form, encode
from tenantd.domain import Usage

TEXTS, DIMENSIONS = 40, 768


@pytest.mark.parametrize("as_base64", [True, False])
@pytest.mark.parametrize("shown", [DIMENSIONS, 100])
def test_making_vectors_takes_no_more_memory_than_is_held_for_them(as_base64: bool, shown: int) -> None:
    rows = np.random.default_rng(1).normal(size=(TEXTS, DIMENSIONS))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[:, 0] = -0.0123456789
    sent = [rows[start : start + 8].astype("<f4").tobytes() for start in range(0, TEXTS, 8)]
    stream: Any = SimpleNamespace(vectors=sent, texts=TEXTS, usage=Usage(prompt_tokens=5))
    form = Form(DIMENSIONS, shown, as_base64)
    encode(stream, form, "m")
    tracemalloc.start()
    answer = encode(stream, form, "m")
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    one_row_bytes = 40 * DIMENSIONS  # its numbers as objects of Python
    assert len(answer) < peak_bytes
    assert peak_bytes <= form.answer_bytes(TEXTS) - TEXTS * DIMENSIONS * SENT_BYTES + 2 * one_row_bytes


def test_a_reader_that_is_always_slow_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portions, "LEAST_BYTES_PER_S", 1 << 40)
    sent = 0

    async def slow(_: Any) -> None:
        nonlocal sent
        await asyncio.sleep(0.02)
        sent += 1

    with pytest.raises(TimeoutError):
        asyncio.run(portions.send_portions(bytes(portions.PORTION_BYTES * 10_000), slow, 1))
    assert sent > 1, "no portion took long"
