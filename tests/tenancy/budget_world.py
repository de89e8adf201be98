"""Requests that draw on budgets under a simulated clock, with the ledger's own counting, and whatever else may happen
meanwhile."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

import msgspec

from tenantd.domain import BudgetUnit, Usage
from tenantd.ledger.charging import charge
from tenantd.ledger.prices import insert_prices
from tenantd.ledger.records import Customer, PriceList
from tenantd.ledger.spending import Use
from tenantd.periods import Period
from tenantd.tenancy.budget_accounts import Draw, Hold
from tenantd.tenancy.budgets import Budgets, _read
from tests.ledger.books import memory_ledger

BERLIN = ZoneInfo("Europe/Berlin")
DAY_MICROS = 86_400_000_000
START_MICROS = 20_000 * DAY_MICROS
TENANT, KEY = 1, "key_1"
PRICES = PriceList(
    id=0,
    currency="USD",
    input_nanos_per_million=1_500_000_007,  # so that most amounts are rounded
    output_nanos_per_million=3_250_000_003,
    engine_hour_nanos=0,
    effective_micros=0,
)


@dataclass(eq=False)
class Running:
    """One request. The engine computes it while it may."""

    hold: Hold | None
    draw: Draw
    key_id: str | None
    generated: int = 0
    engine_micros: int = 0

    @property
    def allowed(self) -> int:
        return self.draw.max_tokens if self.hold is None else self.hold.allowed_tokens


@dataclass(eq=False)
class BudgetWorld:
    """A tenant with budgets, and one key of it. `free_prompt` and `free_output` tokens of a month are free."""

    now_micros: int = START_MICROS
    running: list[Running] = field(default_factory=list)
    timezone: ZoneInfo = BERLIN
    free_prompt: int = 0
    free_output: int = 0
    waived_nanos: int = 0  # of all requests

    def __post_init__(self) -> None:
        self.conn = memory_ledger()
        free = {"free_prompt_tokens": self.free_prompt, "free_completion_tokens": self.free_output}
        insert_prices(self.conn, msgspec.structs.replace(PRICES, **free))
        self.conn.execute(
            """INSERT INTO tenants (id, name, weight, priority, state, uids, limits, created_micros)
            VALUES (?, 'acme', 1.0, 'standard', 'active', '[]', '{}', 0)""",
            (TENANT,),
        )
        self.budgets = self._daemon()

    def _daemon(self) -> Budgets:
        budgets = Budgets(lambda: self.timezone, lambda: self.now_micros)
        budgets.load(_read(self.conn, since_micros=0))
        return budgets

    def set_budget(self, unit: BudgetUnit, amount: int, period: Period = Period.DAILY, key_id: str = "") -> None:
        self.conn.execute(
            """INSERT INTO budgets (tenant_id, key_id, period, unit, amount, warn, set_micros)
            VALUES (?, ?, ?, ?, ?, '80,100', 0)
            ON CONFLICT (tenant_id, key_id, period, unit) DO UPDATE SET amount = excluded.amount""",
            (TENANT, key_id, period.value, unit.value, amount),
        )
        self.reload()

    def top_up(self, amount: int) -> None:
        """Of every budget, in its current period. It is below all levels afterwards."""
        for state in self.budgets.states():
            self.conn.execute(
                """INSERT INTO budget_uses (budget_id, since_micros, topped_up) VALUES (?, ?, ?)
                ON CONFLICT DO UPDATE SET topped_up = topped_up + excluded.topped_up, warned = 0""",
                (state.budget.id, state.since_micros, amount),
            )
        self.reload()

    def reload(self) -> None:
        self.budgets.load(_read(self.conn, since_micros=0))

    def start(self, prompt_tokens: int, max_tokens: int, key_id: str | None = None, choices: int = 1) -> bool:
        """One client's request; whether it was admitted."""
        draws = [Draw(prompt_tokens if choice == 0 else 0, max_tokens) for choice in range(choices)]
        if self.budgets.shortage(TENANT, key_id, draws, is_billed=True) is not None:
            return False
        holds = self.budgets.reserve(TENANT, key_id, draws, is_billed=True)
        self.running += [
            Running(hold, draw, key_id) for hold, draw in zip(holds or [None] * len(draws), draws, strict=True)
        ]
        return True

    def generate(self, one: Running, tokens: int) -> None:
        """As the engine and the daemon do: no token that is not allowed, and more is asked for in time."""
        for _ in range(tokens):
            if one.generated >= min(one.allowed, one.draw.max_tokens):
                return
            one.generated += 1
            if one.hold is not None and one.generated >= one.hold.ask_at_tokens:
                self.budgets.extend(one.hold, one.generated, one.engine_micros)

    def settle(self, one: Running, *, reloads: bool = False) -> None:
        """It ends. With `reloads`, the ledger is read between its commit and the daemon's hearing of it."""
        self.running.remove(one)
        uses = self.commit(one)
        if reloads:
            self.reload()
        if one.hold is not None:
            self.budgets.release(one.hold, uses)

    def commit(self, one: Running) -> list[Use]:
        usage = Usage(
            prompt_tokens=one.draw.prompt_tokens, completion_tokens=one.generated, engine_micros=one.engine_micros
        )
        uses: list[Use] = []
        customer = Customer(TENANT, one.key_id, False)
        charged = charge(self.conn, customer, usage, self.now_micros, self.timezone, uses)
        self.waived_nanos += charged.waived_nanos
        return uses

    def given(self) -> tuple[int, int]:
        """Free tokens of prompts and of output that were used in all months."""
        query = "SELECT coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0) FROM free_uses"
        prompt, output = self.conn.execute(query).fetchone()
        return prompt, output

    def wait(self, micros: int) -> None:
        """Time passes. Near the ends of periods, what cannot go on is ended, as the daemon does."""
        ends = {state.resets_micros - 1_000_000 for state in self.budgets.states()}
        for at_micros in sorted({*(end for end in ends if end < self.now_micros + micros), self.now_micros + micros}):
            self.now_micros = max(self.now_micros, at_micros)
            self.end_overdrawn()

    def end_overdrawn(self) -> None:
        for account in self.budgets.overdrawn():
            drawing = [one for one in self.running if one.hold in account.holds]
            for one in reversed(drawing):
                if account.is_overdrawn and one.hold is not None:
                    self.budgets.shrink(one.hold, one.generated)
            if account.is_overdrawn:
                for one in drawing:
                    self.settle(one)

    def use_up(self, streams: int) -> None:
        """So many requests at a time, eight of which run; the others wait with what they hold. Clients send again until
        they are refused."""
        rng = random.Random(streams)
        for _ in range(streams):
            assert self.start(rng.randrange(8, 64), rng.randrange(1, 2_000))
        while self.running:
            for one in self.running[:8]:
                self.generate(one, 1)
                if one.generated >= min(one.allowed, one.draw.max_tokens):
                    self.settle(one)
                    self.start(rng.randrange(8, 64), rng.randrange(1, 2_000))
            self.check()

    def crash(self) -> None:
        """The daemon is killed. The next one settles what ran, and reads the ledger."""
        for one in self.running:
            self.commit(one)
        self.running = []
        self.budgets = self._daemon()

    def used(self) -> list[tuple[int, int]]:
        """Of every budget and period: what was used, and what might be."""
        return [
            (used, amount + topped_up)
            for used, amount, topped_up in self.conn.execute(
                "SELECT u.used, b.amount, u.topped_up FROM budget_uses AS u JOIN budgets AS b ON b.id = u.budget_id"
            )
        ]

    def check(self) -> None:
        """Nothing is used or held beyond a budget."""
        for used, cap in self.used():
            assert used <= cap
        for state in self.budgets.states():
            assert state.used + state.reserved <= state.cap, state
