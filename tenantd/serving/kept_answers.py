"""Answers to requests with an `Idempotency-Key`, in memory, to be given again. They never touch the disk.

Every tenant has the same memory for its own answers, however many others there are: what one keeps does not push out
what another keeps, and tells it nothing. An answer counts from its first byte until it is forgotten, also while it is
being sent.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from typing import Final

import msgspec

from tenantd.ledger.idempotency import KEPT_S, KeyedBody

OVERHEAD_BYTES: Final = 1024
"""What an answer takes besides its body and headers, at most."""

Headers = list[tuple[bytes, bytes]]


class KeptAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A complete answer to the request `keyed`, as it was given. `kept_s` is when, by a monotonic clock."""

    keyed: KeyedBody
    status: int
    headers: Headers
    body: bytes
    kept_s: float

    @property
    def size_bytes(self) -> int:
        """What it takes in memory."""
        return head_bytes(self.headers) + len(self.body)


def head_bytes(headers: Headers) -> int:
    """What an answer with these headers takes without its body."""
    return OVERHEAD_BYTES + sum(len(name) + len(value) for name, value in headers)


class _Account:
    """One tenant's answers by key. Those that are being sent are in `sending`, with how often; they stay."""

    def __init__(self) -> None:
        self.answers: OrderedDict[str, KeptAnswer] = OrderedDict()  # the oldest first
        self.sending: dict[str, tuple[KeptAnswer, int]] = {}
        self.held_bytes = 0  # by answers, and by those that are being recorded

    def make_room(self, more_bytes: int, share_bytes: int) -> bool:
        """Forget the oldest answers until `more_bytes` fit. False if they do not."""
        while self.held_bytes + more_bytes > share_bytes and self.answers:
            self.forget(next(iter(self.answers)))
        return self.held_bytes + more_bytes <= share_bytes

    def forget(self, key: str) -> None:
        self.held_bytes -= self.answers.pop(key).size_bytes


class KeptAnswers:
    """All tenants' answers. Call it only in the event loop."""

    def __init__(self, share_bytes: int, clock_s: Callable[[], float]) -> None:
        """Each tenant's answers take at most `share_bytes`. `clock_s` is monotonic."""
        self._share_bytes = share_bytes
        self._clock_s = clock_s
        self._accounts: dict[int, _Account] = {}

    @property
    def held_bytes(self) -> int:
        """By all tenants together."""
        return sum(account.held_bytes for account in self._accounts.values())

    def tenants_are(self, tenant_ids: Collection[int]) -> None:
        """These tenants exist from now on. Forgets the answers of others."""
        before = self._accounts
        self._accounts = {tenant_id: before.get(tenant_id) or _Account() for tenant_id in tenant_ids}

    def find(self, tenant_id: int, key: str) -> KeptAnswer | None:
        """The answer that a tenant's key stands for."""
        if (account := self._accounts.get(tenant_id)) is None:
            return None
        answer = account.sending[key][0] if key in account.sending else account.answers.get(key)
        return answer if answer is not None and self._is_fresh(answer) else None

    @contextlib.contextmanager
    def sending(self, answer: KeptAnswer) -> Iterator[None]:
        """While this is open the answer counts as held, so that slow readers do not make room for more."""
        account, key = self._accounts.get(answer.keyed.tenant_id), answer.keyed.key
        if account is None:  # its tenant was removed in this moment
            yield
            return
        account.answers.pop(key, None)
        account.sending[key] = (answer, account.sending.get(key, (answer, 0))[1] + 1)
        try:
            yield
        finally:
            _, count = account.sending.pop(key)
            if count > 1:
                account.sending[key] = (answer, count - 1)
            elif key in account.answers:  # a newer one
                account.held_bytes -= answer.size_bytes
            else:
                account.answers[key] = answer
                account.answers.move_to_end(key, last=False)

    def count_sending(self, tenant_id: int) -> int:
        """How many times answers of a tenant are being sent now."""
        account = self._accounts.get(tenant_id)
        return 0 if account is None else sum(count for _, count in account.sending.values())

    def grow(self, tenant_id: int, more_bytes: int) -> bool:
        """Make room for a part of an answer that is being recorded, if need be at the cost of the tenant's oldest
        answers. False if that is impossible."""
        account = self._accounts.get(tenant_id)
        if account is None or not account.make_room(more_bytes, self._share_bytes):
            return False
        account.held_bytes += more_bytes
        return True

    def give_back(self, tenant_id: int, held_bytes: int) -> None:
        """What `grow` made room for is not kept after all."""
        if (account := self._accounts.get(tenant_id)) is not None:
            account.held_bytes -= held_bytes

    def keep(self, answer: KeptAnswer) -> None:
        """Keep an answer that `grow` has made room for, unless its tenant was removed meanwhile."""
        if (account := self._accounts.get(answer.keyed.tenant_id)) is not None:
            if answer.keyed.key in account.answers:
                account.forget(answer.keyed.key)
            account.answers[answer.keyed.key] = answer

    def forget_old(self) -> None:
        """Forget answers that are older than a day."""
        for account in self._accounts.values():
            while account.answers and not self._is_fresh(next(iter(account.answers.values()))):
                account.forget(next(iter(account.answers)))

    def _is_fresh(self, answer: KeptAnswer) -> bool:
        return self._clock_s() - answer.kept_s < KEPT_S


class Recording:
    """An answer while it is given for the first time. It is dropped as soon as there is no room for it."""

    def __init__(self, answers: KeptAnswers, keyed: KeyedBody) -> None:
        self._answers = answers
        self._keyed = keyed
        self._held_bytes = 0
        self._parts: list[bytes] = []
        self._status = 0  # 0: it has not begun, or was dropped
        self._headers: Headers = []
        self._is_complete = False

    def begin(self, status: int, headers: Headers) -> None:
        """Its head is sent."""
        self.drop()
        if self._has_room(head_bytes(headers)):
            self._status, self._headers = status, headers

    def add(self, part: bytes) -> None:
        """A part of its body is sent."""
        if self._status and self._has_room(len(part)):
            self._parts.append(part)

    def complete(self) -> None:
        """All of it was sent, or would have been if its client had stayed."""
        self._is_complete = self._status != 0

    def keep(self, now_s: float) -> None:
        """Keep it if it is complete."""
        if self._is_complete:
            self._held_bytes = 0
            body = b"".join(self._parts)
            self._answers.keep(
                KeptAnswer(keyed=self._keyed, status=self._status, headers=self._headers, body=body, kept_s=now_s)
            )
        self.drop()

    def drop(self) -> None:
        """Give its memory back."""
        self._answers.give_back(self._keyed.tenant_id, self._held_bytes)
        self._held_bytes, self._parts = 0, []
        self._status, self._headers, self._is_complete = 0, [], False

    def _has_room(self, more_bytes: int) -> bool:
        if not self._answers.grow(self._keyed.tenant_id, more_bytes):
            self.drop()
            return False
        self._held_bytes += more_bytes
        return True
