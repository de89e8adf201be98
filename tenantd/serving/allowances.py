"""Budgets in force: what a request may generate before it starts, more of it while it runs, and its end when none is
left.

The engine computes no token that was not allowed. It is allowed more when half of a block is left, so a request waits
for that only where blocks are tiny, near the end of a budget.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Final, NamedTuple

from tenantd.budget_events import BudgetReached
from tenantd.config import BillingConfig
from tenantd.domain import Actor, BudgetUnit, FinishReason, Tenant
from tenantd.errors import BudgetBusy, InsufficientQuota, LedgerUnavailable, TenantdError
from tenantd.events import Events
from tenantd.fleet.replica import Replica
from tenantd.ledger.ledger import Ledger
from tenantd.ledger.spending import Use, mark_warned
from tenantd.live.generation import Generation
from tenantd.live.phases import Phase
from tenantd.live.streams import LiveStream
from tenantd.periods import bounds, in_words
from tenantd.tenancy.budget_accounts import Account, BudgetState, Draw, Hold, Shortage
from tenantd.tenancy.budgets import Budgets
from tenantd.tenancy.directory import Directory
from tenantd.wire.messages import Allow

METER_INTERVAL_S: Final = 0.1
"""How often the engine time of running requests is counted in their budgets."""


class Clocks(NamedTuple):
    """The wall clock, and a monotonic one."""

    now_micros: Callable[[], int]
    clock_s: Callable[[], float]


class Allowances:
    """What each live request may generate. Owns what requests hold of budgets until their rows are settled."""

    def __init__(
        self,
        ledger: Ledger,
        replica: Replica,
        directory: Directory,
        events: Events,
        billing: Callable[[], BillingConfig],
        clocks: Clocks,
        unsettled: Callable[[], Iterable[LiveStream]],
    ) -> None:
        """`unsettled` are the requests whose rows are not settled yet, also those that have ended. `billing` is called
        each time, because the configuration can be reloaded."""
        self._ledger = ledger
        self._replica = replica
        self._directory = directory
        self._events = events
        self._billing = billing
        self._unsettled = unsettled
        self._clock_s = clocks.clock_s
        self._budgets = Budgets(lambda: ledger.timezone, clocks.now_micros)
        self._holds: dict[int, Hold] = {}  # by number
        self._marking: set[asyncio.Task[None]] = set()
        replica.on_short = self._extend

    # ---- for the entrance ----------------------------------------------------------------------------------------

    def check(self, tenant: Tenant, actor: Actor, generations: Sequence[Generation], *, may_wait: bool = False) -> None:
        """Raises InsufficientQuota if a budget has no room for a client's request, BudgetBusy if others hold it now.

        With `may_wait`, the request is to wait for something else, and what others hold does not matter yet.
        """
        draws = [Draw(len(each.prompt) if each.counts_prompt else 0, 1) for each in generations]
        self.check_draws(tenant, actor, draws, may_wait=may_wait)

    def check_draws(self, tenant: Tenant, actor: Actor, draws: Sequence[Draw], *, may_wait: bool) -> None:
        """The same for what a request would draw at least."""
        shortage = self._budgets.shortage(tenant.id, actor.key_id, draws, is_billed=not tenant.unbilled)
        if shortage is None or (may_wait and not shortage.is_final):
            return
        if shortage.is_final and (use := self._budgets.used_up(shortage.state.budget.id)) is not None:
            self._announce(use, tenant.name)
            self._mark(use)
        raise self._refusal(tenant, shortage)

    def begin(self, tenant: Tenant, streams: Sequence[LiveStream]) -> None:
        """Hold what new requests need to start. They were checked, and run at once."""
        draws = [_draw(stream) for stream in streams]
        key_id = streams[0].actor.key_id
        holds = self._budgets.reserve(tenant.id, key_id, draws, is_billed=not tenant.unbilled)
        if holds:
            for stream, hold in zip(streams, holds, strict=True):
                self._holds[stream.number] = hold
                self._tell(stream, hold)

    # ---- while requests run --------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Count the engine time of running requests in their budgets, and end what has no more, until cancelled."""
        while True:
            await asyncio.sleep(METER_INTERVAL_S)
            if self._holds:
                metered, live = self._budgets.metered(), self._replica.live.by_number
                for number in self._replica.bound:
                    if number in live and (hold := self._holds.get(number)) in metered and hold is not None:
                        self._budgets.meter(hold, live[number].engine_micros)
                self._end_overdrawn()

    def settled(self, stream: LiveStream, uses: Sequence[Use] = ()) -> None:
        """The row of a request is settled, or there is none. Safe to call again."""
        if (hold := self._holds.pop(stream.number, None)) is not None:
            self._budgets.release(hold, uses)
        else:
            self._budgets.note(uses)
        for use in uses:
            if use.level is not None:
                self._announce(use, stream.tenant)

    def _extend(self, stream: LiveStream) -> None:
        """Allow a request more, or end it if nothing is left."""
        if (hold := self._holds.get(stream.number)) is None or stream.phase not in (Phase.WAITING, Phase.IN_ENGINE):
            return
        may_go_on = self._budgets.extend(hold, len(stream.generated), stream.engine_micros)
        self._tell(stream, hold)
        if not may_go_on:
            self._end(stream)

    def _end(self, stream: LiveStream) -> None:
        if stream.phase in (Phase.WAITING, Phase.IN_ENGINE):
            stream.is_out_of_budget = True
            self._replica.end(stream, FinishReason.LENGTH, None)

    def _tell(self, stream: LiveStream, hold: Hold) -> None:
        """Tell the engine what a request may generate."""
        stream.ask_at_tokens = hold.ask_at_tokens
        if stream.allowed_tokens != hold.allowed_tokens:
            stream.allowed_tokens = hold.allowed_tokens
            if stream.phase is Phase.IN_ENGINE:
                self._replica.supervisor.send(Allow(stream.number, hold.allowed_tokens))

    def _end_overdrawn(self) -> None:
        """Take back what requests hold beyond budgets, and end them where that is not enough. The newest go first."""
        if not (overdrawn := self._budgets.overdrawn()):
            return
        live = self._replica.live.by_number
        numbers = {hold: number for number, hold in self._holds.items() if number in live}
        taken: list[LiveStream] = []
        for account in overdrawn:
            drawing = [live[numbers[hold]] for hold in reversed(account.holds) if hold in numbers]
            taken += self._take_back(account, drawing)
            if account.is_overdrawn:
                for stream in drawing:
                    self._end(stream)
        for stream in taken:
            self._extend(stream)

    def _take_back(self, account: Account, drawing: Sequence[LiveStream]) -> list[LiveStream]:
        taken = []
        for stream in drawing:
            if account.is_overdrawn and account.budget.unit is not BudgetUnit.ENGINE:
                hold = self._holds[stream.number]
                self._budgets.shrink(hold, len(stream.generated))
                self._tell(stream, hold)
                taken.append(stream)
        return taken

    # ---- changes -------------------------------------------------------------------------------------------------

    async def reload(self) -> None:
        """Read budgets and prices, and apply them to running requests. Raises LedgerUnavailable or QueueFull."""
        await self._budgets.reload(self._ledger)
        for stream in self._unsettled():
            if (free := self._holds.get(stream.number)) is not None and not free.accounts:
                self._let_go(stream, free)
        for stream in self._unsettled():  # also what has ended: its row counts in the budgets only once it is written
            if stream.number not in self._holds and (hold := self._adopted(stream)) is not None:
                self._holds[stream.number] = hold
                self._tell(stream, hold)
        self._end_overdrawn()
        for stream in self._replica.live:
            hold = self._holds.get(stream.number)
            if hold is not None and len(stream.generated) >= hold.ask_at_tokens:
                self._extend(stream)

    def _let_go(self, stream: LiveStream, hold: Hold) -> None:
        """No budget concerns a request any more. If one does later, the request is adopted anew."""
        self._budgets.extend(hold, len(stream.generated), stream.engine_micros)
        self._tell(stream, hold)
        del self._holds[stream.number]

    def _adopted(self, stream: LiveStream) -> Hold | None:
        """The hold of a request that began before there was a budget."""
        tenant = self._directory.tenants.get(stream.tenant)
        if tenant is None or tenant.id is None or tenant.id != stream.tenant_id:
            return None
        generated = len(stream.generated)
        hold = self._budgets.adopt(
            tenant.id,
            stream.actor.key_id,
            _draw(stream),
            (generated, stream.engine_micros),
            is_billed=not tenant.unbilled,
        )
        if hold is not None:
            self._budgets.shrink(hold, generated)
        return hold

    # ---- for status ----------------------------------------------------------------------------------------------

    def states(self, tenant_id: int | None = None, key_id: str | None = None) -> list[BudgetState]:
        """All budgets, or a tenant's, or with a key those that a request of this key counts in."""
        return self._budgets.states(tenant_id, key_id)

    def reserved(self, budget_id: int) -> int:
        """What is held of one budget, in its unit."""
        return self._budgets.reserved(budget_id)

    def idle_check(self) -> None:
        """Invariant while nothing is live: nothing is held. Raises AssertionError."""
        assert not self._holds, f"left over: {list(self._holds)}"
        self._budgets.idle_check()

    # ---- words and warnings --------------------------------------------------------------------------------------

    def _refusal(self, tenant: Tenant, shortage: Shortage) -> TenantdError:
        state = shortage.state
        whose = f"key {state.budget.key_id}" if state.budget.key_id else f"tenant {tenant.name}"
        name = f"the {state.budget.period} budget of {whose}"
        used = f"{self._number(state, state.used)} of {self._words(state, state.cap)} are used"
        resets = in_words(state.resets_micros, self._ledger.timezone)
        if shortage.is_final and state.used >= state.cap:
            return InsufficientQuota(f"{name} is used up: {used}; it resets at {resets}")
        if shortage.is_final:
            return InsufficientQuota(
                f"{name} has too little left: {used}, and this request needs at least "
                f"{self._words(state, shortage.needed)}; it resets at {resets}"
            )
        live = self._replica.live
        count = live.count(tenant.name)
        turns = max(1, round(len(live) / max(1, count.waiting + count.running)))
        retry_after_s = self._replica.throughput.wait_s(self._clock_s(), turns, live.oldest_s())
        return BudgetBusy(
            f"what is left of {name} is held by running requests: {used} and "
            f"{self._number(state, state.reserved)} are held; try again in {retry_after_s} s",
            retry_after_s=retry_after_s,
        )

    def _words(self, state: BudgetState, amount: int) -> str:
        units = {
            BudgetUnit.MONEY: self._billing().currency,
            BudgetUnit.TOKENS: "tokens",
            BudgetUnit.ENGINE: "seconds of engine time",
        }
        return f"{self._number(state, amount)} {units[state.budget.unit]}"

    def _number(self, state: BudgetState, amount: int) -> str:
        """Exact, in the unit that people use."""
        places = {BudgetUnit.MONEY: 9, BudgetUnit.TOKENS: 0, BudgetUnit.ENGINE: 6}[state.budget.unit]
        return f"{Decimal(amount).scaleb(-places).normalize():f}"

    def _announce(self, use: Use, tenant: str) -> None:
        budget, level = use.budget, use.level
        assert level is not None, "one was reached"
        self._events.announce(
            BudgetReached(
                budget_id=budget.id,
                tenant=tenant,
                tenant_id=budget.tenant_id,
                key_id=budget.key_id or None,
                period=budget.period,
                unit=budget.unit,
                level=level,
                used=use.used,
                cap=use.cap,
                since_micros=use.since_micros,
                resets_micros=bounds(budget.period, use.since_micros, self._ledger.timezone).until_micros,
            )
        )

    def _mark(self, use: Use) -> None:
        """Record that a level was announced, so that the next daemon does not announce it again."""

        async def mark() -> None:
            with contextlib.suppress(LedgerUnavailable):
                await self._ledger.write(lambda conn: mark_warned(conn, use, use.warned, self._ledger.timezone))

        task = asyncio.create_task(mark())
        self._marking.add(task)
        task.add_done_callback(self._marking.discard)


def _draw(stream: LiveStream) -> Draw:
    return Draw(stream.prompt_tokens if stream.counts_prompt else 0, stream.max_tokens)
