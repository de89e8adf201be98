"""Invoices as PDF say what the page to print says."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import msgspec
import pytest
from pypdf import PdfReader

from tenantctl.papers.pdf import as_pdf
from tenantctl.papers.wording import facts, items, sums
from tenantd.domain import BillingDetails
from tenantd.ledger.invoices import TenantInvoice
from tenantd.ledger.paperwork import Issuer
from tests.cli import fake_daemon
from tests.cli.conftest import Cli
from tests.cli.fake_daemon import FakeDaemon
from tests.cli.test_papers import NASTY, invoice, line

ISSUED = 1_796_100_000_000_000


def text_of(document: bytes) -> str:
    """All text, with any space between words as one blank."""
    return " ".join(" ".join(page.extract_text() for page in PdfReader(io.BytesIO(document)).pages).split())


def test_it_says_all_that_an_invoice_has() -> None:
    paper = invoice(number="INV-000001", issued_micros=ISSUED, terms="30 days\nno discount")
    document, lacking = as_pdf([paper])
    text = text_of(document)
    assert lacking == ""
    for said in ("Invoice INV-000001", "Us", "1 Way", "Town", "To", "Acme Ltd", "30 days", "no discount"):
        assert said in text
    for name, value in facts(paper):
        assert f"{name}: {value}" in text
    for item in items(paper):
        for cell in item:
            assert cell in text
    for name, amount in sums(paper):
        assert f"{name} {amount}" in text
    assert "draft" not in text
    assert as_pdf([paper])[0] == document, "the same bytes each time"


def test_what_its_library_takes_for_a_number_of_pages_stays_as_it_is() -> None:
    document, _ = as_pdf([invoice(number="INV-000001", issued_micros=ISSUED, terms="pay {nb} days after")])
    assert "pay {nb} days after" in text_of(document)


def test_a_draft_says_so_and_each_invoice_begins_a_page() -> None:
    reader = PdfReader(io.BytesIO(as_pdf([invoice(), invoice(tenant="globex")])[0]))
    assert len(reader.pages) == 2
    assert all("This is a draft" in page.extract_text() for page in reader.pages)
    assert "globex" in reader.pages[1].extract_text()


def test_many_lines_go_over_pages_with_the_heading_on_each() -> None:
    lines = [line("input tokens", n, "tokens", n, model=f"model-{n}") for n in range(60)]
    reader = PdfReader(io.BytesIO(as_pdf([invoice(lines=lines)])[0]))
    assert len(reader.pages) > 2
    assert all("Unit price" in page.extract_text() for page in reader.pages)


def test_names_are_text_whatever_is_in_them() -> None:
    names = ("Ørsted & Søn", "Τράπεζα", "Пример", "Nguyễn", "Łódź €", NASTY, "**not bold**", "w" * 300)
    for name in names:
        document, lacking = as_pdf([invoice(customer=BillingDetails(name=name), issuer=Issuer(name=name))])
        assert lacking == ""
        assert text_of(document).replace(" ", "").count(name.replace(" ", "")) == 2


def test_a_character_that_the_font_lacks_is_a_question_mark_and_is_told() -> None:
    document, lacking = as_pdf([invoice(customer=BillingDetails(name="例 Ltd 😀"))])
    assert lacking == "例😀"
    assert "? Ltd ?" in text_of(document)


def test_the_command_writes_bytes_and_says_what_is_not_shown(
    cli: Cli, daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    papers = [msgspec.convert(invoice(customer=BillingDetails(name="例")), TenantInvoice)]
    monkeypatch.setattr(fake_daemon, "INVOICE", msgspec.structs.replace(fake_daemon.INVOICE, tenants=papers))
    done = cli("invoice", "--format", "pdf", "--out", str(tmp_path))
    assert done.exit_code == 0 and "(例); --format html shows all" in done.stderr
    [path] = tmp_path.iterdir()
    assert done.stdout == f"{path}\n" and path.suffix == ".pdf"
    assert "Invoice (draft)" in text_of(path.read_bytes())
    assert cli("invoice", "--format", "pdf").stdout_bytes == path.read_bytes()


def test_what_is_missing_is_told_before_anything_is_finalised(
    cli: Cli, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fpdf", None)
    done = cli("invoice", "--month", "last", "--finalize", "--format", "pdf")
    assert done.exit_code == 2 and "pip install '.[pdf]'" in done.stderr
    assert not daemon.seen
