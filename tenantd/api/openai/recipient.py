"""Who an answer goes to, checked before each write."""

from __future__ import annotations

from starlette.types import Scope

from tenantd.api.identity import actor_of, asking
from tenantd.errors import EngineFailure
from tenantd.live.streams import MIXED_UP, LiveStream
from tenantd.serving.service import Service


class Recipient:
    """The tenant, and the key or user, that the connection of a request belongs to."""

    def __init__(self, scope: Scope, service: Service) -> None:
        tenant = asking(scope)
        assert tenant is not None, "who asks is known before anything is generated"
        self._service = service
        self._tenant = tenant
        self._asker = (tenant.id, actor_of(scope))

    def check(self, stream: LiveStream) -> None:
        """Raises EngineFailure if the stream is not theirs; nothing of it may be written."""
        if stream.asker != self._asker:
            self._service.misdirected(stream, self._tenant.name)
            raise EngineFailure(MIXED_UP)
