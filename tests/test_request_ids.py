from __future__ import annotations

import pytest

from tenantd.request_ids import (
    CHAT_PREFIX,
    COMPLETION_PREFIX,
    answer_id,
    ids_with_part,
    new_request_id,
    request_id_in,
)

ID = "req_0660f90d1289cc263c4c39f767d7fc16"


def test_ids_are_unique_and_sort_by_time() -> None:
    ids = [new_request_id(1_700_000_000_000_000 + n) for n in range(50)]
    assert ids == sorted(ids)
    assert new_request_id(0) != new_request_id(0)
    assert new_request_id(1) < ID < new_request_id()
    assert {len(one) for one in [*ids, new_request_id(0), new_request_id(1 << 60), new_request_id()]} == {len(ID)}


@pytest.mark.parametrize("prefix", [COMPLETION_PREFIX, CHAT_PREFIX])
def test_an_answers_id_names_its_request(prefix: str) -> None:
    assert answer_id(ID, prefix) == prefix + ID.removeprefix("req_")
    assert request_id_in(answer_id(ID, prefix)) == ID


@pytest.mark.parametrize("text", [ID, ID.removeprefix("req_"), f" {ID}\n"])
def test_an_id_is_understood_as_it_is_copied(text: str) -> None:
    assert request_id_in(text) == ID


@pytest.mark.parametrize("text", ["", "req_", "req_1", ID[:-1], ID + "0", ID.upper(), "resq_" + ID[4:], f"req_{ID}"])
def test_anything_else_is_no_id(text: str) -> None:
    assert request_id_in(text) is None


def test_a_part_of_an_id_names_the_requests_that_begin_or_end_with_it() -> None:
    one, other = "req_0123456789abcdef" + "0" * 8 + "deadbeef", "req_0123456789abcdef" + "1" * 16
    for part, found in (
        ("deadbeef", [one]),
        (" 00deadbeef\n", [one]),
        ("0123456789abcdef1", [other]),
        ("req_0123456789abcdef1", [other]),
        ("req_01234567", [one, other]),
        ("req_deadbeef", []),  # with the beginning of an id it is a beginning
        ("eadbeef", []),  # too short
        ("DEADBEEF", []),
        ("%", []),
        ("", []),
    ):
        assert ids_with_part(part, [one, other]) == found
