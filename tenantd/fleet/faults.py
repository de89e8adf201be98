"""What a request is told whose end the engine reports as a failure, and what only the log is told. Pure."""

from __future__ import annotations

from typing import Final

from tenantd.domain import FinishReason
from tenantd.errors import EngineFailure, GarbledOutput, InvalidRequest, TenantdError
from tenantd.wire.messages import Finish

GARBLED: Final = (
    "the model returned NaN or infinity. The request was ended, and nothing of it stays in the cache. If "
    "this recurs, check the model file and, on a GPU, the driver"
)


def error_of(finish: Finish, *, has_computed: bool) -> TenantdError | None:
    """The error of a request, None if it did not fail. `has_computed`: tokens were computed for it before."""
    if finish.reason is not FinishReason.FAILED:
        return None
    if finish.is_garbled:
        return GarbledOutput(finish.message)
    if finish.param:
        return InvalidRequest(finish.message, param=finish.param)
    # If the engine refuses a request before computing anything, the request is at fault (e.g. its adapter).
    kind = EngineFailure if has_computed else InvalidRequest
    return kind(finish.message or "the engine failed to run the request")


def detail_of(finish: Finish) -> str:
    """What only administrators may know about it; "" for nothing."""
    return GARBLED if finish.is_garbled else finish.detail
