from __future__ import annotations

import pytest

from tenantctl.failures import error_classes, error_from
from tenantd import errors
from tenantd.errors import TenantdError

KNOWN = [cls for cls in error_classes().values() if cls.__module__ == errors.__name__]
"""Not those of modules of the daemon, which other tests may have imported and the command line never does."""


@pytest.mark.parametrize("cls", KNOWN, ids=lambda cls: cls.code)
def test_an_error_survives_the_wire(cls: type[TenantdError]) -> None:
    back = error_from(cls("why", param="field").body(), cls.http_status)
    assert type(back) is cls
    assert (back.message, back.param, back.exit_code) == ("why", "field", cls.exit_code)


@pytest.mark.parametrize(
    ("status", "exit_code"),
    [(400, 2), (401, 77), (403, 77), (404, 1), (405, 2), (409, 1), (413, 2), (429, 75), (500, 1), (502, 1), (503, 75)],
)
def test_an_unknown_code_ends_as_its_status_says(status: int, exit_code: int) -> None:
    assert error_from({"error": {"message": "m", "code": "of the future"}}, status).exit_code == exit_code


def test_an_unknown_code_in_a_stream_is_a_failure() -> None:
    assert error_from({"error": {"message": "m", "code": "of the future"}}).exit_code == 1


@pytest.mark.parametrize("body", [None, [], "x", {}, {"error": "text"}, {"error": {}}, {"error": {"code": 7}}])
def test_what_is_no_error_object_still_says_something(body: object) -> None:
    assert "HTTP 500" in error_from(body, 500).message


def test_when_to_come_back_is_part_of_the_message() -> None:
    error = error_from(errors.QueueFull("full").body(), 429, "7")
    assert error.retry_after_s == 7
    assert "try again in 7 s" in error.message


@pytest.mark.parametrize("name", ["month", "from"])
def test_a_wrong_period_names_the_option(name: str) -> None:
    refused = errors.InvalidRequest(f"{name}: must be something else", param=name)
    assert error_from(refused.body(), 400).message == f"--{name} must be something else"
