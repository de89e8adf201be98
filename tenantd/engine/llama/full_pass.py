"""Whether a pass over every sequence takes less time than one over all but one, as measured when a model is loaded.

On a CPU, llama.cpp's matrix kernels for quantised weights (ggml-cpu/repack.cpp) compute rows in groups of four, and
each row that is left over reads the weights by itself: seven rows take longer than eight. Other kernels do not, and
where all weights are on a GPU it hardly matters.
"""

from __future__ import annotations

import time
from typing import Final

from tenantd.engine.compute import Chunk
from tenantd.engine.llama.batch import Batch
from tenantd.engine.llama.cells import Cells

GROUP: Final = 4
"""Rows. With one group of sequences, none is left for prompts while the others decode."""
CLEARLY: Final = 0.95
LEAST_MICROS: Final = 2_000
"""Of a pass. What takes less is a toy, whose times say nothing."""
MOST_MICROS: Final = 1_000_000
"""After which nothing is measured again. A model with passes that take longer is not measured at all."""
ROUNDS: Final = 3


def is_faster_when_full(batch: Batch, cells: Cells, slots: int) -> bool:
    """Measure it. All sequences are empty before and after."""
    if slots <= GROUP or slots % GROUP:
        return False
    if _micros(batch, cells, slots) > MOST_MICROS:  # and it touches memory for the first time
        return False
    full, less = float("inf"), float("inf")
    began_ns = time.perf_counter_ns()
    for _ in range(ROUNDS):
        full, less = min(full, _micros(batch, cells, slots)), min(less, _micros(batch, cells, slots - 1))
        if (time.perf_counter_ns() - began_ns) // 1000 > MOST_MICROS:
            break
    return LEAST_MICROS < full < CLEARLY * less


def _micros(batch: Batch, cells: Cells, sequences: int) -> float:
    """How long a pass takes with one token of each of so many sequences; infinite if it fails."""
    batch.fill([Chunk(sequence, 0, [0], True, 0) for sequence in range(sequences)])
    began_ns = time.perf_counter_ns()
    has_failed = cells.decode(batch) != 0
    micros = float("inf") if has_failed else (time.perf_counter_ns() - began_ns) / 1000
    for sequence in range(sequences):
        cells.clear(sequence)
    return micros
