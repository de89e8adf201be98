"""Chooses the next token of a sequence: llama.cpp's C samplers, and a short cut for plain greedy sampling.

Order of the chain as in llama.cpp (common/sampling.cpp): bias, penalties, top-k, typical, top-p, min-p, temperature,
draw. A grammar checks the drawn token first, and filters the whole vocabulary only if it rejects it. So with a
grammar a token always takes two draws, needed or not, so that a resumed request can count them.
"""

from __future__ import annotations

import ctypes
import math
import os
from typing import Any, Final

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from tenantd.domain import Sampling, TokenLogprobs
from tenantd.engine.compute import RequestRejected, Sampled
from tenantd.engine.llama.tokens import grammar_tokenizer
from tenantd.llamacpp.constraint import Constraint, ConstraintError, Matchers

CANDIDATE: Final = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama.h, llama_token_data
_NO_DRAW: Final = (0, 0.0, 0.0)
_GARBLED: Final = Sampled(
    -1, False, failed="the model returned invalid probabilities (NaN or infinity)", is_garbled=True
)


class Vocabulary:
    """What sampling needs to know about the model's tokens, shared by all sequences, and a buffer for candidates."""

    def __init__(self, model: Any, grammar_budget_ms: int) -> None:
        """`grammar_budget_ms` limits the total CPU time of one request's grammar."""
        self.grammar_budget_ms = grammar_budget_ms
        self.handle = llama_cpp.llama_model_get_vocab(model)
        self.size = int(llama_cpp.llama_vocab_n_tokens(self.handle))
        is_end = llama_cpp.llama_vocab_is_eog
        self.end_tokens = [token for token in range(self.size) if is_end(self.handle, token)]
        self.end_set = frozenset(self.end_tokens)
        tokenizer = grammar_tokenizer(self.handle, self.size, self.end_tokens)
        self.matchers = None if tokenizer is None else Matchers(tokenizer)
        self._candidates: NDArray[Any] | None = None

    def candidates(self, logits: NDArray[np.float32]) -> NDArray[Any]:
        """The whole vocabulary as llama_token_data, in a buffer that the next call overwrites."""
        if self._candidates is None:
            self._candidates = np.zeros(self.size, CANDIDATE)
        self._candidates["id"] = np.arange(self.size, dtype=np.int32)
        self._candidates["logit"] = logits
        return self._candidates


class Sampler:
    """A request's sampler chain and grammar; call `free()`. Raises RequestRejected if the grammar cannot be used."""

    def __init__(self, vocabulary: Vocabulary, sampling: Sampling, history: list[int], generated: list[int]) -> None:
        self._vocabulary = vocabulary
        self._logprobs = sampling.logprobs
        self._ignore_end = sampling.ignore_eos
        self._chain: Any = None
        self._dist: Any = None
        self._constraint = _constraint(vocabulary, sampling.grammar, generated)
        if not _is_plain_greedy(sampling):
            self._build_chain(sampling)
            self._replay(sampling, history, generated)

    def sample(self, context: Any, index: int, logits: NDArray[np.float32]) -> Sampled:
        """The token after output `index` of the last decode. `logits` is its row, of shape (vocabulary,)."""
        best = int(logits.argmax())  # the first NaN if there is any
        if not math.isfinite(logits[best]):
            return _GARBLED
        if self._constraint is not None:
            return self._sample_constrained(self._constraint, logits)
        if self._chain is not None:
            token = int(llama_cpp.llama_sampler_sample(self._chain, context, index))  # also accepts it
        else:
            token = self._not_the_end(best, logits) if self._ignore_end else best
        return self._sampled(token, logits)

    def _sampled(self, token: int, logits: NDArray[np.float32], grammar_micros: int = 0) -> Sampled:
        if not math.isfinite(logits[token]):  # nothing else was allowed
            return _GARBLED._replace(grammar_micros=grammar_micros)
        if token in self._vocabulary.end_set:
            return Sampled(token, True, grammar_micros=grammar_micros)
        logprobs = None if self._logprobs is None else _logprobs(logits, token, self._logprobs)
        return Sampled(token, False, logprobs, grammar_micros=grammar_micros)

    def _sample_constrained(self, constraint: Constraint, logits: NDArray[np.float32]) -> Sampled:
        before_micros = constraint.used_micros
        try:
            token = self._choose_allowed(constraint, logits)
        except ConstraintError as e:
            return Sampled(
                -1,
                False,
                failed=f"the grammar cannot be followed any further: {e}",
                param="grammar",
                grammar_micros=constraint.used_micros - before_micros,
            )
        return self._sampled(token, logits, constraint.used_micros - before_micros)

    def _choose_allowed(self, constraint: Constraint, logits: NDArray[np.float32]) -> int:
        """Raises ConstraintError. After common_sampler_sample (llama.cpp, common/sampling.cpp)."""
        token = self._draw(self._vocabulary.candidates(logits))
        if constraint.allows(token):
            self._skip_draw()
        else:
            allowed = constraint.allowed()
            if not allowed.any():
                raise ConstraintError("no token of this model can follow")
            token = self._draw(self._vocabulary.candidates(logits)[allowed])
        constraint.accept(token)
        if self._chain is not None:
            llama_cpp.llama_sampler_accept(self._chain, token)
        return token

    def free(self) -> None:
        """Free the chain and its samplers."""
        if self._chain is not None:
            llama_cpp.llama_sampler_free(self._chain)
        self._chain = self._dist = self._constraint = None

    def _not_the_end(self, best: int, logits: NDArray[np.float32]) -> int:
        """The likeliest token that does not end the text, if `best` is the likeliest of all."""
        if best not in self._vocabulary.end_set:
            return best
        others = logits.copy()  # logprobs need the unmodified row
        others[self._vocabulary.end_tokens] = -np.inf
        return int(others.argmax())

    def _draw(self, candidates: NDArray[Any]) -> int:
        if self._chain is None:
            return int(candidates["id"][candidates["logit"].argmax()])
        return _apply(self._chain, candidates)

    def _skip_draw(self) -> None:
        if self._dist is not None:
            _apply(self._dist, np.array([_NO_DRAW], CANDIDATE))

    def _build_chain(self, sampling: Sampling) -> None:
        params = llama_cpp.llama_sampler_chain_default_params()
        params.no_perf = True
        self._chain = llama_cpp.llama_sampler_chain_init(params)
        size = self._vocabulary.size
        bias = dict(sampling.logit_bias)
        if sampling.ignore_eos:
            bias.update(dict.fromkeys(self._vocabulary.end_tokens, -np.inf))
        if bias:
            array = (llama_cpp.llama_logit_bias * len(bias))(*bias.items())
            self._add(llama_cpp.llama_sampler_init_logit_bias(size, len(bias), array))
        if _has_penalties(sampling):
            self._add(
                llama_cpp.llama_sampler_init_penalties(
                    size,
                    sampling.repeat_last_n,
                    sampling.repeat_penalty,
                    sampling.frequency_penalty,
                    sampling.presence_penalty,
                )
            )
        if sampling.temperature <= 0:
            self._add(llama_cpp.llama_sampler_init_greedy())
            return
        if sampling.top_k > 0:
            self._add(llama_cpp.llama_sampler_init_top_k(sampling.top_k))
        if sampling.typical_p < 1:
            self._add(llama_cpp.llama_sampler_init_typical(sampling.typical_p, 1))
        if sampling.top_p < 1:
            self._add(llama_cpp.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p > 0:
            self._add(llama_cpp.llama_sampler_init_min_p(sampling.min_p, 1))
        self._add(llama_cpp.llama_sampler_init_temp(sampling.temperature))
        seed = sampling.seed if sampling.seed is not None else int.from_bytes(os.urandom(4), "little")
        self._dist = llama_cpp.llama_sampler_init_dist(seed & 0xFFFFFFFF)
        self._add(self._dist)

    def _add(self, sampler: Any) -> None:
        llama_cpp.llama_sampler_chain_add(self._chain, sampler)

    def _replay(self, sampling: Sampling, history: list[int], generated: list[int]) -> None:
        """Bring a new chain to its state after `generated`: its penalties, and the draws for each token."""
        if _has_penalties(sampling):
            window = (history + generated)[-sampling.repeat_last_n :] if sampling.repeat_last_n else []
            for token in window:
                llama_cpp.llama_sampler_accept(self._chain, token)
        draws = 1 if self._constraint is None else 2
        for _ in range(draws * len(generated)):
            self._skip_draw()


def _apply(sampler: Any, candidates: NDArray[Any]) -> int:
    """Apply a sampler in place. Returns the id of the selected candidate, or -1."""
    data = candidates.ctypes.data_as(llama_cpp.llama_token_data_p)
    array = llama_cpp.llama_token_data_array(data, len(candidates), -1, False)
    llama_cpp.llama_sampler_apply(sampler, ctypes.byref(array))
    return int(array.data[array.selected].id) if array.selected >= 0 else -1


def _constraint(vocabulary: Vocabulary, grammar: str, generated: list[int]) -> Constraint | None:
    if not grammar:
        return None
    if vocabulary.matchers is None:
        raise RequestRejected("this model has no end-of-generation token, which a grammar needs", param="grammar")
    try:
        return Constraint(vocabulary.matchers, grammar, vocabulary.grammar_budget_ms * 1000, generated)
    except ConstraintError as e:
        raise RequestRejected(f"cannot use the grammar: {e}", param="grammar") from None


def _is_plain_greedy(sampling: Sampling) -> bool:
    """Whether an argmax is enough. With a grammar, ignore_eos is a bias, so that the end stays possible as a last
    resort."""
    is_biased = bool(sampling.logit_bias) or (sampling.ignore_eos and bool(sampling.grammar))
    return sampling.temperature <= 0 and not is_biased and not _has_penalties(sampling)


def _has_penalties(sampling: Sampling) -> bool:
    changes = sampling.repeat_penalty != 1 or sampling.presence_penalty != 0 or sampling.frequency_penalty != 0
    return changes and sampling.repeat_last_n != 0


def _logprobs(logits: NDArray[np.float32], token: int, n: int) -> TokenLogprobs:
    """Log-softmax of the row at `token` and at its n best."""
    peak = float(logits.max())
    normaliser = peak + float(np.log(np.exp(logits - peak, dtype=np.float32).sum(dtype=np.float64)))
    best = np.argpartition(logits, -n)[-n:] if n else np.array([], dtype=np.int64)
    best = best[np.argsort(-logits[best])]
    top = tuple((int(other), float(logits[other]) - normaliser) for other in best)
    return TokenLogprobs(float(logits[token]) - normaliser, top)
