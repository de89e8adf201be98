"""What of free quotas is left, and what requests hold together. Pure.

The ledger gives a quota to requests in the order in which they end, so no single request can count on it. All requests
of a tenant together can: what they hold in the tenant's own budgets is what they cost beyond what is left.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple
from zoneinfo import ZoneInfo

from tenantd.ledger.quotas import FreeUse, month_of


class Tokens(NamedTuple):
    """Of prompts, and of output."""

    prompt: int = 0
    output: int = 0


class Drawn(NamedTuple):
    """What some requests hold together."""

    requests: int = 0
    tokens: Tokens = Tokens()
    engine_micros: int = 0

    def plus(self, other: Drawn, times: int = 1) -> Drawn:
        """With others, or without them (`times` -1)."""
        (one_prompt, one_output), (prompt, output) = self.tokens, other.tokens
        return Drawn(
            self.requests + times * other.requests,
            Tokens(one_prompt + times * prompt, one_output + times * output),
            self.engine_micros + times * other.engine_micros,
        )


class FreeQuotas:
    """What was given away in each month, by tenant. It only grows, so news may come in any order."""

    def __init__(self) -> None:
        self._given: dict[tuple[int, str], Tokens] = {}

    def note(self, uses: Iterable[FreeUse]) -> None:
        """What the ledger has given away so far."""
        for tenant_id, month, *given in uses:
            known = self._given.get((tenant_id, month), Tokens())
            self._given[tenant_id, month] = Tokens(*map(max, known, given))

    def forget_before(self, at_micros: int, timezone: ZoneInfo) -> None:
        """Of months before the one of this moment nobody asks any more."""
        month = month_of(at_micros, timezone)
        self._given = {key: given for key, given in self._given.items() if key[1] >= month}

    def left(self, tenant_id: int, quota: Tokens, at_micros: int, timezone: ZoneInfo) -> Tokens:
        """What is left of a quota in the month of a moment."""
        given = self._given.get((tenant_id, month_of(at_micros, timezone)), Tokens())
        return Tokens(max(0, quota.prompt - given.prompt), max(0, quota.output - given.output))
