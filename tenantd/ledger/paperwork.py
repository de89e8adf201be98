"""What an invoice is besides its amounts: who issues it to whom, tax, rounding to cents; and its document. Pure."""

from __future__ import annotations

from decimal import Decimal
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

from tenantd.config import NANOS, BillingConfig
from tenantd.domain import BillingDetails
from tenantd.ledger.invoice_lines import InvoiceLine

INVOICE: Final = "invoice"
CREDIT_NOTE: Final = "credit_note"
_PERCENT_PARTS: Final = 1_000_000
_WITHOUT_CENTS: Final = frozenset(
    ("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "VND", "VUV", "XAF", "XOF", "XPF")
)
_WITH_MILS: Final = frozenset(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"))
"""Currencies whose smallest coin is not a hundredth, by ISO 4217."""


class Issuer(msgspec.Struct, frozen=True, kw_only=True):
    """Who sends an invoice."""

    name: str = ""
    address: str = ""  # lines
    tax_id: str = ""


class Paperwork(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration says about invoices. `tax_percent` is a decimal: "19" or "8.25"; "0" is no tax."""

    issuer: Issuer = Issuer()
    terms: str = ""
    tax_name: str = ""
    tax_percent: str = "0"
    prefix: str = ""  # of numbers

    @classmethod
    def of(cls, billing: BillingConfig) -> Paperwork:
        """As it is configured."""
        issuer = Issuer(name=billing.issuer, address=billing.issuer_address, tax_id=billing.issuer_tax_id)
        return cls(
            issuer=issuer,
            terms=billing.terms,
            tax_name=billing.tax_name,
            tax_percent=f"{billing.tax_percent.normalize():f}",
            prefix=billing.invoice_prefix,
        )


class TenantInvoice(msgspec.Struct, frozen=True, kw_only=True):
    """What one tenant owes for a month, under its name at its last request before the month's end.

    `total_nanos` is exact: the sum of the lines, which is that of its requests' costs, unless there is a minimum.
    `rounded_nanos` is the total and `tax_nanos` the tax, each rounded once, half to even, to the currency's smallest
    coin; `payable_nanos` is the sum of these two. The other totals repeat the counts under the names of OpenAI's usage.

    `number` is None in a draft. A finalised one never changes. A credit note has negative amounts, `credits` is the
    number of the invoice that it corrects, and its period is that invoice's.
    """

    tenant: str
    tenant_id: int
    requests: int
    prompt_tokens: int
    completion_tokens: int
    engine_micros: int
    lines: list[InvoiceLine]
    total_nanos: int
    cached_tokens: int = 0
    total_requests: int = 0
    total_input_tokens: int = 0
    total_cached_tokens: int = 0
    total_output_tokens: int = 0
    number: str | None = None
    kind: str = INVOICE
    credits: str | None = None
    reason: str = ""
    month: str = ""
    timezone: str = ""
    since_micros: int = 0
    until_micros: int = 0
    currency: str = ""
    issued_micros: int | None = None
    is_removed: bool = False  # the tenant was removed
    issuer: Issuer = Issuer()
    customer: BillingDetails = BillingDetails()
    terms: str = ""
    tax_name: str = ""
    tax_percent: str = "0"
    rounded_nanos: int = 0
    tax_nanos: int = 0
    payable_nanos: int = 0


class Payable(NamedTuple):
    """What is paid for an exact total."""

    rounded_nanos: int
    tax_nanos: int

    @property
    def sum_nanos(self) -> int:
        """With tax."""
        return self.rounded_nanos + self.tax_nanos


def payable(total_nanos: int, tax_percent: str, currency: str) -> Payable:
    """Round the total and the tax on it to the smallest coin, each once."""
    coin = coin_nanos(currency)
    parts = int(Decimal(tax_percent) * _PERCENT_PARTS)
    tax = divide_half_even(total_nanos * parts, 100 * _PERCENT_PARTS * coin) * coin
    return Payable(divide_half_even(total_nanos, coin) * coin, tax)


def coin_nanos(currency: str) -> int:
    """The smallest coin: a hundredth of the unit for most currencies."""
    if currency in _WITHOUT_CENTS:
        return NANOS
    return NANOS // (1000 if currency in _WITH_MILS else 100)


def divide_half_even(numerator: int, denominator: int) -> int:
    """The nearest integer; of two that are equally near, the even one. `denominator` is positive."""
    whole, rest = divmod(numerator, denominator)
    return whole + (2 * rest > denominator or (2 * rest == denominator and whole % 2 == 1))


def paid(invoice: TenantInvoice) -> TenantInvoice:
    """With the amounts to pay for its total."""
    due = payable(invoice.total_nanos, invoice.tax_percent, invoice.currency)
    return msgspec.structs.replace(
        invoice, rounded_nanos=due.rounded_nanos, tax_nanos=due.tax_nanos, payable_nanos=due.sum_nanos
    )


_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(TenantInvoice).decode


def encoded(invoice: TenantInvoice) -> str:
    """The document: JSON with sorted keys and without spaces."""
    return _encode(invoice).decode()


def decoded(document: str) -> TenantInvoice:
    """Raises msgspec.DecodeError, msgspec.ValidationError if it is not one."""
    return _decode(document)


def digest(document: str) -> bytes:
    """SHA-256 of a document."""
    return sha256(document.encode("utf-8", "surrogateescape")).digest()
