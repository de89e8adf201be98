"""What the tests of every engine have in common."""

from __future__ import annotations

from tenantd.domain import Sampling
from tenantd.engine.compute import Chunk, Compute

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
