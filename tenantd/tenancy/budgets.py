"""Budgets while requests run: what they have used, and what is held back for requests that are admitted. Pure.

A request holds its prompt and a block of output, more as it goes on, and gives the rest back when it is settled. Blocks
shrink as the rest of the budget does. What is held and what is used never pass the amount together, so tokens are
refused before they are generated. Several budgets hold together: the tightest decides. Money is held at the dearest
prices that may apply; in budgets of the tenant itself, less what is left of its free quota. Engine time cannot be held
back: it counts as it is used.

A period ends by the wall clock. What a request holds then counts in the next one, because its row will.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from sqlite3 import Connection
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from tenantd import clock
from tenantd.domain import BudgetUnit
from tenantd.ledger.budget_rules import SHORTEST_MICROS
from tenantd.ledger.ledger import Lane, Ledger
from tenantd.ledger.prices import all_prices
from tenantd.ledger.quotas import FreeUse, given_from
from tenantd.ledger.records import PriceList
from tenantd.ledger.spending import Budget, Use, all_budgets, begin_uses, heirs, uses_from
from tenantd.periods import UTC_ZONE, bounds
from tenantd.tenancy.budget_accounts import NEVER, Account, BudgetState, Draw, Hold, Shortage
from tenantd.tenancy.free_quotas import Drawn, FreeQuotas, Tokens
from tenantd.tenancy.price_book import PriceBook, Rates

BLOCK_TOKENS: Final = 64
"""The most output tokens that are held at a time."""
BATCH_BUDGETS: Final = 20
"""Budgets whose use is added up in one transaction, which takes some milliseconds for each at most."""
ALL: Final = 100
NEARLY_ALL_PER_MILLE: Final = 995
LONGEST_PERIOD_MICROS: Final = 32 * 24 * 3_600_000_000


class Snapshot(NamedTuple):
    """What the ledger holds at one moment. `free`: of quotas, what was given away. `heirs`: by key, those that it was
    rotated to."""

    budgets: list[Budget]
    uses: list[Use]
    free: list[FreeUse]
    prices: list[PriceList]
    heirs: dict[str, list[str]]


class Budgets:
    """The budgets of all tenants. Everything belongs to the event loop."""

    def __init__(
        self, timezone: Callable[[], ZoneInfo] = lambda: UTC_ZONE, now_micros: Callable[[], int] = clock.now_micros
    ) -> None:
        """`timezone` is that of billing periods, `now_micros` the wall clock."""
        self._timezone = timezone
        self._now_micros = now_micros
        self._accounts: dict[int, list[Account]] = {}  # by tenant; no list is empty
        self._by_id: dict[int, Account] = {}
        self._by_key: dict[tuple[int, str], list[Account]] = {}  # by tenant and key; "" for all keys together
        self._prices = PriceBook()
        self._quotas = FreeQuotas()
        self._heirs: Mapping[str, list[str]] = {}
        self._loads_begun = self._load_shown = 0
        self._timezone_shown: ZoneInfo | None = None
        self._reads = 0  # of the ledger, under way
        self._noted: list[Use] = []  # meanwhile: a snapshot may be from before them, and have budgets that are new

    # ---- what the ledger holds -----------------------------------------------------------------------------------

    async def reload(self, ledger: Ledger) -> None:
        """Read budgets, uses and prices. A budget is in force once its current period is counted.

        Raises LedgerUnavailable or QueueFull; then nothing changes.
        """
        self._loads_begun += 1
        load = self._loads_begun
        read = functools.partial(_read, since_micros=self._now_micros() - LONGEST_PERIOD_MICROS)
        with self._reading():
            snapshot = await ledger.read(read, Lane.DIRECTORY)
            new = self.uncounted(snapshot)
            for first in range(0, len(new), BATCH_BUDGETS):
                some, now_micros, timezone = new[first : first + BATCH_BUDGETS], self._now_micros(), self._timezone()
                begin = functools.partial(begin_uses, budgets=some, now_micros=now_micros, timezone=timezone)
                self.note(await ledger.write(begin))
            if load > self._load_shown:
                self._load_shown = load
                self.load(snapshot)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        self._reads += 1
        try:
            yield
        finally:
            self._reads -= 1
            if not self._reads:
                self._noted = []

    def uncounted(self, snapshot: Snapshot) -> list[Budget]:
        """Those of whose current periods the ledger does not know all that was used.

        They may only have begun; the time zone may have changed; or it changed and changed back, and what ended
        meanwhile counted in other periods, which overlap these.
        """
        now_micros, timezone = self._now_micros(), self._timezone()
        begins: dict[int, list[int]] = {}
        for use in snapshot.uses:
            begins.setdefault(use.budget.id, []).append(use.since_micros)
        found = []
        for budget in snapshot.budgets:
            since, until = bounds(budget.period, now_micros, timezone)
            counted = begins.get(budget.id, [])
            earliest = since - SHORTEST_MICROS[budget.period]
            if since not in counted or (
                timezone != self._timezone_shown and any(earliest < each < until and each != since for each in counted)
            ):
                found.append(budget)
        return found

    def load(self, snapshot: Snapshot) -> None:
        """Take over a snapshot. Requests keep what they hold, also of budgets that are new."""
        self._timezone_shown = self._timezone()
        known = self._by_id
        holds = dict.fromkeys(hold for account in known.values() for hold in account.holds)
        self._prices, self._heirs = PriceBook(snapshot.prices), snapshot.heirs
        self._quotas.forget_before(self._now_micros() - LONGEST_PERIOD_MICROS, self._timezone())
        self._quotas.note(snapshot.free)
        self._accounts, self._by_id, self._by_key = {}, {}, {}
        for budget in snapshot.budgets:
            account = known.get(budget.id) or Account(budget)
            if not account.is_of(self._timezone()):
                account = Account(budget)
            account.change(budget)
            if budget.unit is BudgetUnit.MONEY and not budget.key_id:
                account.ceiling = functools.partial(self._together, budget.tenant_id)
            account.pass_time(self._now_micros(), self._timezone())
            self._accounts.setdefault(budget.tenant_id, []).append(account)
            self._by_id[budget.id] = account
            self._by_key.setdefault((budget.tenant_id, budget.key_id), []).append(account)
        self._count([*snapshot.uses, *self._noted])
        for hold in holds:
            self._attach(hold)

    def used_up(self, budget_id: int) -> Use | None:
        """Note that requests are refused because a budget is used up. Returns what to announce: the last level, once.

        What is too little for any request stays unused, so that the level is never reached by counting.
        """
        account = self._by_id.get(budget_id)
        if account is None or ALL not in account.budget.warn or account.warned >= ALL:
            return None
        if account.used * 1000 < (account.budget.amount + account.topped_up) * NEARLY_ALL_PER_MILLE:
            return None
        account.warned = ALL
        return account.use._replace(level=ALL)

    def note(self, uses: Iterable[Use]) -> None:
        """What the ledger has counted for a row."""
        noted = list(uses)
        if self._reads:
            self._noted += noted
        self._count(noted)

    def _count(self, uses: Iterable[Use]) -> None:
        for use in uses:
            if use.free is not None:
                self._quotas.note([use.free])
            if (account := self._by_id.get(use.budget.id)) is not None:
                account.pass_time(self._now_micros(), self._timezone())
                account.note(use)

    # ---- requests ------------------------------------------------------------------------------------------------

    def shortage(
        self, tenant_id: int | None, key_id: str | None, draws: Iterable[Draw], *, is_billed: bool
    ) -> Shortage | None:
        """Why requests cannot start together with at least one token of output each; None if they can."""
        accounts = self._of(tenant_id, key_id, is_billed=is_billed)
        if not accounts:
            return None
        assert tenant_id is not None, "a budget has a tenant"
        wanted = list(draws)
        busy: Shortage | None = None
        for account in accounts:
            cap = account.budget.amount + account.topped_up
            listed, drawn = self._needed(account, tenant_id, wanted)
            needed = account.alone(listed, drawn)
            if needed == listed:
                needed = max(1, needed)  # otherwise it is free
            is_engine = account.budget.unit is BudgetUnit.ENGINE
            if account.used + needed + (account.held if is_engine else 0) > cap:
                return Shortage(account.state, needed, is_final=True)
            needed = max(needed, account.held_with(listed, drawn) - account.held)
            if needed > account.rest:
                busy = busy or Shortage(account.state, needed, is_final=False)
        return busy

    def reserve(
        self, tenant_id: int | None, key_id: str | None, draws: Iterable[Draw], *, is_billed: bool
    ) -> list[Hold]:
        """Hold the prompt and a first block for each request; [] if the tenant has no budget. Check first."""
        if not self._of(tenant_id, key_id, is_billed=is_billed):
            return []
        assert tenant_id is not None, "a budget has a tenant"
        holds = [Hold(tenant_id, key_id, draw, is_billed=is_billed) for draw in draws]
        for hold in holds:
            hold.allowed_tokens = 1
            self._attach(hold)
        for hold in holds:
            self.extend(hold, 0, 0)
        return holds

    def adopt(
        self, tenant_id: int, key_id: str | None, draw: Draw, used: tuple[int, int], *, is_billed: bool
    ) -> Hold | None:
        """Hold what a request that runs already has used: tokens generated, and engine time in microseconds."""
        if not self._of(tenant_id, key_id, is_billed=is_billed):
            return None
        hold = Hold(tenant_id, key_id, draw, is_billed=is_billed)
        hold.allowed_tokens, hold.engine_micros = used
        self._attach(hold)
        return hold

    def extend(self, hold: Hold, generated_tokens: int, engine_micros: int) -> bool:
        """Hold another block of output, if there is room. False if the request may generate no more.

        A request that no budget concerns any more may generate all that it wants.
        """
        self.meter(hold, engine_micros)
        if generated_tokens > hold.allowed_tokens:
            self._allow(hold, generated_tokens)
        if not hold.accounts:
            hold.allowed_tokens, hold.ask_at_tokens = hold.draw.max_tokens, NEVER
            return True
        if generated_tokens >= hold.draw.max_tokens:
            return True  # the engine ends it
        wanted = hold.draw.max_tokens - hold.allowed_tokens
        if wanted > 0:
            granted = max(0, min(wanted, self._granted(hold)))
            if granted:
                self._allow(hold, hold.allowed_tokens + granted)
            hold.ask_at_tokens = hold.allowed_tokens - granted // 2 if wanted > granted else NEVER
        return hold.allowed_tokens > generated_tokens

    def shrink(self, hold: Hold, generated_tokens: int) -> None:
        """Hold no more than what was generated."""
        self._allow(hold, generated_tokens)
        hold.ask_at_tokens = generated_tokens

    def meter(self, hold: Hold, engine_micros: int) -> None:
        """The engine time that a request has used."""
        if engine_micros != hold.engine_micros:
            hold.engine_micros = engine_micros
            self._allow(hold, hold.allowed_tokens)

    def release(self, hold: Hold, uses: Iterable[Use] = ()) -> None:
        """A request is settled, or costs nothing: give back what it holds, and count what it used."""
        self.note(uses)
        for account in list(hold.accounts):
            if not account.is_of(self._timezone()):  # until it is counted anew, what is noted is of other periods
                account.used += hold.accounts[account]
            account.drop(hold)

    def overdrawn(self) -> list[Account]:
        """Budgets of which requests hold more than there is: the amount was lowered, engine time was used, or what was
        added for a period ends with it."""
        drawn = [account for account in self._all() if account.holds]
        for account in drawn:
            account.pass_time(self._now_micros(), self._timezone())
        return [account for account in drawn if account.is_overdrawn]

    def metered(self) -> set[Hold]:
        """The requests whose engine time counts in a budget."""
        return {
            hold
            for account in self._all()
            for hold in account.holds
            if account.budget.unit is BudgetUnit.ENGINE
            or (account.budget.unit is BudgetUnit.MONEY and self._rates(hold.tenant_id).has_engine_price)
        }

    # ---- for status ----------------------------------------------------------------------------------------------

    def states(self, tenant_id: int | None = None, key_id: str | None = None) -> list[BudgetState]:
        """All budgets, or a tenant's, or with a key those that a request of this key counts in."""
        if tenant_id is None:
            accounts = list(self._all())
        elif key_id:
            accounts = self._of(tenant_id, key_id, is_billed=True)
        else:
            accounts = list(self._accounts.get(tenant_id, ()))
        for account in accounts:
            account.pass_time(self._now_micros(), self._timezone())
        return [account.state for account in accounts]

    def reserved(self, budget_id: int) -> int:
        """What is held of one budget."""
        return account.held if (account := self._by_id.get(budget_id)) is not None else 0

    def idle_check(self) -> None:
        """Invariant while no request is left: nothing is held. Raises AssertionError."""
        held = {account.budget.id: account.held for account in self._all() if account.held or account.holds}
        assert not held, f"left over: {held}"

    # ---- inside --------------------------------------------------------------------------------------------------

    def _all(self) -> Iterable[Account]:
        return (account for accounts in self._accounts.values() for account in accounts)

    def _of(self, tenant_id: int | None, key_id: str | None, *, is_billed: bool) -> list[Account]:
        """The accounts that a request draws on, in their current periods."""
        if tenant_id is None or tenant_id not in self._accounts:
            return []
        keys = {"", *(self._heirs.get(key_id, (key_id,)) if key_id else ())}
        now_micros, timezone = self._now_micros(), self._timezone()
        found = []
        for account in (account for key in keys for account in self._by_key.get((tenant_id, key), ())):
            if is_billed or account.budget.unit is not BudgetUnit.MONEY:
                account.pass_time(now_micros, timezone)
                found.append(account)
        return sorted(found, key=lambda account: account.budget.id)

    def _attach(self, hold: Hold) -> None:
        """Let a request draw on its budgets, as they are now."""
        hold.accounts = {account: amount for account, amount in hold.accounts.items() if self._is_live(account)}
        for account in self._of(hold.tenant_id, hold.key_id, is_billed=hold.is_billed):
            account.put(hold, self._amount(account, hold))

    def _is_live(self, account: Account) -> bool:
        return self._by_id.get(account.budget.id) is account

    def _rates(self, tenant_id: int) -> Rates:
        return self._prices.rates(tenant_id, self._now_micros())

    def _together(self, tenant_id: int, drawn: Drawn) -> int:
        """The most that requests of a tenant cost together, with what is left of its free quota."""
        rates = self._rates(tenant_id)
        return rates.together(drawn, self._free(tenant_id, rates)) if any(rates.quota) else sys.maxsize

    def _free(self, tenant_id: int, rates: Rates) -> Tokens:
        return self._quotas.left(tenant_id, rates.quota, self._now_micros(), self._timezone())

    def _needed(self, account: Account, tenant_id: int, draws: list[Draw]) -> tuple[int, Drawn]:
        """The least that these requests need to start: what they would hold without a free quota, and of what."""
        drawn = Drawn(len(draws), Tokens(sum(draw.prompt_tokens for draw in draws), len(draws)))
        if account.budget.unit is BudgetUnit.TOKENS:
            return sum(drawn.tokens), drawn
        if account.budget.unit is BudgetUnit.MONEY:
            rates = self._rates(tenant_id)
            return sum(rates.nanos(draw.prompt_tokens, 1, 0) for draw in draws), drawn
        return 1, drawn

    def _amount(self, account: Account, hold: Hold) -> int:
        """What a request holds of a budget."""
        if account.budget.unit is BudgetUnit.TOKENS:
            return hold.draw.prompt_tokens + hold.allowed_tokens
        if account.budget.unit is BudgetUnit.MONEY:
            rates = self._rates(hold.tenant_id)
            return rates.nanos(hold.draw.prompt_tokens, hold.allowed_tokens, hold.engine_micros)
        return hold.engine_micros

    def _allow(self, hold: Hold, tokens: int) -> None:
        hold.allowed_tokens = tokens
        for account in hold.accounts:
            account.put(hold, self._amount(account, hold))

    def _granted(self, hold: Hold) -> int:
        """How many more tokens every budget has room for; at most a block, and less as the rest shrinks."""
        now_micros, timezone = self._now_micros(), self._timezone()
        granted = BLOCK_TOKENS
        for account in hold.accounts:
            account.pass_time(now_micros, timezone)
            rest = account.rest
            if rest <= 0 and account.budget.unit is not BudgetUnit.MONEY:
                return 0
            fair = max(0, rest) // (2 * len(account.holds))
            if account.budget.unit is BudgetUnit.TOKENS:
                granted = min(granted, max(1, fair))
            elif account.budget.unit is BudgetUnit.MONEY:
                granted = min(granted, self._affordable(account, hold, max(0, rest), fair))
        return granted

    def _affordable(self, account: Account, hold: Hold, rest_nanos: int, fair_nanos: int) -> int:
        """How many more tokens are free or paid for by fair parts of what is left, but at least one if all of the money
        pays for one."""
        rates, prompt_tokens, micros = self._rates(hold.tenant_id), hold.draw.prompt_tokens, hold.engine_micros
        free, held_nanos = 0, hold.accounts[account]
        if account.ceiling is not None and any(rates.quota):
            unheld = self._free(hold.tenant_id, rates).output - account.drawn.tokens.output
            free = max(min(1, unheld), unheld // (2 * len(account.holds)), 0)
        for nanos, most in ((fair_nanos, BLOCK_TOKENS), (rest_nanos, 1)):
            paid = rates.most_output(held_nanos + nanos, prompt_tokens, micros) - hold.allowed_tokens
            tokens = int(min(most, free + max(0, paid)))
            while tokens > 0 and self._more_nanos(account, hold, rates, tokens) > rest_nanos:
                tokens -= 1  # requests are rounded, each alone and all together
            if tokens > 0:
                return tokens
        return 0

    def _more_nanos(self, account: Account, hold: Hold, rates: Rates, tokens: int) -> int:
        """How much more is held of a budget if a request may generate so many more tokens."""
        whole = rates.nanos(hold.draw.prompt_tokens, hold.allowed_tokens + tokens, hold.engine_micros)
        drawn = Drawn(0, Tokens(0, tokens))
        return account.held_with(whole - hold.accounts[account], drawn) - account.held


def _read(conn: Connection, since_micros: int) -> Snapshot:
    """Read everything. Runs in a reading thread."""
    budgets, prices = all_budgets(conn), list(all_prices(conn).values())
    return Snapshot(budgets, uses_from(conn, since_micros), given_from(conn, since_micros), prices, heirs(conn))
