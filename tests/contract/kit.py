"""What the tests of every engine have in common."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager

from tenantd.domain import Sampling
from tenantd.engine.compute import Chunk, Compute
from tests.support.device import LOGITS_NOISE

GREEDY = Sampling(temperature=0, ignore_eos=True)
PROMPT = [5, 9, 12, 7, 30, 41, 8]


def generate(
    engine: Compute, sequence: int, tokens: list[int], n: int, *, chunk: int = 64, done: int = 0, request: int = 0
) -> list[int]:
    """Prefill in chunks, then decode: the n next tokens of a bound sequence that has computed the first `done`."""
    out: list[int] = []
    pending = tokens[done:]
    while len(out) < n:
        part, pending = pending[:chunk], pending[chunk:]
        result = engine.run([Chunk(sequence, done, part, not pending, request)])
        done += len(part)
        if not pending:
            assert not result.sampled[sequence].failed
            out.append(result.sampled[sequence].token)
            pending = [out[-1]]
    return out


@contextmanager
def seen_logits(engine: Compute) -> Iterator[list[list[float]]]:
    """Of each token that it samples, in this order."""
    rows: list[list[float]] = []
    engine.on_logits = lambda _, row: rows.append(row.tolist())
    yield rows
    engine.on_logits = None


def farthest(one: list[float], other: list[float]) -> float:
    return max(abs(mine - yours) for mine, yours in zip(one, other, strict=True))


@contextmanager
def given_logits(engine: Compute, rows: list[list[float]]) -> Iterator[None]:
    """On a device, the logits are the same but for its noise. Then they are replaced by those given, with which the
    same must be drawn. On a CPU the noise changes no token, and they are left."""
    expected = iter(rows)

    def replace(_: int, row: memoryview[float]) -> None:
        given = next(expected)
        assert farthest(row.tolist(), given) < LOGITS_NOISE
        row[:] = memoryview(array("f", given))

    if LOGITS_NOISE:
        engine.on_logits = replace
    yield
    engine.on_logits = None
