"""The part of benchmarks/gpu.py with llama.cpp's samplers on the device (`llama_set_sampler`).

tenantd chooses tokens on the host, for the reasons in docs/architecture.md; this measures them, on any device.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import llama_cpp
from numpy.ctypeslib import as_array

from gpu_raw import Raw
from gpu_setup import Found, Setup, load_message

USUAL = {"top_k": 40, "top_p": 0.95, "min_p": 0.05, "temperature": 0.8}
"""llama.cpp's defaults, and tenantd's."""
WIDE = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 2.0}
"""Anything can be drawn, and many tokens are about as likely."""


def chain(seed: int, *, top_k: int, top_p: float, min_p: float, temperature: float) -> Any:
    """A chain of samplers in llama.cpp's order; greedy with temperature 0."""
    params = llama_cpp.llama_sampler_chain_default_params()
    made = llama_cpp.llama_sampler_chain_init(params)
    if temperature <= 0:
        samplers = [llama_cpp.llama_sampler_init_greedy()]
    else:
        samplers = [
            llama_cpp.llama_sampler_init_top_k(top_k),
            llama_cpp.llama_sampler_init_top_p(top_p, 1),
            llama_cpp.llama_sampler_init_min_p(min_p, 1),
            llama_cpp.llama_sampler_init_temp(temperature),
            llama_cpp.llama_sampler_init_dist(seed),
        ]
    for sampler in samplers:
        llama_cpp.llama_sampler_chain_add(made, sampler)
    return made


class SampledLoop(Raw):
    """The low-level API in a loop, with a chain for each sequence, on the host or on the device."""

    def sample(self, sequences: int, position: int, passes: int, *, on_device: bool, **chains: Any) -> dict[str, Any]:
        """Prompts must be computed. `pass_s` are seconds; `tokens` by pass, of each sequence. On the device also
        `attach_s`, of the first pass, and what the probabilities of the last token of the vocabulary add up to."""
        samplers = [chain(seed, **chains) for seed in range(sequences)]
        for sequence, sampler in enumerate(samplers if on_device else []):
            llama_cpp.llama_set_sampler(self._context, sequence, sampler)
        self._tokens[:sequences], self._outputs[:sequences] = 1, 1
        for index in range(sequences):
            self._batch.seq_id[index][0] = index
        times, tokens, expected = [], [], 0.0
        for number in range(passes):
            began_s = time.perf_counter()
            self._positions[:sequences] = position + number
            self._decode(sequences)
            drawn = [llama_cpp.llama_sampler_sample(one, self._context, i) for i, one in enumerate(samplers)]
            times.append(time.perf_counter() - began_s)
            tokens.append(drawn)
            expected += sum(map(self._last_probability, range(sequences))) if on_device else 0.0
            self._tokens[:sequences] = drawn
        for sequence, sampler in enumerate(samplers):
            llama_cpp.llama_set_sampler(self._context, sequence, None)
            llama_cpp.llama_sampler_free(sampler)
        return {"pass_s": times[1:], "first_s": times[0], "tokens": tokens, "expected": expected}

    def _last_probability(self, index: int) -> float:
        """Of the last token of the vocabulary, as the device computed it; 0 if it was no candidate."""
        count = llama_cpp.llama_get_sampled_probs_count_ith(self._context, index)
        if count < self._vocabulary:
            return 0.0
        return float(as_array(llama_cpp.llama_get_sampled_probs_ith(self._context, index), (count,))[-1])

    @property
    def last_token(self) -> int:
        return self._vocabulary - 1


def sampling(setup: Setup) -> Found:
    """Passes with samplers on the host and on the device, with as many sequences as there are."""
    count, passes = setup.slots, max(2, setup.output)
    loop = SampledLoop(load_message(setup, count, setup.context))

    def run(**settings: Any) -> dict[str, Any]:
        loop.clear()
        loop.prefill(count, setup.prompt)
        return loop.sample(count, setup.prompt, passes, **settings)

    greedy = [run(on_device=where, **{**USUAL, "temperature": 0}) for where in (False, True)]
    usual = {where: run(on_device=where, **USUAL) for where in (False, True)}
    wide = run(on_device=True, **WIDE)
    draws = count * passes
    figures = {
        "sequences": count,
        "host_ms": 1000 * statistics.median(usual[False]["pass_s"]),
        "device_ms": 1000 * statistics.median(usual[True]["pass_s"]),
        "attach_ms": 1000 * (usual[True]["first_s"] - statistics.median(usual[True]["pass_s"])),
        "greedy_is_the_same": greedy[0]["tokens"] == greedy[1]["tokens"],
        "draws": draws,
        "last_token_drawn": sum(row.count(loop.last_token) for row in wide["tokens"]),
        "last_token_expected": wide["expected"],
    }
    loop.close()
    lines = [
        (f"{count} at once, chosen on the host", f"{figures['host_ms']:.2f} ms a pass"),
        (f"{count} at once, chosen on the device", f"{figures['device_ms']:.2f} ms a pass"),
        ("after samplers were attached", f"{figures['attach_ms']:.2f} ms more"),
        ("greedy", "the same tokens" if figures["greedy_is_the_same"] else "**other tokens**"),
        (
            "temperature 2 and no filter, on the device",
            f"last token of the vocabulary drawn {figures['last_token_drawn']} times of {draws:,}; "
            f"expected {figures['last_token_expected']:.3g}",
        ),
    ]
    return Found(lines, figures)
