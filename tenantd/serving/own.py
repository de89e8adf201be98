"""A tenant's own live requests: where they are, and ending one. Nobody else's can be told from one that never was."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tenantd.domain import FinishReason
from tenantd.errors import NotFound, RequestCancelled
from tenantd.fleet.replica import Replica
from tenantd.live.registry import Count
from tenantd.live.streams import LiveStream


class OwnRequests:
    """What the replica runs, as one tenant may see it. Finding a request takes one lookup, whoever has it."""

    def __init__(self, replica: Replica, held: Callable[[str], int]) -> None:
        """`held` tells how many requests of a tenant, by name, wait for its limits per minute."""
        self._replica = replica
        self._held = held

    def count(self, tenant: str) -> Count:
        """Its requests, by whether they have a token yet."""
        return self._replica.live.count(tenant) + Count(waiting=self._held(tenant))

    def states(self, tenant_id: int | None, request_ids: Iterable[str]) -> dict[str, str]:
        """By request id, `Replica.state` of those that are live and the tenant's."""
        find, state = self._replica.live.find, self._replica.state
        found = ((each, find(each)) for each in request_ids)
        return {each: state(one) for each, one in found if one is not None and one.tenant_id == tenant_id}

    def all_states(self, tenant_id: int) -> dict[str, str]:
        """By request id, `Replica.state` of all that are live and the tenant's."""
        live, state = self._replica.live, self._replica.state
        return {stream.id: state(stream) for stream in live if stream.tenant_id == tenant_id}

    def cancel(self, tenant_id: int | None, request_id: str) -> None:
        """End a request with all its choices; generated tokens are billed. Raises NotFound unless it is live and the
        tenant's."""
        stream = self._replica.live.find(request_id)
        if stream is None or stream.tenant_id != tenant_id:
            raise NotFound("no request of this tenant with this id is running or waiting")
        cancel_whole(self._replica, stream, "the tenant cancelled the request")


def cancel_whole(replica: Replica, stream: LiveStream, why: str) -> None:
    """End all live choices of a request: without one of them there is no answer, and the first pays for the prompt.

    The last ends first, so that no choice runs on without the one that pays.
    """
    for one in reversed(replica.live.together(stream)):
        replica.end(one, FinishReason.CANCELLED, RequestCancelled(why))
