"""What the person at the keyboard has chosen, and what a key changes. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from tenantctl.top.live_rows import Row, used_fraction

MOST_FILTER: Final = 63


class Page(StrEnum):
    """What is on the screen."""

    TENANTS = "tenants"
    TENANT = "tenant"
    HELP = "help"


@dataclass(frozen=True)
class Order:
    """Something for the daemon to do: `what` is cancel, suspend or resume."""

    what: str
    subject: str

    @property
    def name(self) -> str:
        """What it is done to, in words."""
        return f"request {self.subject[-8:]}" if self.what == "cancel" else self.subject


@dataclass(frozen=True)
class Quit:
    """The end."""


_NONE: Final = -1.0
SORTS: Final[dict[str, Callable[[Row], Any]]] = {
    "tok/s": lambda row: -(row.output_per_s or 0.0),
    "share": lambda row: -(row.share or 0.0),
    "queued": lambda row: -row.told["waiting"],
    "1st p99": lambda row: -(row.first_p99_micros or 0),
    "limit": lambda row: -(row.limit.fraction if row.limit else _NONE),
    "budget": lambda row: -(used_fraction(row.budget) if row.budget else _NONE),
    "tenant": lambda row: row.name,
}
"""By what tenants are sorted, the largest first; those that are equal, by name."""


class Choices:
    """Changed by keys alone."""

    def __init__(self, tenant: str | None = None) -> None:
        """With a tenant, nothing but its page is shown."""
        self.page = Page.TENANTS if tenant is None else Page.TENANT
        self.sort = next(iter(SORTS))
        self.is_reversed = self.is_paused = self.is_typing = False
        self.filter = ""
        self.tenant = tenant  # selected, or whose page it is
        self.request: str | None = None  # selected on the page of a tenant
        self.asked: Order | None = None  # waits for y or n
        self.only = tenant
        self._from = self.page  # before the help

    # ---- what there is to choose from

    def ordered(self, rows: Sequence[Row]) -> list[Row]:
        """The tenants to show, in order."""
        shown = sorted((row for row in rows if self.filter in row.name), key=lambda row: row.name)
        return sorted(shown, key=SORTS[self.sort], reverse=self.is_reversed)

    def settle(self, rows: Sequence[Row], requests: Sequence[str]) -> None:
        """Select something that exists: `rows` as they are ordered, `requests` those on the page of the tenant."""
        names = [row.name for row in rows]
        if self.page is Page.TENANTS and self.tenant not in names:
            self.tenant = names[0] if names else None
        if self.request not in requests:
            self.request = requests[0] if requests else None

    # ---- keys

    def press(self, key: str, rows: Sequence[Row], requests: Sequence[str]) -> Order | Quit | None:
        """What a key does beyond this screen, if anything. `rows` and `requests` as for `settle`."""
        if self.asked is not None:
            asked, self.asked = self.asked, None
            return asked if key in ("y", "Y") else None
        if self.is_typing:
            self._type(key)
        elif key == "q":
            return Quit()
        elif key in ("?", "h") or self.page is Page.HELP:
            self._help()
        elif key == " ":
            self.is_paused = not self.is_paused
        elif key in _MOVES:
            self._move(_MOVES[key], [row.name for row in rows], requests)
        elif self.page is Page.TENANTS:
            self._on_tenants(key, rows)
        else:
            self._on_tenant(key, rows)
        return None

    def _type(self, key: str) -> None:
        if key == "enter":
            self.is_typing = False
        elif key == "escape":
            self.is_typing, self.filter = False, ""
        elif key == "backspace":
            self.filter = self.filter[:-1]
        elif len(key) == 1 and key.isprintable() and len(self.filter) < MOST_FILTER:
            self.filter += key

    def _help(self) -> None:
        if self.page is Page.HELP:
            self.page = self._from
        else:
            self._from, self.page = self.page, Page.HELP

    def _move(self, by: int, names: Sequence[str], requests: Sequence[str]) -> None:
        if self.page is Page.TENANTS:
            self.tenant = _moved(self.tenant, by, names)
        else:
            self.request = _moved(self.request, by, requests)

    def _on_tenants(self, key: str, rows: Sequence[Row]) -> None:
        if key == "s":
            names = list(SORTS)
            self.sort = names[(names.index(self.sort) + 1) % len(names)]
        elif key == "r":
            self.is_reversed = not self.is_reversed
        elif key == "/":
            self.is_typing = True
        elif key == "escape":
            self.filter = ""
        elif key == "enter" and self.tenant is not None:
            self.page, self.request = Page.TENANT, None
        elif key == "S":
            self._ask_to_suspend(rows)

    def _on_tenant(self, key: str, rows: Sequence[Row]) -> None:
        if key == "escape" and self.only is None:
            self.page = Page.TENANTS
        elif key == "c" and self.request is not None:
            self.asked = Order("cancel", self.request)
        elif key == "S" and self.only is None:
            self._ask_to_suspend(rows)

    def _ask_to_suspend(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if row.name == self.tenant:
                self.asked = Order("suspend" if row.told["state"] == "active" else "resume", row.name)


_FAR: Final = 1 << 30
_MOVES: Final = {
    "up": -1,
    "k": -1,
    "down": 1,
    "j": 1,
    "page up": -10,
    "page down": 10,
    "home": -_FAR,
    "g": -_FAR,
    "end": _FAR,
    "G": _FAR,
}


def _moved(selected: str | None, by: int, names: Sequence[str]) -> str | None:
    if not names:
        return None
    at = names.index(selected) if selected in names else 0
    return names[min(max(0, at + by), len(names) - 1)]
