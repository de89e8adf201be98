"""Decides how a request begins: with what an earlier one left, with a copy of what a running one has, or from its first
token; and who waits for whom.

Requests share what they begin with if they are of one tenant with its cache on, or of one call, and use the same
version of an adapter. A request whose beginning is just being computed by another waits for it in its slot: both would
be done no sooner if each computed its own.
"""

from __future__ import annotations

from array import array
from bisect import insort
from collections.abc import Hashable
from typing import Final

from tenantd.engine.between import Upkeep
from tenantd.engine.cache import Cache
from tenantd.engine.compute import Compute, EngineBroken, Owner, RequestRejected
from tenantd.engine.following import Lead, best_lead, checkpoints
from tenantd.engine.jobs import Job
from tenantd.engine.kv.prefixes import BLOCK_TOKENS, Key, Match, chain_of
from tenantd.engine.scheduler import Scheduler
from tenantd.wire.messages import IMAGE_TOKENS_FROM, Submit

MOST_COPIES: Final = 4
"""To followers, before one pass: others wait for it."""
MOST_HASHED_BLOCKS: Final = 256
"""Of a waiting request, each time it is looked at: there may be many long ones, and nobody computes meanwhile."""


class Reuse:
    """Begins and ends requests in their sequences. Owns who follows whom, and which checkpoints are to come."""

    def __init__(self, scheduler: Scheduler, compute: Compute, upkeep: Upkeep, checkpoint_tokens: int) -> None:
        self._scheduler = scheduler
        self._compute = compute
        self._upkeep = upkeep
        self._slots = scheduler.slots
        self._checkpoint_tokens = checkpoint_tokens
        self.cache = Cache(compute, scheduler.slots, scheduler.states, upkeep)
        self._versions: dict[str, Hashable] = {}  # of adapters, as seen last
        self._followers: dict[int, tuple[Job, Lead]] = {}  # they have a sequence, in which nothing is yet
        self._checkpoints: dict[int, tuple[Job, list[int]]] = {}  # to come, ascending
        scheduler.cached = self._likely

    # ---- beginning ------------------------------------------------------------------------------------------------

    def begin(self, job: Job, now_s: float) -> int:
        """Bind a request that has a sequence in the compute, too, or let it follow another.

        Returns the engine time of the binding in microseconds. A rejected request ends.
        """
        submit = job.submit
        visible = submit.prompt[submit.hidden_tokens :]  # penalties for the rest would tell what it is
        if submit.images:
            visible = [token for token in visible if token < IMAGE_TOKENS_FROM]
        payer = None if submit.generated else job  # after a crash all this is done again
        number = tokens = 0
        try:
            with self._upkeep.of(payer):
                if (key := self._key(submit)) is not None:
                    job.key = key
                    number, tokens = self._find(job)
                if not number and job.leader is None:
                    self.cache.vacate(job.sequence)
            if job.leader is not None:
                return 0
            micros = self._compute.bind(
                job.sequence, job.sampling, visible, submit.generated, submit.adapter, submit.request, number
            )
        except RequestRejected as e:
            self._scheduler.worked(payer, e.micros)
            self._scheduler.reject(submit.request, str(e), e.param, e.detail)
            return e.micros
        self._scheduler.worked(payer, micros)
        if number:
            self._scheduler.begin_with(job, tokens, now_s)
        if key is not None and key.owner:
            self._plan_checkpoints(job)
        return micros

    def _key(self, submit: Submit) -> Key | None:
        """With whom a request shares; None: with nobody, as with images. Raises RequestRejected."""
        owner = self.cache.owner(submit.tenant)
        if submit.texts or submit.images or (not owner and not submit.group):
            return None
        version = self._compute.adapter_version(submit.adapter)
        if submit.adapter and self._versions.get(submit.adapter) != version:
            self._versions[submit.adapter] = version
            self.cache.forget_adapter(submit.adapter, version)
        return Key(owner, 0 if owner else submit.group, submit.adapter, version, submit.hidden_tokens)

    def _find(self, job: Job) -> tuple[int, int]:
        """Get the longest beginning that there is into the request's sequence, parked there, or let it follow another.

        Returns the number under which it is parked and its length, (0, 0) if there is none.
        """
        assert job.key is not None
        tokens = array("i", job.tokens)
        job.chain = chain_of(tokens, job.chain)
        match = self.cache.find(job.key, tokens, job.chain)
        has_tokens = 0 if match is None else match.tokens
        lead = best_lead(job, self._scheduler.active.values())
        if lead is not None and lead.tokens >= has_tokens + BLOCK_TOKENS:
            if lead.is_ready:
                if number := self._copy(lead, job):
                    return number, lead.tokens
            elif lead.job.computed >= has_tokens and not lead.job.is_held:
                self._follow(lead, job)
                return 0, 0
        return (self._use(match, job), has_tokens) if match is not None else (0, 0)

    def _copy(self, lead: Lead, job: Job) -> int:
        if lead.job.key != job.key:
            raise EngineBroken(f"request {job.submit.request} was to begin like {lead.job.submit.request}, another's")
        self.cache.vacate(job.sequence)
        number, owner = self._slots.new_number(), Owner("request", lead.job.submit.request)
        is_copied = self._compute.copy(lead.job.sequence, job.sequence, owner, number, lead.tokens)
        return number if is_copied else 0

    def _use(self, match: Match, job: Job) -> int:
        if match.prefix.key != job.key:
            raise EngineBroken(
                f"request {job.submit.request} was to begin with prefix {match.prefix.number}, another's"
            )
        number, sequence = self.cache.use(match, job.sequence)
        if number and sequence != job.sequence:
            self._scheduler.reseat(job, sequence)
        return number

    def _likely(self, job: Job) -> int:
        """About how many tokens of a waiting request are computed already."""
        submit = job.submit
        if submit.texts or submit.images or not (owner := self.cache.owner(submit.tenant)):
            return 0
        if len(job.chain) < len(job.tokens) // BLOCK_TOKENS:
            job.chain = chain_of(job.tokens, job.chain, MOST_HASHED_BLOCKS)
        version = self._versions.get(submit.adapter, ())
        return self.cache.likely(Key(owner, 0, submit.adapter, version, submit.hidden_tokens), job.chain)

    # ---- following ------------------------------------------------------------------------------------------------

    def _follow(self, lead: Lead, job: Job) -> None:
        self.cache.vacate(job.sequence)
        job.leader = lead.job
        self._followers[job.submit.request] = (job, lead)
        self._scheduler.followers.add(job.submit.request)
        ends_soon = lead.job.submit.max_tokens - lead.job.generated <= 1
        if (self._compute.window_tokens is not None or ends_soon) and lead.tokens not in lead.job.stops:
            insort(lead.job.stops, lead.tokens)  # later its state cannot be cut to that, or is gone

    def unfollow(self, job: Job) -> None:
        """It no longer waits for another. Nothing is in its sequence yet, and the compute does not know it."""
        job.leader = None
        del self._followers[job.submit.request]
        self._scheduler.followers.discard(job.submit.request)

    # ---- between passes -------------------------------------------------------------------------------------------

    def before_pass(self) -> None:
        """Take the checkpoints that are due, and make room for packing."""
        if self._checkpoints:
            self._take_checkpoints()
        if self._slots.parked and (sequence := self._scheduler.in_the_way()) is not None:
            self.cache.vacate(sequence)

    def begin_followers(self, now_s: float) -> None:
        """Begin those whose wait is over. Some may be rejected."""
        can_wait = self._compute.window_tokens is None  # else the state is the right one only now
        copies = 0
        for job, lead in list(self._followers.values()):
            leader = lead.job
            if job.sequence < 0:
                self.unfollow(job)  # it has ended
            elif leader.sequence < 0 or leader.is_held or (lead.is_ready and not (can_wait and copies >= MOST_COPIES)):
                copies += 1
                self.unfollow(job)
                self.begin(job, now_s)

    def _plan_checkpoints(self, job: Job) -> None:
        """A state that is longer than the model's window cannot be cut, so the lengths that will be asked for are
        kept apart."""
        submit, window_tokens = job.submit, self._compute.window_tokens
        if window_tokens is None or len(submit.prompt) + submit.max_tokens <= window_tokens:
            return
        if lengths := checkpoints(submit, job.computed, self._checkpoint_tokens):
            self._checkpoints[submit.request] = (job, lengths)
            job.stops = sorted({*job.stops, *lengths})

    def _take_checkpoints(self) -> None:
        for request, (job, lengths) in list(self._checkpoints.items()):
            if job.sequence >= 0:
                while lengths and lengths[0] < job.computed:
                    lengths.pop(0)
                if lengths and lengths[0] == job.computed:
                    with self._upkeep.of(job):
                        self.cache.checkpoint(job)
                    lengths.pop(0)
            if not lengths or not (job.is_queued or job.sequence >= 0):
                del self._checkpoints[request]

    # ---- ending ---------------------------------------------------------------------------------------------------

    def leave(self, sequence: int, job: Job) -> None:
        """Park what a request that has ended leaves in its sequence, or clear it."""
        if job.is_garbled:
            self.cache.distrust(job)
        if sequence in self._slots.parked:
            return  # it did not begin, so what was there still is
        if job.has_failed or not self.cache.keep(job, sequence):
            self._compute.clear(sequence)

    def check_idle(self) -> bool:
        """Whether the compute holds what is parked and nothing else. Checks the invariants first."""
        self.cache.check()
        assert not self._followers or all(job.sequence < 0 for job, _ in self._followers.values())
        return self._compute.holds_only(self._slots.parked)
