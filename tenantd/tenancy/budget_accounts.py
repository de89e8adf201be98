"""One budget in its current period, and the requests that draw on it. Pure."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from tenantd.domain import BudgetUnit
from tenantd.ledger.spending import Budget, Use
from tenantd.periods import Bounds, bounds
from tenantd.tenancy.free_quotas import Drawn, Tokens

CLOSING_MICROS: Final = 2_000_000
"""How long before a period ends what could not go on in the next one is ended."""
OTHER_PERIODS: Final = 4
"""How many periods around the current one are remembered, for clocks that are set back and for ends yet to come."""
NEVER: Final = sys.maxsize
"""More tokens than any request generates."""


class BudgetState(NamedTuple):
    """A budget in its current period. `reserved` is held for requests that are admitted."""

    budget: Budget
    used: int
    reserved: int
    topped_up: int
    since_micros: int
    resets_micros: int

    @property
    def cap(self) -> int:
        """All that may be used in the period."""
        return self.budget.amount + self.topped_up

    @property
    def left(self) -> int:
        """What is neither used nor held."""
        return max(0, self.cap - self.used - self.reserved)

    @property
    def percent(self) -> int:
        """How much is used, rounded down: 100 means used up."""
        return 100 if self.used >= self.cap else self.used * 100 // self.cap


class Draw(NamedTuple):
    """What a request wants. `prompt_tokens` is 0 if another choice pays for the prompt."""

    prompt_tokens: int
    max_tokens: int


class Shortage(NamedTuple):
    """Why a request cannot start. `is_final`: not before the period ends, whatever running requests give back."""

    state: BudgetState
    needed: int
    is_final: bool


class Hold:
    """What one request may use: its prompt, and `allowed_tokens` of output. Belongs to `Budgets`."""

    __slots__ = (
        "accounts",
        "allowed_tokens",
        "ask_at_tokens",
        "draw",
        "engine_micros",
        "is_billed",
        "key_id",
        "tenant_id",
    )

    def __init__(self, tenant_id: int, key_id: str | None, draw: Draw, *, is_billed: bool) -> None:
        self.tenant_id, self.key_id, self.is_billed = tenant_id, key_id, is_billed
        self.draw = draw
        self.engine_micros = 0
        self.allowed_tokens = 0
        self.ask_at_tokens = NEVER  # extend it once this many are generated
        self.accounts: dict[Account, int] = {}  # with what it holds of each, without a free quota

    @property
    def drawn(self) -> Drawn:
        """What it may use."""
        return Drawn(1, Tokens(self.draw.prompt_tokens, self.allowed_tokens), self.engine_micros)


class Account:
    """One budget in its current period, and the requests that draw on it."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.since_micros = self.until_micros = 0
        self.used = self.topped_up = self.warned = 0
        self.listed = 0  # what requests hold without a free quota
        self.ceiling: Callable[[Drawn], int] | None = None  # the most that requests cost together with one
        self._is_closing = False  # the period is about to end
        self.holds: dict[Hold, Drawn] = {}  # the newest last
        self.drawn = Drawn()  # by all of them
        self._others: dict[int, Use] = {}  # by when they begin: other periods, before and after it

    @property
    def bounds(self) -> Bounds:
        """Of its period."""
        return Bounds(self.since_micros, self.until_micros)

    @property
    def held(self) -> int:
        """What requests hold together."""
        return self.held_with(0, Drawn())

    def held_with(self, listed: int, drawn: Drawn) -> int:
        """What they would hold with others that hold this much."""
        whole = self.listed + listed
        return whole if self.ceiling is None else min(whole, self.ceiling(self.drawn.plus(drawn)))

    def alone(self, listed: int, drawn: Drawn) -> int:
        """What those others would hold if there were no more."""
        return listed if self.ceiling is None else min(listed, self.ceiling(drawn))

    @property
    def rest(self) -> int:
        """What is neither used nor held; negative after the amount was lowered.

        Just before the period ends, what is held must fit the next one, to which nothing has been added.
        """
        rest = self.budget.amount + self.topped_up - self.used - self.held
        return min(rest, self.budget.amount - self.held) if self._is_closing else rest

    @property
    def state(self) -> BudgetState:
        return BudgetState(self.budget, self.used, self.held, self.topped_up, self.since_micros, self.until_micros)

    @property
    def is_overdrawn(self) -> bool:
        """Engine time cannot be held back, so there it is too late when nothing is left."""
        return self.rest < (1 if self.budget.unit is BudgetUnit.ENGINE else 0)

    @property
    def use(self) -> Use:
        return Use(self.budget, self.since_micros, self.used, self.topped_up, self.warned)

    def is_of(self, timezone: ZoneInfo) -> bool:
        """Whether its period is one of this time zone."""
        return bounds(self.budget.period, self.since_micros, timezone) == self.bounds

    def pass_time(self, now_micros: int, timezone: ZoneInfo) -> None:
        """Begin a new period if it is time. What is held stays."""
        self._is_closing = bool(self.topped_up) and now_micros >= self.until_micros - CLOSING_MICROS
        if self.since_micros <= now_micros < self.until_micros:
            return
        self._is_closing = False
        if self.until_micros:
            self._keep(self.use)  # the clock may be set back
        self.since_micros, self.until_micros = bounds(self.budget.period, now_micros, timezone)
        self.used = self.topped_up = self.warned = 0
        if (known := self._others.pop(self.since_micros, None)) is not None:
            self.note(known)

    def change(self, budget: Budget) -> None:
        """It was set again, or not. The ledger has the levels that were reached since."""
        if budget != self.budget:
            self.budget, self.warned = budget, 0

    def note(self, use: Use) -> None:
        """What the ledger has counted. It only grows, so what was read earlier and comes later changes nothing.

        But levels are those of an amount: when there is more, they can be reached again.
        """
        if use.since_micros == self.since_micros:
            self.used = max(self.used, use.used)
            if use.topped_up > self.topped_up:
                self.topped_up, self.warned = use.topped_up, 0
            if (use.budget, use.topped_up) == (self.budget, self.topped_up):
                self.warned = max(self.warned, use.warned)
        else:
            self._keep(use)

    def _keep(self, use: Use) -> None:
        """What was used in another period, of a few: those that are nearest."""
        before = self._others.get(use.since_micros, use)
        self._others[use.since_micros] = use._replace(
            used=max(before.used, use.used),
            topped_up=max(before.topped_up, use.topped_up),
            warned=max(before.warned, use.warned),
        )
        if len(self._others) > OTHER_PERIODS:
            del self._others[max(self._others, key=lambda since: abs(since - self.since_micros))]

    def put(self, hold: Hold, amount: int) -> None:
        """Hold this much for a request, in place of what it held."""
        self.listed += amount - hold.accounts.get(self, 0)
        hold.accounts[self] = amount
        drawn = hold.drawn
        self.drawn = self.drawn.plus(drawn).plus(self.holds.get(hold, Drawn()), -1)
        self.holds[hold] = drawn

    def drop(self, hold: Hold) -> None:
        self.listed -= hold.accounts.pop(self)
        self.drawn = self.drawn.plus(self.holds.pop(hold), -1)
