"""The parts of benchmarks/gpu.py with llama.cpp by itself: its low-level API in a loop."""

from __future__ import annotations

import random
import statistics
import time
from pathlib import Path

import llama_cpp
from numpy.ctypeslib import as_array

from gpu_setup import Found, Setup, load_message, speed_text, whole
from tenantctl.bench.subjects import ordinary_tokens
from tenantd.errors import ModelError
from tenantd.llamacpp import log
from tenantd.llamacpp.handles import make_context, open_model
from tenantd.wire.messages import Load

WARM_UP_PASSES = 8
"""At most; a GPU records its graph in the first passes of a shape."""


class Raw:
    """The low-level API in a loop: llama_decode and the largest logit. Only the context is made as tenantd makes it."""

    def __init__(self, load: Load) -> None:
        log.capture()
        llama_cpp.llama_backend_init()
        self._model = open_model(load, Path(load.model_path), no_alloc=False)
        self._context = make_context(load, self._model, load.context_tokens)
        self._vocabulary = int(llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model)))
        self._capacity = int(llama_cpp.llama_n_batch(self._context))
        batch = self._batch = llama_cpp.llama_batch_init(self._capacity, 0, 1)
        arrays = (batch.token, batch.pos, batch.n_seq_id, batch.logits)
        self._tokens, self._positions, counts, self._outputs = (as_array(a, (self._capacity,)) for a in arrays)
        counts[:] = 1

    def prefill(self, sequences: int, tokens: int) -> float:
        """Compute random prompts, one sequence after another. Returns seconds."""
        vocabulary = ordinary_tokens(self._vocabulary)
        rng, began_s = random.Random(1), time.perf_counter()
        for sequence in range(sequences):
            for start in range(0, tokens, self._capacity):
                count = min(self._capacity, tokens - start)
                self._tokens[:count] = rng.choices(vocabulary, k=count)
                self._positions[:count] = range(start, start + count)
                self._outputs[:count] = 0
                for index in range(count):
                    self._batch.seq_id[index][0] = sequence
                self._decode(count)
        llama_cpp.llama_synchronize(self._context)
        return time.perf_counter() - began_s

    def generate(self, sequences: int, position: int, passes: int) -> list[float]:
        """Seconds of each pass with one token of each sequence, from this position on, without the first passes."""
        times = []
        self._tokens[:sequences], self._outputs[:sequences] = 1, 1
        for index in range(sequences):
            self._batch.seq_id[index][0] = index
        for number in range(passes):
            began_s = time.perf_counter()
            self._positions[:sequences] = position + number
            self._decode(sequences)
            logits = as_array(llama_cpp.llama_get_logits(self._context), (sequences, self._vocabulary))
            self._tokens[:sequences] = logits.argmax(axis=1)
            times.append(time.perf_counter() - began_s)
        return times[min(WARM_UP_PASSES, passes // 4) :]

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), False)

    def close(self) -> None:
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)

    def _decode(self, tokens: int) -> None:
        self._batch.n_tokens = tokens
        if code := llama_cpp.llama_decode(self._context, self._batch):
            raise RuntimeError(f"llama_decode failed with {code}")


def raw(setup: Setup) -> Found:
    """The raw loop, by number of sequences."""
    loop = Raw(load_message(setup, setup.slots, setup.context))
    speeds, prompts = {}, {}
    for count in setup.sequences:
        rates = []
        for _ in range(setup.rounds):
            prompts[count] = count * setup.prompt / loop.prefill(count, setup.prompt)
            times = loop.generate(count, setup.prompt, setup.output)
            rates.append(count * len(times) / sum(times))
            loop.clear()
        speeds[count] = statistics.median(rates)
    lines = [(f"{count} at once", speed_text(count, rate)) for count, rate in speeds.items()]
    return Found(lines, {"tokens_per_s": speeds, "prompt_tokens_per_s": prompts})


def _variants(setup: Setup, name: str, values: tuple[str, ...]) -> Found:
    """The raw loop with all sequences `depth` long, for each value of a setting. One that cannot be had is told."""
    lines, figures = [], {}
    for value in values:
        try:
            loop = Raw(load_message(setup, setup.slots, whole(setup.depth + setup.output), **{name: value}))
        except ModelError as e:
            lines.append((value, f"not here: {e.message}"))
            figures[value] = {"failed": e.message}
            continue
        prompt_s = loop.prefill(setup.slots, setup.depth)
        times = loop.generate(setup.slots, setup.depth, setup.output)
        rate = setup.slots * len(times) / sum(times)
        prompts = setup.slots * setup.depth / prompt_s
        lines.append((value, f"{speed_text(setup.slots, rate)}; prompts {prompts:,.0f} tokens/s"))
        figures[value] = {"tokens_per_s": rate, "prompt_tokens_per_s": prompts}
        loop.close()
    return Found(lines, {"sequences": setup.slots, "depth_tokens": setup.depth, **figures})


def streams(setup: Setup) -> Found:
    """A KV buffer for each sequence, or one for all."""
    return _variants(setup, "kv", ("streams", "unified"))


def types(setup: Setup) -> Found:
    """The types of the KV cache."""
    return _variants(setup, "kv_type", ("f16", "q8_0", "q4_0"))
