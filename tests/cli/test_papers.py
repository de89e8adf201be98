"""Invoices as files and pages: whole, private, escaped, and nothing in them is run."""

from __future__ import annotations

import csv
import io
import json
import stat
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tenantctl.papers.markdown import as_markdown
from tenantctl.papers.page import as_html
from tenantctl.papers.sheet import as_csv
from tenantctl.papers.wording import cents, items, sums
from tenantctl.whole_files import safe_name, write_whole
from tenantd.domain import BillingDetails
from tenantd.ledger.invoice_lines import InvoiceLine
from tenantd.ledger.invoices import TenantInvoice
from tenantd.ledger.paperwork import Issuer, encoded, paid
from tests.cli import fake_daemon
from tests.cli.conftest import Cli
from tests.cli.fake_daemon import FakeDaemon


@pytest.mark.parametrize(("quantity", "unit"), [(1, "token"), (-1, "token"), (0, "tokens"), (2, "tokens")])
def test_one_token_is_not_tokens(quantity: int, unit: str) -> None:
    [item] = items(invoice(lines=[line("input tokens", quantity, "tokens", 100)]))
    assert (item.quantity, item.unit) == (str(quantity), unit)


NASTY = "<script>alert(\"1\")</script> & 'x' =cmd|' /C calc'!A0"
PRICES = {"tokens": 100_000_000, "µs": 1_500_000_000}
VOID = {"meta", "br", "hr", "img", "link", "input"}


def line(what: str, quantity: int, unit: str, amount: int, **more: Any) -> InvoiceLine:
    price = PRICES.get(unit)
    return InvoiceLine(
        description=what, quantity=quantity, unit=unit, amount_nanos=amount, unit_price_nanos=price, **more
    )


def invoice(**changes: Any) -> dict[str, Any]:
    lines = [
        line("input tokens", 1_234_567, "tokens", 123_456_700, meter="input_tokens", model="tiny"),
        line("engine time at 1.50 USD per hour", 3_600_000_001, "µs", 1_500_000_000, meter="engine_time", model="tiny"),
        line("input tokens", 1, "tokens", 100, meter="input_tokens", model="tiny", adapter="acme.gguf"),
        line("free quota", 0, "", -56_800, meter="free_quota"),
    ]
    made = TenantInvoice(
        tenant="acme",
        tenant_id=1,
        requests=3,
        prompt_tokens=1_234_568,
        completion_tokens=0,
        engine_micros=3_600_000_001,
        lines=lines,
        total_nanos=sum(each.amount_nanos for each in lines),
        month="2026-11",
        timezone="Europe/Berlin",
        since_micros=1_793_487_600_000_000,
        until_micros=1_796_079_600_000_000,
        currency="USD",
        issuer=Issuer(name="Us", address="1 Way\nTown"),
        customer=BillingDetails(name="Acme Ltd"),
        tax_name="VAT",
        tax_percent="19",
    )
    made = paid(msgspec.structs.replace(made, **changes))
    return dict(msgspec.to_builtins(made))


class Page(HTMLParser):
    """What is in a page: tags that are closed as they are opened, their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_has_everything_in_it_and_loads_and_runs_nothing() -> None:
    page = Page(as_html([invoice(number="INV-000001", issued_micros=1_796_100_000_000_000)]))
    assert {"html", "head", "style", "table", "thead", "tbody", "tfoot"} <= set(page.tags)
    assert not {"script", "link", "img", "iframe", "object", "form", "a"} & set(page.tags)
    assert not {name for name, _ in page.attributes if name.startswith(("on", "href", "src"))}
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes
    assert "url(" not in page.text and "@import" not in page.text
    for said in ("Invoice INV-000001", "2026-11-01 to 2026-11-30 (Europe/Berlin)", "2026-12-01", "Acme Ltd", "Town"):
        assert said in page.text
    for said in ("1234567", "1.000000", "hours", "1.50 per hour", "tiny, adapter acme.gguf", "-0.0000568"):
        assert said in page.text
    assert "This is a draft" not in page.text


def test_a_draft_says_so_and_several_are_pages_of_one_document() -> None:
    page = Page(as_html([invoice(), invoice(tenant="globex")]))
    assert page.tags.count("article") == 2 and page.tags.count("html") == 1
    assert page.text.count("This is a draft") == 2 and "break-before: page" in page.text


def test_names_are_text_in_every_form() -> None:
    nasty = invoice(
        number="INV-1",
        issued_micros=1,
        customer=BillingDetails(name=NASTY, address="a\n=b|c", reference="`x`"),
        issuer=Issuer(name='*Us*, "Inc"'),
        lines=[line(NASTY, 1, "tokens", 5, model="@m|<b>"), line("input tokens", 1, "tokens", 5, model="+n")],
        terms="- <i>30</i> days\n1. now",
    )
    page = Page(as_html([nasty]))
    assert NASTY in page.text and "@m|<b>" in page.text and "script" not in page.tags
    text = as_markdown([nasty])
    assert "<script>" not in text and "<b>" not in text and "<i>" not in text
    assert "\\*Us\\*" in text and "\\- " in text and "1\\. now" in text
    table = [row for row in text.splitlines() if row.startswith("|")]
    assert {row.replace("\\|", "").count("|") for row in table} == {6}
    cells = [cell for row in csv.reader(io.StringIO(as_csv([nasty], "2026-11", "USD"))) for cell in row]
    assert "'@m|<b>" in cells and "'+n" in cells
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@", "\t", "\r"))]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_spreadsheet_runs_no_cell_and_numbers_stay_numbers(start: str) -> None:
    paper = invoice(lines=[line(f"{start}1+1", 0, "", -5)], tenant=f"{start}x")
    _, row, *_ = csv.reader(io.StringIO(as_csv([paper], "2026-11", "USD")))
    shown = start.replace("\r", " ")
    assert row[1:3] == [f"'{shown}x", f"'{shown}1+1"]
    assert row[6:8] == ["-0.000000005", "-5"]


def test_a_total_is_exact_and_what_is_to_pay_is_in_cents() -> None:
    paper = invoice()
    assert [item.label for item in items(paper)] == ["tiny", "", "tiny, adapter acme.gguf", ""]
    assert sums(paper) == [
        ("Total", "1.6234000"),
        ("Rounded", "1.62"),
        ("VAT 19 %", "0.31"),
        ("Amount due (USD)", "1.93"),
    ]
    credit = invoice(kind="credit_note", credits="INV-1", lines=[line("x", 0, "", -5 * 10**9)], total_nanos=-5 * 10**9)
    assert sums(credit)[-1] == ("Amount credited (USD)", "5.95")
    assert (cents(5 * 10**9, "JPY"), cents(-5 * 10**6, "KWD"), cents(0, "EUR")) == ("5", "-0.005", "0.00")


def test_a_file_is_whole_or_not_there_and_only_its_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.html"
    write_whole(path, "first")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, "second")
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["../../etc/passwd", "/abs", ".hidden", "a b", "é\n", "", "..", "INV/1"])
def test_a_name_of_a_file_stays_in_its_folder(text: str) -> None:
    name = safe_name(text)
    assert name and "/" not in name and not name.startswith(".") and name.isascii() and name.isprintable()


def test_the_command_writes_a_file_for_each_tenant(
    cli: Cli, daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = msgspec.convert(invoice(number="INV-000001", issued_micros=5), TenantInvoice)
    same_name = msgspec.structs.replace(final, tenant_id=7, number=None)
    bill = msgspec.structs.replace(fake_daemon.INVOICE, tenants=[final, same_name])
    monkeypatch.setattr(fake_daemon, "INVOICE", bill)
    folder = tmp_path / "new" / "folder"
    done = cli("invoice", "--month", "2026-11", "--format", "json", "--out", str(folder))
    assert done.stdout.split() == [
        str(folder / name) for name in ("2026-11-acme-id1-INV-000001.json", "2026-11-acme-id7-draft.json")
    ]
    written = (folder / "2026-11-acme-id1-INV-000001.json").read_text("utf-8")
    assert written == encoded(final), "the bytes whose hash is in the audit trail"
    for form in ("html", "md", "csv"):
        assert cli("invoice", "--format", form, "--out", str(folder)).exit_code == 0
    assert len(list(folder.iterdir())) == 8


@pytest.mark.parametrize(
    "arguments",
    [
        ["--format", "odt"],
        ["--out", "x"],
        ["--json", "--csv"],
        ["--json", "--format", "html"],
        ["--tenant", "acme", "list"],
        ["nonsense"],
    ],
    ids=" ".join,
)
def test_what_does_not_go_together_is_refused(cli: Cli, daemon: FakeDaemon, arguments: list[str]) -> None:
    assert cli("invoice", *arguments).exit_code == 2
    assert not daemon.seen


def test_a_month_as_json_is_one_document(cli: Cli, daemon: FakeDaemon) -> None:
    for arguments in (["--json"], ["--format", "json"]):
        assert json.loads(cli("invoice", *arguments).stdout)["month"] == "2026-11"
