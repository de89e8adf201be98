"""What a request is told that the engine failed to run."""

from __future__ import annotations

import pytest

from tenantd.domain import FinishReason
from tenantd.errors import EngineFailure, GarbledOutput, InvalidRequest
from tenantd.fleet.faults import detail_of, error_of
from tenantd.wire.messages import Finish

FAILED = FinishReason.FAILED


@pytest.mark.parametrize("has_computed", [False, True])
def test_who_is_at_fault_decides(has_computed: bool) -> None:
    assert error_of(Finish(1, 1, FinishReason.STOP), has_computed=has_computed) is None
    by_request = error_of(Finish(1, 1, FAILED, "no", "grammar"), has_computed=has_computed)
    assert isinstance(by_request, InvalidRequest) and by_request.param == "grammar"
    unknown = error_of(Finish(1, 1, FAILED, ""), has_computed=has_computed)
    assert type(unknown) is (EngineFailure if has_computed else InvalidRequest) and "failed to run" in unknown.message
    garbled = error_of(Finish(1, 1, FAILED, "NaN", is_garbled=True), has_computed=has_computed)
    assert isinstance(garbled, GarbledOutput) and (garbled.code, garbled.http_status) == ("garbled_output", 500)


def test_what_only_the_log_is_told() -> None:
    assert detail_of(Finish(1, 1, FAILED, "no", detail="/path")) == "/path"
    assert "NaN" in detail_of(Finish(1, 1, FAILED, "no", is_garbled=True))
    assert not detail_of(Finish(1, 1, FinishReason.STOP))
