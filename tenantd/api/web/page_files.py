"""The files of the page, read once. They belong to the package, and no others are served."""

from __future__ import annotations

from hashlib import sha256
from importlib.resources import files
from typing import Final, NamedTuple

HTML: Final = "index.html"
NAMES: Final = (
    HTML,
    "page.css",
    "page.js",
    "ask.js",
    "build.js",
    "charts.js",
    "invoice.js",
    "invoices.js",
    "overview.js",
    "requests.js",
    "tables.js",
    "units.js",
    "usage.js",
    "icon.svg",
    "uplot/uPlot.iife.min.js",
    "uplot/uPlot.min.css",
    "uplot/LICENSE",
)
"""Paths below the page's. That of the HTML is the page itself."""
TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


class PageFile(NamedTuple):
    """A file as it is sent. `etag` changes with its content."""

    name: str
    content: bytes
    etag: str
    headers: dict[str, str]


def page_files() -> list[PageFile]:
    """All of them."""
    folder = files("tenantd") / "web"
    found = []
    for name in NAMES:
        content = folder.joinpath(*name.split("/")).read_bytes()
        etag = f'"{sha256(content).hexdigest()[:32]}"'
        media_type = TYPES.get(name.rpartition(".")[2], "text/plain; charset=utf-8")
        headers = {"content-type": media_type, "etag": etag, "cache-control": "no-cache"}
        found.append(PageFile("" if name == HTML else name, content, etag, headers))
    return found
