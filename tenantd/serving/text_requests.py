"""Requests that need no engine: who may send them, and how often."""

from __future__ import annotations

from tenantd.domain import Actor, Tenant
from tenantd.serving.admission import as_it_is, check_active, check_allowed
from tenantd.serving.gate import Gate
from tenantd.tenancy.directory import Directory


class TextRequests:
    """They have no row and cost nothing, but each counts as a request, and none waits for that limit."""

    def __init__(self, directory: Directory, gate: Gate) -> None:
        self._directory = directory
        self._gate = gate

    def count(self, tenant: Tenant, actor: Actor) -> None:
        """Count one, if its tenant may send it. Raises TenantSuspended, Forbidden, KeyRevoked, RequestCancelled,
        RequestsPerMinuteExceeded."""
        tenant = as_it_is(self._directory, tenant.name, tenant.id, actor.key_id)
        check_active(tenant)
        check_allowed(tenant, 0)
        self._gate.book_tokenless(tenant)
