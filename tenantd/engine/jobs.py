"""A request in the engine, and the requests of a tenant. Plain state, changed by the scheduler."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Final

from tenantd.domain import FinishReason, Priority, Sampling
from tenantd.engine.kv.prefixes import Key
from tenantd.minute import TokenWindow
from tenantd.wire.messages import PlacedImage, Submit
from tenantd.wire.settings import Settings

REFILL: Final = 0.5
"""Half-lives in which a used credit is whole again. A short request now and then always finds it; who returns again and
again with long prompts would otherwise be before everybody for ever."""
MOST_TEXTS: Final = 64
"""To embed for one request in one pass: their vectors are sent at once."""


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
    was_garbled: bool = False  # the model returned NaN or infinity for it once, and it was computed again
    is_garbled: bool = False  # it failed, because that happened again
    key: Key | None = None  # with whom it shares what is computed, since it was bound; None: with nobody
    chain: list[int] = field(default_factory=list)  # of its tokens when bound first, if it shares; see `chain_of`
    stops: list[int] = field(default_factory=list)  # lengths, ascending, at which a chunk of its prompt must end
    leader: Job | None = None  # computes what they have in common, for which it waits in its slot
    overtaken: int = 0  # by how many later requests of its tenant
    ends: list[int] = field(default_factory=list)  # of its texts, if they are to be embedded: tokens up to each end
    images: dict[int, PlacedImage] = field(default_factory=dict)  # by the tokens before each

    def __post_init__(self) -> None:
        if self.submit.texts:
            self.ends = list(accumulate(self.submit.texts))
            self.computed = self.charged_prompt  # what was told before a crash
        elif self.submit.allowed_tokens is not None:
            self.allowed = self.submit.allowed_tokens
        if self.submit.images:
            self.images = {image.start: image for image in self.submit.images}
            self.stops = sorted({*self.images, *(image.start + image.tokens for image in self.submit.images)})

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
        return self.computed > 0 and len(self.tokens) - self.computed == 1 and not self.ends and not self.image

    @property
    def image(self) -> PlacedImage | None:
        """The image that its next tokens are."""
        return self.images.get(self.computed) if self.images else None

    def whole_texts(self, tokens: int, texts: int = MOST_TEXTS) -> int:
        """How many of its next tokens are whole texts, as many as given at most, that have this many together."""
        first = bisect_right(self.ends, self.computed)
        most = min(len(self.ends), first + min(texts, MOST_TEXTS))
        last = bisect_right(self.ends, self.computed + tokens, first, most)
        return self.ends[last - 1] - self.computed if last > first else 0

    @property
    def kept(self) -> int:
        """How many tokens its state has, if it is kept while it waits for another slot; none of texts to embed."""
        return 0 if self.ends else self.computed

    @property
    def recomputable(self) -> int:
        """How many computed tokens may be computed again instead of being kept; none of one with images, because these
        take longer than their tokens tell."""
        return 0 if self.has_wholes else self.computed

    @property
    def has_wholes(self) -> bool:
        """Whether there are images in it, or texts to embed."""
        return bool(self.ends or self.images)

    @property
    def next_whole(self) -> int:
        """The length of its next image, or text to embed: nothing less can be computed."""
        if (image := self.image) is not None:
            return image.tokens
        return self.ends[bisect_right(self.ends, self.computed)] - self.computed

    def texts_in(self, tokens: int) -> tuple[int, ...]:
        """The lengths of the texts that its next tokens are; () if it has none."""
        first, last = (bisect_right(self.ends, self.computed + count) for count in (0, tokens))
        return tuple(self.submit.texts[first:last])

    def at_once(self, context_tokens: int, minute_tokens: int | None) -> tuple[FinishReason, str] | None:
        """How it ends before it begins, and why, if it does. `context_tokens` is what a slot holds, `minute_tokens` the
        tenant's tokens per minute: a text that has more would wait for ever."""
        if self.ends and self.remaining:
            longest = max(self.texts_in(self.remaining))
            if not minute_tokens or longest <= minute_tokens:
                return None
            return FinishReason.FAILED, (
                f"a text has {longest} tokens, but the tenant's limit is now {minute_tokens} tokens per minute: "
                "send shorter texts"
            )
        if self.ends:
            return FinishReason.STOP, ""
        largest = max((image.tokens for start, image in self.images.items() if start >= self.computed), default=0)
        if minute_tokens and largest > minute_tokens:
            return FinishReason.FAILED, f"an image has {largest} tokens, more than the tenant's tokens per minute"
        if not self.tokens or len(self.tokens) > context_tokens:
            return FinishReason.FAILED, f"{len(self.tokens)} tokens in a context of {context_tokens}"
        if self.generated >= self.submit.max_tokens or len(self.tokens) == context_tokens:
            return FinishReason.LENGTH, ""
        return None

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
        off how much later. So it costs a token one addition. Texts that were embedded leave nothing in a slot.
        """
        if self.ends:
            return 0, self.swaps
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

    def may_give_way(self, least_tokens: int) -> bool:
        """Whether it has run for `least_tokens` on its slot, or only holds it: nothing is in it that would be lost or
        kept or, for once, nothing but what others computed before it."""
        return self.run_tokens >= least_tokens or not self.computed or not (self.run_tokens or self.swaps)

    def leave(self, now_s: float) -> None:
        """It has no sequence any more."""
        self.kv_token_s += self.computed * max(0.0, now_s - self.bound_s)
        self.sequence = -1


@dataclass(slots=True, eq=False)
class TenantJobs:
    """A tenant's requests and limits. Flex requests are behind the others in the queue; of each of the two kinds,
    swapped-out requests are in front."""

    queue: deque[Job] = field(default_factory=deque)
    active: int = 0
    ordinary: int = 0  # of its requests, those that are not flex
    flex: int = 0  # and those that are
    weight: float = 1.0  # in effect; `full_weight` unless it has only flex requests
    full_weight: float = 1.0
    max_concurrent: int | None = None
    reserved_slots: int = 0
    cache: int = 0  # as in `TenantPolicy`
    priority: Priority = Priority.STANDARD
    is_waiting: bool = False  # one of its requests waited for a slot at the start of the step
    credit: float = 0.0  # its usage counts as lower by this, from its return from idle to its first token
    spare_credit: float = math.inf  # what is left of the credit for its next return, at `returned_s`
    returned_s: float = 0.0
    was_busy: bool = False  # in the previous engine; its requests have yet to arrive
    left_s: float = -math.inf  # when it last had no more work
    has_backlog: bool = False  # the daemon holds more of its requests
    has_flex_backlog: bool = False  # and all of those are flex
    window: TokenWindow = field(default_factory=TokenWindow)

    @property
    def is_busy(self) -> bool:
        return bool(self.queue or self.active or self.has_backlog)

    @property
    def is_flex(self) -> bool:
        """Whether it has only flex requests."""
        if self.ordinary or (self.has_backlog and not self.has_flex_backlog):
            return False
        return self.flex > 0 or self.has_flex_backlog

    def add(self, job: Job) -> None:
        """Put a new request into the queue."""
        if job.submit.is_flex:
            self.queue.append(job)
        else:
            self.queue.insert(self._first_flex(), job)

    def put_back(self, job: Job) -> None:
        """Put a request that was swapped out into the queue."""
        self.queue.insert(self._first_flex() if job.submit.is_flex else 0, job)

    def _first_flex(self) -> int:
        queue = self.queue
        if not queue or not queue[-1].submit.is_flex:
            return len(queue)
        return next(index for index, job in enumerate(queue) if job.submit.is_flex)

    def come_back(self, settings: Settings, now_s: float) -> None:
        """It is back from idle, with what it has left of `burst_credit`, which refills in REFILL half-lives."""
        refilled = settings.burst_credit * max(0.0, now_s - self.returned_s) / (REFILL * settings.half_life_s)
        self.credit = self.spare_credit = min(settings.burst_credit, self.spare_credit + refilled)
        self.returned_s = now_s

    def spend(self, cost: float) -> None:
        """So much of a request's prompt was computed. While its credit lasts, that is what it is for."""
        if self.credit:
            self.spare_credit = max(0.0, self.spare_credit - cost)

    def copy(self, now_s: float) -> TenantJobs:
        """Another one with the same requests, to try things on."""
        return replace(self, queue=self.queue.copy(), window=self.window.copy(now_s))

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
