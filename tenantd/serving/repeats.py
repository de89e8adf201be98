"""Answers that are given again: who gets them, how often, and how many at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from tenantd.domain import Actor, Tenant
from tenantd.errors import TenantdError
from tenantd.events import Events, Repeated
from tenantd.serving.admission import as_it_is, check_active, check_allowed
from tenantd.serving.gate import Gate
from tenantd.serving.kept_answers import KeptAnswer, KeptAnswers
from tenantd.tenancy.directory import Directory

MOST_AT_A_TIME: Final = 2
"""Answers that one tenant is given again at the same time."""
RETRY_S: Final = 1


class TooManyRepeats(TenantdError):
    """The tenant is being given as many answers again as it may at a time; one more should be after `retry_after_s`."""

    code = "too_many_repeats"
    type = "rate_limit_error"
    http_status = 429
    exit_code = 75


class Repeats:
    """Admits answers that are given again. They are not billed and take no tokens, but each counts as a request."""

    def __init__(self, directory: Directory, gate: Gate, answers: KeptAnswers, events: Events) -> None:
        self._directory = directory
        self._gate = gate
        self._answers = answers
        self._events = events

    @contextlib.contextmanager
    def giving(self, answer: KeptAnswer, tenant: Tenant, actor: Actor) -> Iterator[None]:
        """While this is open, `answer` is given to its tenant again.

        Raises TenantSuspended, Forbidden, KeyRevoked, TooManyRepeats, RequestsPerMinuteExceeded.
        """
        tenant = as_it_is(self._directory, tenant.name, tenant.id, actor.key_id)
        check_active(tenant)
        check_allowed(tenant, 0)
        if self._answers.count_sending(answer.keyed.tenant_id) >= MOST_AT_A_TIME:
            raise TooManyRepeats(
                f"{MOST_AT_A_TIME} earlier answers are already being sent again to tenant {tenant.name}; try again "
                "when one is complete",
                retry_after_s=RETRY_S,
            )
        self._gate.book_tokenless(tenant)
        self._events.announce(Repeated(tenant=tenant.name))
        with self._answers.sending(answer):
            yield
