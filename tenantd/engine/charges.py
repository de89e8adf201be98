"""What a step costs its tenants: usage, and tokens per minute. Pure; the scheduler's `commit()` is the only caller."""

from __future__ import annotations

from tenantd import costs
from tenantd.engine.fairness import Fairness
from tenantd.engine.slack import Slack
from tenantd.wire.messages import Submit
from tenantd.wire.settings import Settings


class Charges:
    """Adds up by tenant what was computed, until `settle`: one charge costs more than adding a token."""

    def __init__(self, settings: Settings, fairness: Fairness, slack: Slack) -> None:
        self._settings = settings
        self._fairness = fairness
        self._slack = slack
        self._made: dict[str, tuple[int, int, int]] = {}  # tokens of prompts, generated, counting for tokens per minute

    def tokens(self, submit: Submit, prompt_tokens: int, generated_tokens: int) -> None:
        """Add what was computed. A prompt with several choices counts once towards tokens per minute."""
        prompt, generated, counted = self._made.get(submit.tenant, (0, 0, 0))
        counted += generated_tokens + (prompt_tokens if submit.counts_prompt else 0)
        self._made[submit.tenant] = (prompt + prompt_tokens, generated + generated_tokens, counted)

    def settle(self, now_s: float) -> list[tuple[str, int]]:
        """Charge the tokens since the last call. Returns by tenant those that count towards tokens per minute."""
        made, self._made = self._made, {}
        for tenant, (prompt, generated, _) in made.items():
            self._fairness.charge(tenant, costs.of_tokens(self._settings, prompt, generated), now_s)
        return [(tenant, counted) for tenant, (_, _, counted) in made.items()]

    def cached(self, submit: Submit, prompt_tokens: int, now_s: float) -> None:
        """Charge prompt tokens that need not be computed. They do not count towards tokens per minute."""
        self._fairness.charge(submit.tenant, costs.of_cached(self._settings, prompt_tokens), now_s)

    def time(self, tenant: str, micros: int, now_s: float) -> None:
        """Charge engine time used by one request alone: as much as prompt tokens that take as long would cost.

        A tenant that is forgotten stays so: what its last requests left is cleared afterwards.
        """
        if micros and tenant in self._fairness:
            cost = costs.of_tokens(self._settings, self._slack.tokens_in(micros), 0)
            self._fairness.charge(tenant, cost, now_s)
