"""What a request is answered when nobody else is there, to compare with what it was answered among others.

Its own tokens are given to an engine of its own, one by one, and at each the engine says what it would have said, and
how likely everything was. The logits of a pass depend on its shape in their last digits, so what differs by less than
`noise` is the same; a foreign token in the KV cache makes a difference of far more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tenantd.domain import Sampling, TokenLogprobs
from tenantd.engine.compute import Chunk, Sampled
from tenantd.engine.llama import LlamaCompute
from tenantd.wire.messages import Submit
from tests.support.device import GPU_LAYERS
from tests.support.loads import make_load

NOISE = {"off": 0.06 if GPU_LAYERS else 0.01, "auto": 0.06}
"""Of logits, in nats, by the setting of flash attention, which on a CPU adds up in 16 bits. A device may do so without
it: Mesa's makes up to 0.023, and a seventh of that if it must use 32 bits (GGML_VK_DISABLE_F16). One token of 130 that
is another's makes 0.1 or more."""
TRIES = 20


class Alone:
    """An engine with one slot."""

    def __init__(self, model: Path, context_tokens: int, flash_attention: str) -> None:
        self.noise = NOISE[flash_attention]
        load = make_load(
            backend="llama",
            model_path=str(model),
            slots=1,
            context_tokens=context_tokens,
            batch_tokens=context_tokens,
            flash_attention=flash_attention,
        )
        self._engine = LlamaCompute(load, lambda _: None)
        self.widest = 0.0
        """The largest difference of a logprob so far, in answers that were their own."""

    def close(self) -> None:
        self._engine.close()

    def answer(self, submit: Submit, sampling: Sampling) -> list[Sampled]:
        """Its first `max_tokens` tokens."""
        said: list[Sampled] = []
        with self._bound(submit, sampling, []):
            position, pending = 0, submit.prompt
            for _ in range(submit.max_tokens):
                said.append(self._run(position, pending))
                position += len(pending)
                pending = [said[-1].token]
        return said

    def foreign(
        self, submit: Submit, sampling: Sampling, tokens: list[int], logprobs: list[TokenLogprobs | None]
    ) -> str:
        """Where the answer to a request is not its own; "" if it is."""
        at = 0
        while at < len(tokens):
            for own in self._said(submit, sampling, tokens, at):
                if own.token != tokens[at]:
                    if not self._is_undecided(submit, sampling, tokens[:at], own.token, tokens[at]):
                        return f"token {at} is {tokens[at]} instead of {own.token}"
                elif (far := _apart(own.logprobs, logprobs[at])) > self.noise:
                    return f"logprobs of token {at} are {far:.4f} apart"
                else:
                    self.widest = max(self.widest, far)
                at += 1
        return ""

    def _said(self, submit: Submit, sampling: Sampling, tokens: list[int], start: int) -> list[Sampled]:
        """What it samples from token `start` on, given those before each, until it samples another than was given."""
        said: list[Sampled] = []
        with self._bound(submit, sampling, tokens[:start]):
            position, pending = 0, submit.prompt + tokens[:start]
            for token in tokens[start:]:
                said.append(self._run(position, pending))
                if said[-1].token != token:
                    break
                position += len(pending)
                pending = [token]
        return said

    def _is_undecided(self, submit: Submit, sampling: Sampling, before: list[int], own: int, token: int) -> bool:
        """Whether another shape of pass, or a change of the logits within the noise, makes it `token` instead of `own`.

        A draw goes through the tokens by id (though a grammar changes the order), so making all from one id on likelier
        moves it to the next ones.
        """

        def drawn(change: dict[int, float]) -> int:
            bias = {**sampling.logit_bias}
            for one, more in change.items():
                bias[one] = bias.get(one, 0.0) + more
            with self._bound(submit, msgspec.structs.replace(sampling, logit_bias=bias), before):
                return self._run(0, submit.prompt + before).token

        if token in (drawn({}), drawn({own: -self.noise, token: self.noise})):
            return True
        upwards = 1 if token > own else -1
        least, most = 0.0, self.noise
        for _ in range(TRIES):
            size = (least + most) / 2
            from_id = max(own, token)
            ids = range(self._engine.info.vocabulary)
            found = drawn({one: upwards * (size if one >= from_id else -size) for one in ids})
            if found == token:
                return True
            if (found < token) == (upwards > 0):
                least = size
            else:
                most = size
        return False

    @contextmanager
    def _bound(self, submit: Submit, sampling: Sampling, generated: list[int]) -> Iterator[None]:
        seeded = msgspec.structs.replace(sampling, seed=submit.seed)
        self._engine.bind(0, seeded, submit.prompt, generated, submit.adapter)
        try:
            yield
        finally:
            self._engine.clear(0)

    def _run(self, position: int, tokens: list[int]) -> Sampled:
        return self._engine.run([Chunk(0, position, tokens, True)]).sampled[0]


def _apart(own: TokenLogprobs | None, given: TokenLogprobs | None) -> float:
    """The largest difference, rank by rank."""
    assert own is not None and given is not None, "every request asks for logprobs"
    pairs = [(own.logprob, given.logprob)]
    pairs += [(mine, other) for (_, mine), (_, other) in zip(own.top, given.top, strict=True)]
    return max(abs(mine - other) for mine, other in pairs)
