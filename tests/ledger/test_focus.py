"""The export of costs and usage: FOCUS's columns, and sums that are those of the invoices."""

from __future__ import annotations

import csv
import io
import sqlite3
from datetime import datetime
from decimal import Decimal
from typing import Any

from hypothesis import given

from tenantd.domain import Usage
from tenantd.ledger.finalising import credit, keep, make_ready
from tenantd.ledger.focus import focus_csv
from tenantd.ledger.invoices import Month, invoice
from tenantd.ledger.paperwork import Issuer, Paperwork
from tests.ledger.bills import DAY, HOUR, NOVEMBER, NOW, add, add_tenant, at, ledger, month, no_record, price_list
from tests.ledger.test_invoices import lists, rows
from tests.support.examples import examples

MIDDLE = "2026-11-15 12:00"
# The specification's: mandatory columns, then conditional and recommended ones that apply, then our own.
ASKED_FOR = """BilledCost BillingAccountId BillingAccountName BillingCurrency BillingPeriodStart BillingPeriodEnd
ChargeCategory ChargeClass ChargeDescription ChargePeriodStart ChargePeriodEnd ContractedCost EffectiveCost
HostProviderName InvoiceIssuerName ListCost PricingQuantity PricingUnit ServiceCategory ServiceName ServiceProviderName
ConsumedQuantity ConsumedUnit InvoiceId ListUnitPrice SkuId SkuMeter SkuPriceId SubAccountId SubAccountName Tags
x_KeyId x_Model x_RequestCount"""
NEVER_EMPTY = """BilledCost BillingAccountId BillingCurrency BillingPeriodStart BillingPeriodEnd ChargeCategory
ChargePeriodStart ChargePeriodEnd ContractedCost EffectiveCost HostProviderName InvoiceIssuerName ListCost
ServiceCategory ServiceName ServiceProviderName"""


def read(conn: sqlite3.Connection, which: Month = NOVEMBER, **options: Any) -> list[dict[str, str]]:
    reader = csv.DictReader(io.StringIO(focus_csv(conn, which, **options)))
    found = list(reader)
    assert reader.fieldnames == ASKED_FOR.split()
    for row in found:
        assert all(row[name] for name in NEVER_EMPTY.split()), row
        assert row["ChargeCategory"] in ("Usage", "Purchase", "Tax", "Credit", "Adjustment")
        assert row["ChargeClass"] in ("", "Correction")
        has_price = row["SkuPriceId"] != ""
        assert has_price == (row["ChargeCategory"] == "Usage")
        for name in ("ListUnitPrice", "PricingQuantity", "PricingUnit", "ConsumedQuantity", "ConsumedUnit", "SkuId"):
            assert (row[name] != "") == has_price, name
        if has_price and row["PricingUnit"] == "1000000 Tokens":
            assert Decimal(row["ListCost"]) == Decimal(row["ListUnitPrice"]) * Decimal(row["PricingQuantity"])
            assert Decimal(row["ConsumedQuantity"]) == Decimal(row["PricingQuantity"]) * 1_000_000
        else:
            assert has_price or row["ListCost"] == row["ContractedCost"] == row["BilledCost"]
        for name in ("BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd"):
            assert row[name].endswith("Z") and datetime.fromisoformat(row[name])
    return found


def billed(found: list[dict[str, str]], tenant_id: int | None = None) -> int:
    """In billionths, without taxes and corrections."""
    wanted = [
        row
        for row in found
        if row["ChargeCategory"] != "Tax" and not row["ChargeClass"] and tenant_id in (None, int(row["SubAccountId"]))
    ]
    return int(sum(Decimal(row["BilledCost"]) for row in wanted) * 10**9)


def test_a_day_has_a_row_for_each_meter() -> None:
    with ledger(price_list(cached_nanos_per_million=50_000_000)) as conn:
        add_tenant(conn, 1, "acme", billing='{"name":"Acme Ltd"}')
        usage = Usage(prompt_tokens=12, completion_tokens=30, engine_micros=40_000, cached_tokens=5)
        add(conn, "r1", MIDDLE, usage, key_id="key_1", adapter="/srv/acme.gguf")
        add(conn, "r2", "2026-11-15 23:59:59", usage, key_id="key_1", adapter="/srv/acme.gguf")
        add(conn, "r3", "2026-11-16 00:00", usage, key_id="key_1", adapter="/srv/acme.gguf")
        found = read(conn, papers=Paperwork(issuer=Issuer(name="Us")))
    assert [(row["ChargePeriodStart"], row["SkuMeter"], row["ConsumedQuantity"]) for row in found] == [
        ("2026-11-15T00:00:00Z", "Input Tokens", "24"),
        ("2026-11-15T00:00:00Z", "Cached Tokens", "10"),
        ("2026-11-15T00:00:00Z", "Output Tokens", "60"),
        ("2026-11-15T00:00:00Z", "Engine Time", "0.08"),
        ("2026-11-16T00:00:00Z", "Input Tokens", "12"),
        ("2026-11-16T00:00:00Z", "Cached Tokens", "5"),
        ("2026-11-16T00:00:00Z", "Output Tokens", "30"),
        ("2026-11-16T00:00:00Z", "Engine Time", "0.04"),
    ]
    assert found[2] == {
        **dict.fromkeys(ASKED_FOR.split(), ""),
        "BilledCost": "0.000024",
        "EffectiveCost": "0.000024",
        "ContractedCost": "0.000024",
        "ListCost": "0.000024",
        "ListUnitPrice": "0.4",
        "PricingQuantity": "0.00006",
        "PricingUnit": "1000000 Tokens",
        "ConsumedQuantity": "60",
        "ConsumedUnit": "Tokens",
        "BillingAccountId": "1",
        "BillingAccountName": "Acme Ltd",
        "SubAccountId": "1",
        "SubAccountName": "acme",
        "BillingCurrency": "USD",
        "BillingPeriodStart": "2026-11-01T00:00:00Z",
        "BillingPeriodEnd": "2026-12-01T00:00:00Z",
        "ChargePeriodStart": "2026-11-15T00:00:00Z",
        "ChargePeriodEnd": "2026-11-16T00:00:00Z",
        "ChargeCategory": "Usage",
        "ChargeDescription": "Output Tokens, model tiny+acme.gguf",
        "HostProviderName": "Us",
        "InvoiceIssuerName": "Us",
        "ServiceProviderName": "Us",
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": "Text Generation",
        "SkuId": "tiny+acme.gguf/output-tokens",
        "SkuPriceId": "tiny+acme.gguf/output-tokens",
        "SkuMeter": "Output Tokens",
        "Tags": '{"tenantd/adapter": "acme.gguf"}',
        "x_KeyId": "key_1",
        "x_Model": "tiny",
        "x_RequestCount": "2",
    }


def test_days_are_those_of_the_billing_time_zone_also_when_clocks_change() -> None:
    october = month("2026-10", "Europe/Berlin")
    with ledger() as conn:
        add(conn, "r1", "2026-10-24 22:00")
        add(conn, "r2", "2026-10-25 22:59:59")
        add(conn, "r3", "2026-10-25 23:00")
        found = [row for row in read(conn, october) if row["SkuMeter"] == "Input Tokens"]
    assert [(row["ChargePeriodStart"], row["ChargePeriodEnd"], row["x_RequestCount"]) for row in found] == [
        ("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z", "2"),
        ("2026-10-25T23:00:00Z", "2026-10-26T23:00:00Z", "1"),
    ]


def test_a_tenants_own_prices_are_what_it_agreed_on_and_list_costs_are_everybodys() -> None:
    own = price_list(tenant_id=1, input_nanos_per_million=60_000_000, engine_hour_nanos=0)
    with ledger(price_list(engine_hour_nanos=0), own) as conn:
        add(conn, "r1", MIDDLE, Usage(prompt_tokens=2_000_000))
        (row,) = read(conn)
    assert (row["ListUnitPrice"], row["ListCost"]) == ("0.1", "0.2")
    assert (row["ContractedCost"], row["BilledCost"]) == ("0.12", "0.12")


def test_what_is_no_usage_has_the_categories_of_the_specification() -> None:
    papers = Paperwork(prefix="INV-", tax_name="VAT", tax_percent="19")
    quota = price_list(free_prompt_tokens=10, minimum_nanos=5_000_000_000, engine_hour_nanos=0)
    with ledger(quota) as conn:
        add_tenant(conn, 1, "acme")
        add(conn, "r1", MIDDLE, Usage(prompt_tokens=1_000_000))
        ready = make_ready(conn, NOVEMBER, None, papers)
        (bill,) = keep(conn, NOVEMBER, None, ready, "INV-", NOW, no_record)
        credit(conn, "1", "=cmd|' /C calc'!A0", 2_000_000_000, "INV-", NOW, no_record)
        november, december = read(conn, papers=papers), read(conn, month("2026-12"), papers=papers)
    assert [(row["ChargeCategory"], row["BilledCost"], row["InvoiceId"]) for row in november] == [
        ("Usage", "0.1", "INV-000001"),
        ("Credit", "-0.000001", "INV-000001"),
        ("Adjustment", "4.900001", "INV-000001"),
        ("Tax", "0.95", "INV-000001"),
    ]
    assert sum(Decimal(row["BilledCost"]) for row in november) * 10**9 == bill.payable_nanos
    corrections = [row for row in december if row["ChargeClass"] == "Correction"]
    assert [(row["ChargeCategory"], row["BilledCost"], row["InvoiceId"]) for row in corrections] == [
        ("Credit", "-2", "INV-000002"),
        ("Tax", "-0.38", "INV-000002"),
    ]
    assert corrections[0]["BillingPeriodStart"] == "2026-12-01T00:00:00Z"
    assert corrections[0]["ChargePeriodStart"] == "2026-11-01T00:00:00Z"


def test_no_cell_is_a_formula() -> None:
    with ledger() as conn:
        add_tenant(conn, 1, "acme", billing='{"name":"=cmd|calc"}')
        add(conn, "r1", MIDDLE, model="@SUM(A1)")
        text = focus_csv(conn, NOVEMBER)
        assert ",'=cmd|calc," in text and ",'@SUM(A1)" in text
        assert read(conn, month("2026-10")) == []


@given(rows=rows, lists=lists)
@examples(40)
def test_it_adds_up_to_the_invoices_to_the_billionth(rows: list[Any], lists: list[Any]) -> None:
    for zone in ("UTC", "Asia/Kolkata", "America/St_Johns"):
        november = month("2026-11", zone)
        with ledger(price_list(), *lists) as conn:
            for n, (tenant, usage, ended, adapter, model, unbilled) in enumerate(rows):
                add(conn, f"r{n}", ended, usage, tenant=tenant, adapter=adapter, model=model, unbilled=unbilled)
            bill = invoice(conn, november)
            found = read(conn, november)
        assert billed(found) == bill.total_nanos
        for part in bill.tenants:
            assert billed(found, part.tenant_id) == part.total_nanos


def test_it_adds_up_to_the_invoices_after_the_time_zone_changed() -> None:
    for before, after in (("Europe/Berlin", "UTC"), ("UTC", "Europe/Berlin")):
        with ledger() as conn:
            for n in range(-30, 30):
                add(conn, f"r{n}", NOVEMBER.until_micros + n * HOUR)
            first = month("2026-11", before)
            keep(conn, first, None, make_ready(conn, first, None, Paperwork()), "", NOW, no_record)
            for name in ("2026-11", "2026-12"):
                assert billed(read(conn, month(name, after))) == invoice(conn, month(name, after)).total_nanos


def test_one_tenant_is_only_that_one() -> None:
    with ledger() as conn:
        add(conn, "r1", MIDDLE)
        add(conn, "r2", at(MIDDLE) + DAY, tenant="globex", tenant_id=2)
        assert {row["SubAccountId"] for row in read(conn, tenant_id=2)} == {"2"}
