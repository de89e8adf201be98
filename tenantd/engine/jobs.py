"""A request in the engine, and the requests of a tenant. Plain state, changed by the scheduler."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field

from tenantd.domain import Priority, Sampling
from tenantd.engine.kv.prefixes import Key
from tenantd.minute import TokenWindow
from tenantd.wire.messages import Submit


@dataclass(slots=True, eq=False)
class Job:
    """One request in the engine: queued, bound to a sequence, or swapped out (queued again, its state with `States`).

    `tokens` is the prompt and everything generated; the first `computed` of them are in the KV cache. A job decodes
    when one token is left to compute, the one generated last.
    """

    submit: Submit
    sampling: Sampling  # with the request's own seed
    tokens: list[int]
    generated: int
    charged_prompt: int  # prompt tokens charged so far, computed or not, here or before a crash
    computed: int = 0
    sequence: int = -1
    binding: int | None = None  # of the sequence it has or had last; None if it never had any
    is_queued: bool = False
    run_tokens: int = 0  # computed since it was last bound
    decoded_s: float = 0.0  # when it last got a token, or was bound
    allowed: float = math.inf  # tokens that it may have generated for the time being
    bound_s: float = 0.0  # when it got the slot that it has or had last
    kv_token_s: float = 0.0  # token-seconds in slots, but for what it holds now; see `held`
    swaps: int = 0  # how often it gave its slot up
    has_failed: bool = False
    key: Key | None = None  # with whom it shares what is computed, since it was bound; None: with nobody
    chain: list[int] = field(default_factory=list)  # of its tokens when bound first, if it shares; see `chain_of`
    stops: list[int] = field(default_factory=list)  # lengths, ascending, at which a chunk of its prompt must end
    leader: Job | None = None  # computes what they have in common, for which it waits in its slot
    overtaken: int = 0  # by how many later requests of its tenant

    def __post_init__(self) -> None:
        if self.submit.allowed_tokens is not None:
            self.allowed = self.submit.allowed_tokens

    @property
    def arrival(self) -> int:
        """Order of arrival at the daemon, which may differ from the order of arrival here."""
        return self.submit.request

    @property
    def counted_prompt(self) -> int:
        """Prompt tokens that no longer count towards tokens per minute, because they were counted or never will be."""
        return self.charged_prompt if self.submit.counts_prompt else len(self.submit.prompt)

    def is_paced(self, tenant: TenantJobs, now_s: float) -> bool:
        """Whether it has generated all that it may for the time being, or its tenant all of this minute."""
        return self.generated >= self.allowed or tenant.window.allowance(now_s) == 0

    @property
    def remaining(self) -> int:
        return len(self.tokens) - self.computed

    @property
    def is_decoding(self) -> bool:
        return self.computed > 0 and len(self.tokens) - self.computed == 1

    @property
    def is_held(self) -> bool:
        """Whether it has generated all that it may for the time being."""
        return self.generated >= self.allowed

    @property
    def stretch(self) -> int:
        """How many tokens are left before the next of `stops`, or in all."""
        end = bisect_right(self.stops, self.computed)
        return (self.stops[end] if end < len(self.stops) else len(self.tokens)) - self.computed

    def held(self, now_s: float) -> tuple[int, int]:
        """Its token-microseconds in slots, and how often it gave its slot up.

        Every token counts as if it had been in the slot since `bound_s`; for those that came later, `advance` takes
        off how much later. So it costs a token one addition.
        """
        late = self.computed * (now_s - self.bound_s) if self.sequence >= 0 else 0.0
        return max(0, round((self.kv_token_s + late) * 1e6)), self.swaps

    def begin_with(self, tokens: int, now_s: float) -> int:
        """Its first `tokens` are in its slot now, without having been computed. Returns how many of its prompt are
        accounted for by that."""
        self.computed = tokens
        self.kv_token_s -= tokens * (now_s - self.bound_s)
        cached = max(0, min(tokens, len(self.submit.prompt)) - self.charged_prompt)
        self.charged_prompt += cached
        return cached

    def advance(self, computed: int, tokens: int, now_s: float) -> None:
        """`tokens` were computed; now there are `computed` in its slot."""
        self.computed = computed
        self.run_tokens += tokens
        self.kv_token_s -= tokens * (now_s - self.bound_s)

    def leave(self, now_s: float) -> None:
        """It has no sequence any more."""
        self.kv_token_s += self.computed * max(0.0, now_s - self.bound_s)
        self.sequence = -1


@dataclass(slots=True, eq=False)
class TenantJobs:
    """A tenant's requests and limits. Swapped-out requests are at the front of the queue."""

    queue: deque[Job] = field(default_factory=deque)
    active: int = 0
    weight: float = 1.0
    max_concurrent: int | None = None
    reserved_slots: int = 0
    cache: int = 0  # as in `TenantPolicy`
    priority: Priority = Priority.STANDARD
    is_waiting: bool = False  # one of its requests waited for a slot at the start of the step
    is_back: bool = False  # back from idle, without a token since
    was_busy: bool = False  # in the previous engine; its requests have yet to arrive
    left_s: float = -math.inf  # when it last had no more work
    has_backlog: bool = False  # the daemon holds more of its requests
    window: TokenWindow = field(default_factory=TokenWindow)

    @property
    def is_busy(self) -> bool:
        return bool(self.queue or self.active or self.has_backlog)

    def fit(self, slots: float) -> float:
        """`slots`, raised to its reserve and then lowered to what it can use."""
        usable = math.inf if self.has_backlog else self.active + len(self.queue)
        if self.max_concurrent is not None:
            usable = min(usable, max(self.max_concurrent, self.active))
        return min(usable, max(self.reserved_slots, slots))

    def may_start(self, now_s: float) -> bool:
        """Whether its limits allow binding another of its requests."""
        return self.has_place(self.active) and self.window.allowance(now_s) != 0

    def has_place(self, active: int) -> bool:
        """Whether one more request may run beside `active` others."""
        return self.max_concurrent is None or active < self.max_concurrent
