"""What is announced of a live request, from what its stream holds. Pure, but for the name of an adapter's file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from tenantd.domain import Breach
from tenantd.events import BindingBroken, Started
from tenantd.live.streams import LiveStream


def started(stream: LiveStream) -> Started:
    """The event for a request that has a slot."""
    waited_micros = stream.metered.queue_micros
    return Started(
        request_id=stream.id,
        tenant=stream.tenant,
        tenant_id=stream.tenant_id,
        waited_micros=round(stream.age_s * 1e6) if waited_micros is None else waited_micros,
        sequence=stream.sequence,
        binding=stream.binding,
        adapter=Path(stream.adapter).name or None,
        adapter_sha256=hashlib.sha256(os.fsencode(stream.adapter)).hexdigest() if stream.adapter else None,
        adapter_version=stream.adapter_version,
        system_prompt_hmac=stream.system_prompt_hmac,
    )


def binding_broken(stream: LiveStream, breach: Breach, reported: int | None, other: str | None) -> BindingBroken:
    """The event for a request for which something came that is another's."""
    return BindingBroken(
        breach=breach,
        request_id=stream.id,
        tenant=stream.tenant,
        tenant_id=stream.tenant_id,
        binding=stream.binding,
        reported=reported,
        other=other,
    )
