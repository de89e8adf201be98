"""Answers that are kept to be given again: each tenant has memory of its own, which no other touches."""

from __future__ import annotations

from tenantd.ledger.idempotency import KEPT_S, KeyedBody
from tenantd.serving.kept_answers import OVERHEAD_BYTES, KeptAnswers, Recording

ACME, GLOBEX = 1, 2
KIB = 1024
ANSWER_BYTES = 3 * KIB  # of an answer with a body of 2 KiB


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def kept(share_bytes: int, clock: Clock | None = None) -> KeptAnswers:
    answers = KeptAnswers(share_bytes, clock or Clock())
    answers.tenants_are([ACME, GLOBEX])
    return answers


def recording(answers: KeptAnswers, key: str, tenant_id: int = ACME) -> Recording:
    return Recording(answers, KeyedBody(tenant_id=tenant_id, key=key, body_hash=bytes(32)))


def add(
    answers: KeptAnswers, key: str, tenant_id: int = ACME, body: bytes = b"x" * 2 * KIB, now_s: float = 100
) -> None:
    one = recording(answers, key, tenant_id)
    one.begin(200, [])
    one.add(body)
    one.complete()
    one.keep(now_s)


def found(answers: KeptAnswers, keys: str, tenant_id: int = ACME) -> str:
    return "".join(key for key in keys if answers.find(tenant_id, key) is not None)


def test_an_answer_is_what_was_recorded() -> None:
    answers = kept(100 * KIB)
    one = recording(answers, "a")
    one.begin(200, [(b"content-type", b"text/event-stream")])
    for part in (b"data: 1\n\n", b"data: 2\n\n"):
        one.add(part)
    one.complete()
    assert answers.find(ACME, "a") is None
    one.keep(100.0)
    answer = answers.find(ACME, "a")
    assert answer is not None
    assert (answer.status, answer.body) == (200, b"data: 1\n\ndata: 2\n\n")
    assert answer.headers == [(b"content-type", b"text/event-stream")]
    assert answers.held_bytes == answer.size_bytes == OVERHEAD_BYTES + 29 + 18


def test_a_tenants_oldest_answers_make_room_for_its_new_ones_and_no_others() -> None:
    answers = kept(4 * ANSWER_BYTES)
    add(answers, "g", GLOBEX)
    for key in "abcde":
        add(answers, key)
    assert found(answers, "abcde") == "bcde"
    assert found(answers, "g", GLOBEX) == "g" and found(answers, "bcde", GLOBEX) == ""
    assert answers.held_bytes == 5 * ANSWER_BYTES


def test_what_is_too_large_or_not_complete_is_not_kept_and_holds_nothing() -> None:
    answers = kept(2 * ANSWER_BYTES)
    add(answers, "a", body=b"x" * 7 * KIB)
    assert found(answers, "a") == "" and answers.held_bytes == 0
    add(answers, "a", body=b"x" * 5 * KIB)
    assert found(answers, "a") == "a" and answers.held_bytes == 6 * KIB, "all of its part"
    for is_kept in (False, True):
        one = recording(answers, "b")
        one.begin(200, [])
        one.add(b"cut off")
        if is_kept:
            one.keep(100.0)
        else:
            one.drop()
    assert found(answers, "b") == "" and answers.held_bytes == 0


def test_an_error_takes_the_place_of_what_was_begun() -> None:
    answers = kept(100 * KIB)
    one = recording(answers, "a")
    one.begin(200, [])
    one.add(b"x" * KIB)
    one.begin(500, [])
    one.add(b"sorry")
    one.complete()
    one.keep(100.0)
    answer = answers.find(ACME, "a")
    assert answer is not None and (answer.status, answer.body) == (500, b"sorry")
    assert answers.held_bytes == answer.size_bytes


def test_what_is_being_sent_stays_and_makes_no_room() -> None:
    answers = kept(2 * ANSWER_BYTES)
    for key in "ab":
        add(answers, key)
    first, second = answers.find(ACME, "a"), answers.find(ACME, "b")
    assert first is not None and second is not None
    with answers.sending(first), answers.sending(first):
        add(answers, "c")
        assert found(answers, "abc") == "ac"
        with answers.sending(second):  # it was pushed out, and may still be sent
            add(answers, "d")
        assert answers.find(ACME, "a") is first
    assert answers.held_bytes <= 2 * ANSWER_BYTES + ANSWER_BYTES
    add(answers, "e")
    assert found(answers, "e") == "e" and answers.held_bytes <= 2 * ANSWER_BYTES


def test_others_come_without_effect_and_a_removed_tenant_leaves_nothing() -> None:
    answers = kept(4 * ANSWER_BYTES)
    for key in "abcd":
        add(answers, key)
    answers.tenants_are([ACME, GLOBEX, 3, 4])
    assert found(answers, "abcd") == "abcd"
    late = recording(answers, "x")
    late.begin(200, [])
    answers.tenants_are([GLOBEX])
    late.add(b"y")
    late.complete()
    late.keep(100.0)
    assert found(answers, "abcdx") == "" and answers.held_bytes == 0


def test_without_memory_nothing_is_kept() -> None:
    answers = kept(0)
    add(answers, "a", body=b"")
    assert found(answers, "a") == "" and answers.held_bytes == 0


def test_answers_are_forgotten_after_a_day() -> None:
    clock = Clock()
    answers = kept(100 * KIB, clock)
    add(answers, "a", now_s=100)
    add(answers, "b", now_s=101)
    clock.now_s = 100.0 + KEPT_S
    assert found(answers, "ab") == "b"
    answers.forget_old()
    assert answers.held_bytes == ANSWER_BYTES


def test_many_small_answers_hold_no_more_than_their_part() -> None:
    answers = kept(1000 * OVERHEAD_BYTES)
    for number in range(20_000):
        add(answers, str(number), body=b"")
    assert answers.held_bytes == 1000 * OVERHEAD_BYTES
