"""The price lists that a request may be charged at, and what tokens cost at the dearest of them. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from tenantd.ledger.prices import HOUR_MICROS, MILLION, divide_half_up
from tenantd.ledger.records import PriceList
from tenantd.tenancy.free_quotas import Drawn, Tokens

AHEAD_MICROS: Final = 24 * HOUR_MICROS
"""A list that takes effect within this time may apply at the end of a request that runs now."""


class Rates:
    """What a request costs at the dearest of some lists: exactly as the ledger computes it.

    `quota` is the least that a month is free of by any of them.
    """

    def __init__(self, lists: Iterable[PriceList]) -> None:
        lists = tuple(lists)
        self._lists = tuple(
            {
                (
                    max(each.input_nanos_per_million, each.cached_nanos_per_million),
                    each.output_nanos_per_million,
                    each.engine_hour_nanos,
                )
                for each in lists
            }
        )
        self.has_engine_price = any(engine for _, _, engine in self._lists)
        self.quota = Tokens(
            min((each.free_prompt_tokens for each in lists), default=0),
            min((each.free_completion_tokens for each in lists), default=0),
        )
        self._input = max((each.input_nanos_per_million for each in lists), default=0)
        self._cached = max((each.cached_nanos_per_million for each in lists), default=0)
        self._output = max((each.output_nanos_per_million for each in lists), default=0)
        self._engine_hour = max((each.engine_hour_nanos for each in lists), default=0)

    def nanos(self, prompt_tokens: int, output_tokens: int, engine_micros: int) -> int:
        """The cost of so much."""
        return max(
            (
                _fixed(prompt_tokens, engine_micros, of_prompt, of_engine)
                + divide_half_up(output_tokens * of_output, MILLION)
                for of_prompt, of_output, of_engine in self._lists
            ),
            default=0,
        )

    def together(self, drawn: Drawn, free: Tokens) -> int:
        """The most that requests may cost together if this much is free, whatever ends first, whichever list each is
        charged at, and however much of their prompts is cached, which no quota is for. Each request is rounded."""
        beyond = max(0, drawn.tokens.prompt - free.prompt)
        prompt = max(beyond * self._input, drawn.tokens.prompt * self._cached)
        output = max(0, drawn.tokens.output - free.output) * self._output
        engine = drawn.engine_micros * self._engine_hour
        return (
            (prompt // MILLION + drawn.requests if prompt else 0)  # two kinds are rounded
            + ((2 * output + drawn.requests * MILLION) // (2 * MILLION) if output else 0)
            + ((2 * engine + drawn.requests * HOUR_MICROS) // (2 * HOUR_MICROS) if engine else 0)
        )

    def most_output(self, nanos: int, prompt_tokens: int, engine_micros: int) -> float:
        """The most output tokens with which a request costs at most `nanos`; negative if it costs more anyway."""
        most = math.inf
        for of_prompt, of_output, of_engine in self._lists:
            left = nanos - _fixed(prompt_tokens, engine_micros, of_prompt, of_engine)
            if left < 0:
                return -1
            if of_output:  # half up: (2 · tokens · price + million) // (2 · million) <= left
                most = min(most, (MILLION * (2 * left + 1) - 1) // (2 * of_output))
        return most


def _fixed(prompt_tokens: int, engine_micros: int, of_prompt: int, of_engine: int) -> int:
    return divide_half_up(prompt_tokens * of_prompt, MILLION) + divide_half_up(engine_micros * of_engine, HOUR_MICROS)


class PriceBook:
    """All lists, and which of them may apply to a tenant soon."""

    def __init__(self, lists: Iterable[PriceList] = ()) -> None:
        self._by_tenant: dict[int | None, list[PriceList]] = {}
        for each in sorted(lists, key=lambda each: (each.effective_micros, each.id)):
            self._by_tenant.setdefault(each.tenant_id, []).append(each)
        self._known: dict[int, tuple[int, Rates]] = {}  # by tenant: until when, and which

    def rates(self, tenant_id: int, now_micros: int) -> Rates:
        """For what runs now and ends within `AHEAD_MICROS`."""
        until_micros, rates = self._known.get(tenant_id, (0, None))
        if rates is None or not until_micros - HOUR_MICROS <= now_micros < until_micros:
            until_micros = now_micros + HOUR_MICROS
            rates = Rates(self._applicable(tenant_id, now_micros, until_micros + AHEAD_MICROS))
            self._known[tenant_id] = until_micros, rates
        return rates

    def _applicable(self, tenant_id: int, since_micros: int, until_micros: int) -> list[PriceList]:
        own = _in_force(self._by_tenant.get(tenant_id, []), since_micros, until_micros)
        applicable = [each for each in own if not each.follows_general]
        if not own or own[0].effective_micros > since_micros or len(applicable) < len(own):
            general = self._by_tenant.get(None, [])
            applicable += _in_force(general, since_micros, until_micros) or general[:1]
        return applicable


def _in_force(lists: list[PriceList], since_micros: int, until_micros: int) -> list[PriceList]:
    """The list that is in force at first, if there is one, and those that take effect until later."""
    before = [each for each in lists if each.effective_micros <= since_micros]
    return before[-1:] + [each for each in lists if since_micros < each.effective_micros <= until_micros]
