"""Invoices of a month: their lines, and what they add up to."""

from __future__ import annotations

import sqlite3
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantd.domain import Usage
from tenantd.errors import InvalidRequest
from tenantd.ledger.audit import append
from tenantd.ledger.invoice_lines import InvoiceLine
from tenantd.ledger.invoices import AuditHead, invoice
from tenantd.ledger.paperwork import Issuer, Paperwork, TenantInvoice, coin_nanos, divide_half_even, payable
from tenantd.ledger.prices import AmountTooLarge
from tenantd.ledger.reports import recent_requests
from tenantd.ledger.requests import insert_request, settle_request
from tests.ledger.bills import DAY, HOUR, NOVEMBER, SECOND, add, add_tenant, at, ledger, month, price_list
from tests.ledger.books import admission, settlement
from tests.ledger.trails import entry
from tests.support.examples import examples

MIDDLE = "2026-11-15 12:00"


def only(conn: sqlite3.Connection) -> TenantInvoice:
    (part,) = invoice(conn, NOVEMBER).tenants
    return part


def shown(lines: list[InvoiceLine]) -> list[tuple[str, int, str, int]]:
    return [(line.description, line.quantity, line.unit, line.amount_nanos) for line in lines]


@pytest.mark.parametrize("text", ["2026-13", "2026-1", "december", ""])
def test_what_is_no_month_is_refused_with_what_one_looks_like(text: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"must be YYYY-MM such as 2026-09, 'this' or 'last' \(got '{text}'\)"):
        month(text)


def test_lines_are_for_input_output_and_engine_time_and_counts_have_two_names() -> None:
    with ledger() as conn:
        add(conn, "r1", MIDDLE)
        part = only(conn)
    assert shown(part.lines) == [
        ("input tokens", 12, "tokens", 1_200),
        ("output tokens", 30, "tokens", 12_000),
        ("engine time", 40_000, "µs", 16_667),
    ]
    assert [(line.model, line.adapter, line.unit_price_nanos) for line in part.lines] == [
        ("tiny", "", 100_000_000),
        ("tiny", "", 400_000_000),
        ("tiny", "", 1_500_000_000),
    ]
    assert (part.requests, part.prompt_tokens, part.completion_tokens, part.engine_micros) == (1, 12, 30, 40_000)
    assert (part.total_requests, part.total_input_tokens, part.total_output_tokens) == (1, 12, 30)
    assert (part.total_nanos, part.rounded_nanos, part.payable_nanos, part.number) == (29_867, 0, 0, None)


def test_a_request_across_midnight_is_billed_where_it_ends_at_the_price_of_then() -> None:
    with ledger(price_list(), price_list(effective_micros=NOVEMBER.until_micros, input_nanos_per_million=7)) as conn:
        add(conn, "over", NOVEMBER.until_micros, Usage(prompt_tokens=1_000_000), lasted=HOUR)
        add(conn, "before", NOVEMBER.until_micros - 1, Usage(prompt_tokens=1_000_000), lasted=HOUR)
        november, december = (invoice(conn, month(name)).tenants for name in ("2026-11", "2026-12"))
    assert [(part.requests, part.total_nanos) for part in november] == [(1, 100_000_000)]
    assert [(part.requests, part.total_nanos) for part in december] == [(1, 7)]


def test_a_month_ends_when_its_clocks_say() -> None:
    berlin = month("2026-10", "Europe/Berlin")  # has the hour that clocks show twice
    with ledger() as conn:
        add(conn, "last", "2026-10-31 22:59:59")
        add(conn, "first of the next", "2026-10-31 23:00")
        assert [part.requests for part in invoice(conn, berlin).tenants] == [1]
        assert berlin.until_micros - berlin.since_micros == 31 * DAY + HOUR


def test_each_model_and_adapter_has_lines_and_an_adapter_only_the_name_of_its_file() -> None:
    with ledger(price_list(engine_hour_nanos=0)) as conn:
        add(conn, "plain", MIDDLE)
        add(conn, "tuned", MIDDLE, adapter="/srv/secret/acme.gguf")
        add(conn, "moved", MIDDLE, adapter="/mnt/acme.gguf")
        add(conn, "other", MIDDLE, model="large")
        part = only(conn)
    assert [(line.model, line.adapter, line.description, line.quantity) for line in part.lines] == [
        ("large", "", "input tokens", 12),
        ("large", "", "output tokens", 30),
        ("tiny", "", "input tokens", 12),
        ("tiny", "", "output tokens", 30),
        ("tiny", "acme.gguf", "input tokens", 24),
        ("tiny", "acme.gguf", "output tokens", 60),
    ]


def test_a_price_that_changed_is_said_and_those_that_did_not_are_one_line() -> None:
    dearer = price_list(effective_micros=at("2026-11-10"), input_nanos_per_million=2_125_000_000)
    million = Usage(prompt_tokens=1_000_000, completion_tokens=1, engine_micros=3600 * SECOND)
    with ledger(price_list(), dearer) as conn:
        add(conn, "r1", "2026-11-09 12:00", million)
        add(conn, "r2", "2026-11-10 12:00", million)
        part = only(conn)
    assert shown(part.lines) == [
        ("input tokens at 0.10 USD per million", 1_000_000, "tokens", 100_000_000),
        ("input tokens at 2.125 USD per million", 1_000_000, "tokens", 2_125_000_000),
        ("output tokens", 2, "tokens", 800),
        ("engine time", 7200 * SECOND, "µs", 3_000_000_000),
    ]


def test_what_is_free_waived_and_missing_to_the_minimum_are_lines_of_their_own() -> None:
    quota = price_list(free_prompt_tokens=10, minimum_nanos=5_000_000_000, engine_hour_nanos=0)
    with ledger(quota) as conn:
        add_tenant(conn, 1, "acme")
        add_tenant(conn, 2, "idle")
        add_tenant(conn, 3, "gone", state="removed")
        add_tenant(conn, 4, "probe", unbilled=1)
        add_tenant(conn, 5, "new", created_micros=at(MIDDLE))
        add(conn, "r1", MIDDLE, Usage(prompt_tokens=1_000_000))
        acme, idle = invoice(conn, NOVEMBER).tenants
    assert shown(acme.lines[2:]) == [
        ("free tokens", 0, "", -1_000),
        ("minimum charge", 0, "", 4_900_001_000),
    ]
    assert (acme.total_nanos, idle.tenant, idle.total_nanos) == (5_000_000_000, "idle", 5_000_000_000)


def test_cached_tokens_have_a_line_if_there_are_any() -> None:
    with ledger(price_list(cached_nanos_per_million=50_000_000, engine_hour_nanos=0)) as conn:
        add(conn, "r1", MIDDLE, Usage(prompt_tokens=2, cached_tokens=1_000_000))
        part = only(conn)
    assert shown(part.lines)[1] == ("cached tokens", 1_000_000, "tokens", 50_000_000)
    assert (part.cached_tokens, part.total_cached_tokens) == (1_000_000, 1_000_000)


def test_a_tenant_without_usage_that_is_asked_for_gets_an_invoice_of_zero() -> None:
    with ledger() as conn:
        add_tenant(conn, 1, "acme")
        add_tenant(conn, 2, "probe", unbilled=1)
        assert invoice(conn, NOVEMBER).tenants == []
        (part,) = invoice(conn, NOVEMBER, 1).tenants
        assert (part.tenant, part.lines, part.total_nanos, part.payable_nanos) == ("acme", [], 0, 0)
        assert invoice(conn, NOVEMBER, 2).tenants == [], "it is unbilled"
        assert invoice(conn, month("1999-12")).tenants == []


def test_bills_follow_the_id_and_a_removed_tenant_is_shown_as_removed() -> None:
    with ledger() as conn:
        add_tenant(conn, 1, "acme2", state="removed")
        add_tenant(conn, 7, "acme")
        for n, (tenant_id, name) in enumerate([(1, "acme"), (1, "acme2"), (7, "acme")]):
            add(conn, f"r{n}", at(MIDDLE) + n * HOUR, tenant=name, tenant_id=tenant_id)
        add(conn, "later", "2026-12-01 12:00", tenant="acme3", tenant_id=1)
        parts = invoice(conn, NOVEMBER).tenants
        again = invoice(conn, NOVEMBER, 1).tenants
    assert [(part.tenant, part.tenant_id, part.requests, part.is_removed) for part in parts] == [
        ("acme", 7, 1, False),
        ("acme2", 1, 2, True),
    ]
    assert again == parts[1:]


def test_what_is_unbilled_is_on_no_invoice_and_the_head_of_the_trail_is() -> None:
    with ledger() as conn:
        add(conn, "billed", MIDDLE)
        add(conn, "free", MIDDLE, unbilled=True)
        add(conn, "bench", MIDDLE, tenant="bench-1", unbilled=True)
        append(conn, [entry("e1"), entry("e2")])
        bill = invoice(conn, NOVEMBER)
        (digest,) = conn.execute("SELECT hash FROM audit WHERE number = 2").fetchone()
    assert bill.audit_head == AuditHead(number=2, hash=digest.hex())
    assert [(part.tenant, part.requests, part.total_nanos) for part in bill.tenants] == [("acme", 1, 29_867)]


def test_it_is_open_until_the_month_is_over_and_its_requests_are_settled() -> None:
    with ledger() as conn:
        assert not invoice(conn, NOVEMBER).open
        assert invoice(conn, month("2026-11", now_micros=NOVEMBER.until_micros - 1)).open
        insert_request(conn, admission("r1", created_micros=NOVEMBER.until_micros - 1))
        insert_request(conn, admission("r2", created_micros=NOVEMBER.until_micros))
        assert invoice(conn, NOVEMBER).open and invoice(conn, NOVEMBER).tenants == []
        settle_request(conn, settlement("r1"))
        assert not invoice(conn, NOVEMBER).open


def test_sums_over_64_bits_are_refused_in_words() -> None:
    with ledger() as conn:
        for n in range(2):
            add(conn, f"r{n}", MIDDLE, Usage(completion_tokens=2**54))
        with pytest.raises(AmountTooLarge, match="does not fit 64 bits"):
            invoice(conn, NOVEMBER)


def test_papers_and_details_are_on_it_and_tax_is_rounded_once() -> None:
    papers = Paperwork(issuer=Issuer(name="Us", address="1\n2"), terms="30 days", tax_name="VAT", tax_percent="19")
    with ledger(price_list(engine_hour_nanos=0)) as conn:
        add_tenant(conn, 1, "acme", billing='{"name":"Acme, \\"Inc\\" <x>","address":"a\\nb"}')
        add(conn, "r1", MIDDLE, Usage(prompt_tokens=100_450_000))  # 10.045
        (part,) = invoice(conn, NOVEMBER, papers=papers).tenants
    assert (part.issuer, part.terms, part.customer.name) == (papers.issuer, "30 days", 'Acme, "Inc" <x>')
    assert part.total_nanos == 10_045_000_000
    assert (part.rounded_nanos, part.tax_nanos) == (10_040_000_000, 1_910_000_000)  # half to even; 1.90855
    assert part.payable_nanos == 11_950_000_000


@given(numerator=st.integers(-(10**30), 10**30), denominator=st.integers(1, 10**12))
def test_halves_are_rounded_to_even_on_both_sides_of_zero(numerator: int, denominator: int) -> None:
    assert divide_half_even(numerator, denominator) == round(Fraction(numerator, denominator))
    assert divide_half_even(-numerator, denominator) == -divide_half_even(numerator, denominator)


@given(total=st.integers(-(2**63), 2**63), millionths=st.integers(0, 100_000_000))
def test_what_is_to_pay_is_whole_coins_and_within_half_a_coin_each(total: int, millionths: int) -> None:
    percent = f"{millionths // 1_000_000}.{millionths % 1_000_000:06}"
    for currency in ("EUR", "JPY", "KWD", "credits"):
        coin = coin_nanos(currency)
        due = payable(total, percent, currency)
        assert due.rounded_nanos % coin == due.tax_nanos % coin == 0
        assert 2 * abs(due.rounded_nanos - total) <= coin
        assert 2 * abs(due.tax_nanos - Fraction(total * millionths, 100_000_000)) <= coin
        assert due.sum_nanos == due.rounded_nanos + due.tax_nanos


tokens = st.integers(0, 10**9)
usages = st.builds(Usage, prompt_tokens=tokens, completion_tokens=tokens, engine_micros=tokens, cached_tokens=tokens)
rows = st.lists(
    st.tuples(
        st.sampled_from(["acme", "globex", "initech"]),
        usages,
        st.integers(NOVEMBER.since_micros - 2 * DAY, NOVEMBER.until_micros + 2 * DAY),  # ended
        st.sampled_from(["", "/a/one.gguf", "/b/one.gguf", "/a/two.gguf"]),
        st.sampled_from(["tiny", "large"]),
        st.booleans(),  # unbilled
    ),
    max_size=25,
)
lists = st.lists(
    st.builds(
        price_list,
        effective_micros=st.integers(NOVEMBER.since_micros, NOVEMBER.until_micros),
        input_nanos_per_million=st.sampled_from([0, 100_000_000, 123_456_789]),
        output_nanos_per_million=st.sampled_from([0, 400_000_000]),
        cached_nanos_per_million=st.sampled_from([0, 1, 99]),
        free_completion_tokens=st.sampled_from([0, 500_000_000]),
        tenant_id=st.sampled_from([None, None, 1, 2]),
    ),
    max_size=4,
)


@given(rows=rows, lists=lists, zone=st.sampled_from(["UTC", "Asia/Kolkata", "America/St_Johns", "Pacific/Chatham"]))
@examples(60)
def test_an_invoice_is_the_sum_of_its_rows_to_the_billionth(
    rows: list[tuple[str, Usage, int, str, str, bool]], lists: list[object], zone: str
) -> None:
    november = month("2026-11", zone)
    with ledger(price_list(), *lists) as conn:  # type: ignore[arg-type]
        for n, (tenant, usage, ended, adapter, model, unbilled) in enumerate(rows):
            add(conn, f"r{n}", ended, usage, tenant=tenant, adapter=adapter, model=model, unbilled=unbilled)
        bill = invoice(conn, november)
        records = recent_requests(conn, None, 100)
        singles = {part.tenant: invoice(conn, november, part.tenant_id).tenants for part in bill.tenants}
    inside = [r for r in records if november.since_micros <= (r.ended_micros or 0) < november.until_micros]
    billed = [r for r in inside if not r.unbilled]
    assert bill.total_nanos == sum(record.cost_nanos for record in inside)
    assert {part.tenant for part in bill.tenants} == {r.tenant for r in billed}
    for part in bill.tenants:
        own = [r for r in billed if r.tenant == part.tenant]
        assert part.total_nanos == sum(r.cost_nanos for r in own) == sum(line.amount_nanos for line in part.lines)
        assert (part.requests, part.cached_tokens) == (len(own), sum(r.cached_tokens for r in own))
        for meter, column in (("input_tokens", "prompt_tokens"), ("engine_time", "engine_micros")):
            lines = sum(line.quantity for line in part.lines if line.meter == meter)
            assert lines == sum(getattr(r, column) for r in own)
        shown = [(line.model, line.adapter, line.meter, line.unit_price_nanos) for line in part.lines]
        assert len(shown) == len(set(shown)), "equal prices are one line"
        assert not any("/" in line.adapter for line in part.lines)
        assert singles[part.tenant] == [part]
