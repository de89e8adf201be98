"""Holds what tenants' requests leave for their later ones: parks it in its sequence, moves it to host memory when the
sequence is needed, and lets the least recently used go when a share is full.

Carries out with the compute what `kv/` decides. Nobody else pushes out what a tenant has within its share; only where
that is, in a sequence or not, depends on who needs sequences.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Hashable
from typing import Final

from tenantd.engine.between import Upkeep
from tenantd.engine.compute import Compute, Owner
from tenantd.engine.jobs import Job
from tenantd.engine.kv.prefixes import BLOCK_TOKENS, PREFIX_BYTES, TOKEN_BYTES, Key, Match, Prefix, Prefixes, chain_of
from tenantd.engine.kv.slots import Slots
from tenantd.engine.kv.states import States
from tenantd.wire.messages import TenantPolicy

LITTLE_TOKENS: Final = 4 * BLOCK_TOKENS
LITTLE_PART: Final = 1 / 8
"""So much of a prefix, the larger of the two, is cut away for a request that takes it where it is; to save more, the
request gets a copy."""
MOST_WIPED: Final = 8
MOST_WIPED_BYTES: Final = 32 << 20
"""So much of what was forgotten is overwritten and freed in one step, or one prefix if that has more: others wait for
it, about 10 ms."""


class Cache:
    """Every prefix and its state. `slots` and `states` are the scheduler's.

    What is done for a request is measured by the caller, what is done for what another tenant left is measured here.
    """

    def __init__(self, compute: Compute, slots: Slots, states: States, upkeep: Upkeep) -> None:
        self._compute = compute
        self._slots = slots
        self._states = states
        self._shares = states.shares
        self._upkeep = upkeep
        self._prefixes = Prefixes()
        self._forgotten: dict[int, Prefix] = {}  # found by nobody; still to be overwritten, and their bytes freed
        self._owners: dict[str, int] = {}  # tenants with a cache, by name
        self._bytes_per_token = 0.0  # of a state, as seen last

    # ---- tenants --------------------------------------------------------------------------------------------------

    def owner(self, tenant: str) -> int:
        """Whose prefixes a tenant's requests may use; 0: nobody's."""
        return self._owners.get(tenant, 0)

    def set_policy(self, policy: TenantPolicy) -> None:
        """A tenant's cache is on or off, and its share by this weight. What it had is forgotten once it is off, or if
        the tenant is another one of that name."""
        if self.owner(policy.tenant) != policy.cache:
            self.forget(policy.tenant)
        if policy.cache:
            self._owners[policy.tenant] = policy.cache
            self._shares.set_weight(policy.cache, policy.weight)

    def forget(self, tenant: str) -> None:
        """Forget all that a tenant has here: it is found no more, and is overwritten in the next steps."""
        if owner := self._owners.pop(tenant, 0):
            self._withdraw(lambda key: key.owner == owner)
            self._shares.set_weight(owner, None)

    def forget_adapter(self, adapter: str, but: Hashable) -> None:
        """Forget what was computed with an adapter's file before it became this version."""
        self._withdraw(lambda key: key.adapter == adapter and key.version != but)

    def distrust(self, job: Job) -> None:
        """Forget all that a request that went wrong may have begun with, or left."""
        self._withdraw(lambda key: key == job.key)

    def _withdraw(self, is_meant: Callable[[Key], bool]) -> None:
        for key in filter(is_meant, self._prefixes.keys()):
            self._forgotten.update((prefix.number, prefix) for prefix in self._prefixes.withdraw(key))

    @property
    def is_wiping(self) -> bool:
        """Whether anything that was forgotten is still there."""
        return bool(self._forgotten)

    def wipe(self) -> None:
        """Overwrite and free a part of what was forgotten."""
        wiped = wiped_bytes = 0
        while self._forgotten and wiped < MOST_WIPED and wiped_bytes < MOST_WIPED_BYTES:
            wiped += 1
            wiped_bytes += self._wipe_one()

    def _wipe_one(self) -> int:
        """Returns how many bytes are free now."""
        prefix = self._forgotten.pop(next(iter(self._forgotten)))
        self._free(prefix)
        return prefix.size_bytes

    def used(self) -> dict[int, int]:
        """Bytes by owner."""
        return self._shares.used

    # ---- beginning ------------------------------------------------------------------------------------------------

    def find(self, key: Key, tokens: array[int], chain: list[int]) -> Match | None:
        """The prefix that serves a request with these tokens best; at least one is always left to compute."""
        return self._prefixes.find(key, tokens, chain, len(tokens) - 1) if key.owner else None

    def likely(self, key: Key, chain: list[int]) -> int:
        """About how many of a request's tokens a prefix serves."""
        return self._prefixes.likely(key, chain)

    def use(self, match: Match, sequence: int) -> tuple[int, int]:
        """Get what was found into a sequence, parked there: this one, which is free, or the one where it is.

        Returns the number under which it is parked, which is no prefix's here any more or not in a sequence, and where.
        The number is 0 if it could not be done.
        """
        prefix, tokens = match
        there = self._slots.where(prefix.number)
        cut_tokens = len(prefix.tokens) - tokens
        if there is not None and cut_tokens <= max(LITTLE_TOKENS, LITTLE_PART * len(prefix.tokens)):
            self._slots.unpark(there)
            self._drop(prefix)
            return (prefix.number, there) if self._compute.cut(there, prefix.number, tokens) else (0, sequence)
        self.vacate(sequence)
        if prefix not in self._prefixes or tokens < prefix.least_tokens:  # it was there itself
            return 0, sequence
        self._prefixes.touch(prefix)
        if (there := self._slots.where(prefix.number)) is not None:
            self._slots.touch(there)
            number = self._slots.new_number()
            is_there = self._compute.copy(there, sequence, Owner("prefix", prefix.number), number, tokens)
            return number if is_there else 0, sequence
        return self._restore(prefix, sequence, tokens), sequence

    def _restore(self, prefix: Prefix, sequence: int, tokens: int) -> int:
        kept = self._states.of_prefix(prefix.number)
        assert kept is not None, "a prefix has a place"
        if not self._compute.restore(sequence, kept):
            self._drop(prefix)
            return 0
        return prefix.number if self._compute.cut(sequence, prefix.number, tokens) else 0

    # ---- leaving --------------------------------------------------------------------------------------------------

    def keep(self, job: Job, sequence: int) -> bool:
        """Park what a request that has ended leaves in its sequence. False if it is not worth its bytes, or is there
        already; then the sequence is to be cleared."""
        key = job.key
        if key is None or not key.owner or key.owner != self.owner(job.submit.tenant) or job.computed < BLOCK_TOKENS:
            return False
        tokens, chain = _computed(job)
        if self._has(key, tokens, chain):
            return False
        number = self._slots.new_number()
        parked = self._compute.park(sequence, job.submit.request, number)
        self._bytes_per_token = parked.size_bytes / len(tokens)
        prefix = Prefix(number, key, tokens, chain, parked.least_tokens, parked.size_bytes + _own_bytes(len(tokens)))
        if prefix.size_bytes > self._shares.share_bytes(key.owner):
            return False
        self._absorb(prefix)
        if not self._make_room(key.owner, prefix.size_bytes):
            return False
        self._states.reserve(number, key.owner, prefix.size_bytes)
        self._prefixes.add(prefix)
        self._slots.park(sequence, number)
        return True

    def checkpoint(self, job: Job) -> None:
        """Keep a copy of what a running request has computed so far, if there is room in its tenant's share."""
        key = job.key
        if key is None or not key.owner or key.owner != self.owner(job.submit.tenant):
            return
        tokens, chain = _computed(job)
        own_bytes = _own_bytes(len(tokens))
        expected_bytes = round(self._bytes_per_token * len(tokens)) + own_bytes
        if self._has(key, tokens, chain) or not self._make_room(key.owner, expected_bytes):
            return
        most_bytes = min(self._shares.room_bytes, self._shares.share_bytes(key.owner)) - own_bytes
        number, owner = self._slots.new_number(), Owner("request", job.submit.request)
        if (kept := self._compute.save(job.sequence, owner, number, most_bytes)) is None:
            return
        self._bytes_per_token = kept.size_bytes / len(tokens)
        size_bytes = kept.size_bytes + own_bytes
        self._states.reserve(number, key.owner, size_bytes)
        self._states.put(kept)
        self._prefixes.add(Prefix(number, key, tokens, chain, kept.least_tokens, size_bytes, is_checkpoint=True))

    def vacate(self, sequence: int) -> None:
        """Move the prefix that is parked in a sequence, if one is, to host memory, where its bytes are reserved.

        That is for the owner, who keeps it.
        """
        if (number := self._slots.parked.get(sequence)) is None:
            return
        if (forgotten := self._forgotten.pop(number, None)) is not None:
            self._free(forgotten)
            return
        prefix = self._prefixes.get(number)
        with self._upkeep.of_owner(prefix.owner):
            self._move_out(prefix, sequence)

    def _move_out(self, prefix: Prefix, sequence: int) -> None:
        number = prefix.number
        room_bytes = prefix.size_bytes - _own_bytes(len(prefix.tokens))
        kept = self._compute.save(sequence, Owner("prefix", number), number, room_bytes)
        if kept is None:
            self._drop(prefix)
            return
        self._compute.clear(sequence)
        self._slots.unpark(sequence)
        self._states.put(kept)
        self._prefixes.restrict(prefix, kept.least_tokens)

    def vacate_all(self) -> None:
        """Empty every sequence that is only parked."""
        for sequence in list(self._slots.parked):
            self.vacate(sequence)

    def _has(self, key: Key, tokens: array[int], chain: list[int]) -> bool:
        """Whether a prefix does all that one with these tokens would do. It is used now."""
        match = self._prefixes.find(key, tokens, chain, len(tokens))
        if match is None or match.tokens < len(tokens):
            return False
        self._prefixes.touch(match.prefix)
        return True

    def _absorb(self, longer: Prefix) -> None:
        """Let go of what this one does as well. What others had left before it, and it may not do, goes next."""
        can_cut = self._compute.window_tokens is None or len(longer.tokens) <= self._compute.window_tokens
        for prefix in self._prefixes.inside(longer):
            if can_cut or len(prefix.tokens) == len(longer.tokens):
                self._drop(prefix)
            elif not prefix.is_checkpoint:
                self._prefixes.make_oldest(prefix)

    def _make_room(self, owner: int, size_bytes: int) -> bool:
        """Let the least recently used go, of those who have more than their share. False if it is over the owner's."""
        if size_bytes > self._shares.share_bytes(owner):
            return False
        while self._shares.room_bytes < size_bytes and self._forgotten:
            self._wipe_one()
        if self._shares.room_bytes >= size_bytes:
            return True
        firsts: list[tuple[int, int, Prefix]] = []

        def consider(one: int) -> None:
            oldest = self._prefixes.oldest(one)
            if oldest is not None and self._shares.is_over(one, size_bytes if one == owner else 0):
                heapq.heappush(firsts, (oldest.used, oldest.number, oldest))

        for one in self._prefixes.owners():
            consider(one)
        while self._shares.room_bytes < size_bytes:
            if not firsts:
                return False  # for the byte that shares lost by rounding
            *_, first = heapq.heappop(firsts)
            self._drop(first)
            consider(first.owner)
        return True

    def _drop(self, prefix: Prefix) -> None:
        """Forget it, overwrite and free its state, and give its bytes back."""
        self._prefixes.remove(prefix)
        self._free(prefix)

    def _free(self, prefix: Prefix) -> None:
        if (kept := self._states.release(prefix.number)) is not None:
            kept.free()
        if (sequence := self._slots.where(prefix.number)) is not None:
            self._compute.clear(sequence)
            self._slots.unpark(sequence)

    def check(self) -> None:
        """Check invariants: every prefix has its bytes, and is in one place; every owner has a cache."""
        everything = [*self._prefixes, *self._forgotten.values()]
        numbers = {prefix.number for prefix in everything}
        assert self._states.prefixes() == numbers, "every prefix has its bytes"
        parked = set(self._slots.parked.values())
        assert parked <= numbers and len(parked) == len(self._slots.parked), "what is parked is known, and in one place"
        for prefix in everything:
            is_kept = self._states.of_prefix(prefix.number) is not None
            assert is_kept != (prefix.number in parked), "a prefix is in one place"
        assert {prefix.owner for prefix in self._prefixes} <= set(self._owners.values()), "who has none leaves none"


def _computed(job: Job) -> tuple[array[int], list[int]]:
    """What a request has computed, and its chain."""
    tokens = array("i", job.tokens[: job.computed])
    return tokens, chain_of(tokens, job.chain[: len(tokens) // BLOCK_TOKENS])


def _own_bytes(tokens: int) -> int:
    return PREFIX_BYTES + TOKEN_BYTES * tokens
