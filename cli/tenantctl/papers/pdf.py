"""Invoices as PDF, by fpdf2: what the page to print says, with its font in the file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tenantctl.papers.page import DRAFT
from tenantctl.papers.wording import Paper, customer, facts, issuer, items, sums, title
from tenantd.errors import InvalidRequest
from tenantd.periods import EPOCH

if TYPE_CHECKING:
    from fpdf import FPDF

FONT: Final = "invoice"
UNKNOWN: Final = "?"
"""What is printed for a character that the font lacks."""
MARGIN_MM: Final = 16
LINE_MM: Final = 5
GAP_MM: Final = 7
WIDTHS: Final = (30, 19, 12, 19, 20)
"""Of the columns, in percent."""
GREY: Final = 110
RULE: Final = 200


def need_pdf() -> None:
    """Raises InvalidRequest if what writes PDF is not installed."""
    try:
        import font_source_sans_pro  # noqa: F401
        import fpdf  # noqa: F401
    except ImportError as e:
        raise InvalidRequest(
            f"PDF needs {e.name}; in tenantd's source folder, run: pip install '.[pdf]' (or print --format html)"
        ) from None


def as_pdf(papers: Sequence[Paper]) -> tuple[bytes, str]:
    """A document with a page, or more, for each invoice, and the characters that its font lacks.

    The same invoices make the same bytes. Raises InvalidRequest if what writes PDF is not installed.
    """
    need_pdf()
    sheet = _Sheet(papers)
    for paper in papers:
        sheet.add(paper)
    return sheet.written(), "".join(sorted(sheet.lacking))


class _Sheet:
    """A document that is being written."""

    def __init__(self, papers: Sequence[Paper]) -> None:
        from fpdf import FPDF
        from fpdf.fonts import TTFFont

        self.lacking: set[str] = set()
        self._pdf: FPDF = FPDF(format="A4")
        self._pdf.alias_nb_pages("")  # a text with "{nb}" is not about pages
        self._pdf.set_margin(MARGIN_MM)
        self._pdf.set_auto_page_break(True, MARGIN_MM)
        issued = [paper["issued_micros"] or paper["until_micros"] for paper in papers]
        self._pdf.set_creation_date(_moment(max(issued, default=0)))
        self._pdf.set_lang("en")
        for style, path in zip(("", "B"), _font_files(), strict=True):
            self._pdf.add_font(FONT, style, path)
        font = self._pdf.fonts[FONT]
        assert isinstance(font, TTFFont), "it was just added"
        self._known = set(font.cmap)
        self._pdf.set_title(self._text(title(papers[0]) if len(papers) == 1 else "Invoices"))

    def add(self, paper: Paper) -> None:
        """Begin a page with an invoice."""
        pdf = self._pdf
        pdf.add_page()
        self._columns([title(paper)], issuer(paper), first_size=19)
        if paper["number"] is None:
            self._font(10.5)
            pdf.set_draw_color(179, 92, 0)
            pdf.multi_cell(0, LINE_MM + 2, self._text(DRAFT), border=1, new_x="LMARGIN", new_y="NEXT")
            pdf.set_draw_color(0)
            pdf.ln(GAP_MM)
        self._columns(["To", *customer(paper)], [f"{name}: {value}" for name, value in facts(paper)])
        self._table(paper)
        if paper["terms"]:
            pdf.ln(GAP_MM)
            self._font(10.5)
            pdf.multi_cell(0, LINE_MM, self._text(paper["terms"]), align="L", new_x="LMARGIN", new_y="NEXT")

    def written(self) -> bytes:
        return bytes(self._pdf.output())

    def _columns(self, left: Iterable[str], right: Iterable[str], first_size: float = 10.5) -> None:
        """Lines side by side; the first one on the left is bold."""
        pdf = self._pdf
        top, half = pdf.get_y(), pdf.epw / 2 - GAP_MM / 2
        bottoms = [top]
        for place, lines in enumerate((left, right)):
            pdf.set_y(top)
            for number, line in enumerate(lines):
                is_first = not place and not number
                self._font(first_size if is_first else 10.5, "B" if is_first else "")
                pdf.set_x(pdf.l_margin if not place else pdf.l_margin + half + GAP_MM)
                height = first_size / 2 if is_first else LINE_MM
                pdf.multi_cell(half, height, self._text(line), align="L", new_x="LMARGIN", new_y="NEXT")
            bottoms.append(pdf.get_y())
        pdf.set_y(max(bottoms) + GAP_MM)

    def _table(self, paper: Paper) -> None:
        from fpdf.fonts import FontFace

        self._font(9.5)
        self._pdf.set_line_width(0.2)
        self._pdf.set_draw_color(RULE)
        bold, heading = FontFace(emphasis="BOLD"), FontFace(emphasis="BOLD", color=GREY)
        with self._pdf.table(
            col_widths=WIDTHS,
            text_align=("LEFT", "RIGHT", "LEFT", "RIGHT", "RIGHT"),
            borders_layout="HORIZONTAL_LINES",
            line_height=LINE_MM,
            padding=(1, 1),
            headings_style=heading,
        ) as table:
            names = ("Item", "Quantity", "Unit", "Unit price", f"Amount ({paper['currency']})")
            self._row(table, names)
            for item in items(paper):
                if item.label:
                    table.row().cell(self._text(item.label), colspan=5, style=bold)
                self._row(table, (item.what, item.quantity, item.unit, item.price, item.amount))
            for name, amount in sums(paper):
                row = table.row()
                row.cell(self._text(name), colspan=4, style=bold)
                row.cell(self._text(amount), style=bold)

    def _row(self, table: Any, cells: Iterable[str]) -> None:
        row = table.row()
        for cell in cells:
            row.cell(self._text(cell))

    def _font(self, size: float, style: str = "") -> None:
        self._pdf.set_font(FONT, style, size)

    def _text(self, text: str) -> str:
        """Without what the font lacks."""
        lacking = {each for each in text if each != "\n" and ord(each) not in self._known}
        self.lacking |= lacking
        return "".join(UNKNOWN if each in lacking else each for each in text)


def _moment(micros: int) -> datetime:
    return EPOCH + timedelta(microseconds=micros - micros % 1_000_000)


def _font_files() -> tuple[Path, Path]:
    """Regular and bold."""
    import font_source_sans_pro

    folder = Path(font_source_sans_pro.font_directory)
    return folder / "SourceSansPro-Regular.ttf", folder / "SourceSansPro-Semibold.ttf"
