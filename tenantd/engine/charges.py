"""What a step costs its tenants: usage, and tokens per minute. Pure; the scheduler's `commit()` is the only caller."""

from __future__ import annotations

from tenantd import costs
from tenantd.engine.fairness import Fairness
from tenantd.engine.passes import Passes
from tenantd.wire.messages import Submit
from tenantd.wire.settings import Settings


class Charges:
    """Collects the tokens that count towards tokens per minute, until the end of the step."""

    def __init__(self, settings: Settings, fairness: Fairness, passes: Passes) -> None:
        self._settings = settings
        self._fairness = fairness
        self._passes = passes
        self._counted_tokens: dict[str, int] = {}  # by tenant

    def tokens(self, submit: Submit, prompt_tokens: int, generated_tokens: int, now_s: float) -> None:
        """Charge what was computed. A prompt with several choices counts once towards tokens per minute."""
        tenant = submit.tenant
        self._fairness.charge(tenant, costs.of_tokens(self._settings, prompt_tokens, generated_tokens), now_s)
        counted_tokens = generated_tokens + (prompt_tokens if submit.counts_prompt else 0)
        self._counted_tokens[tenant] = self._counted_tokens.get(tenant, 0) + counted_tokens

    def cached(self, submit: Submit, prompt_tokens: int, now_s: float) -> None:
        """Charge prompt tokens that need not be computed. They do not count towards tokens per minute."""
        self._fairness.charge(submit.tenant, costs.of_cached(self._settings, prompt_tokens), now_s)

    def time(self, tenant: str, micros: int, now_s: float) -> None:
        """Charge engine time used by one request alone: as much as prompt tokens that take as long would cost."""
        if micros:
            cost = costs.of_tokens(self._settings, self._passes.tokens_in(micros), 0)
            self._fairness.charge(tenant, cost, now_s)

    def take_counted(self) -> dict[str, int]:
        """Tokens by tenant that count towards tokens per minute, since the last call."""
        counted, self._counted_tokens = self._counted_tokens, {}
        return counted
