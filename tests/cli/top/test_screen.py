"""The screen: as it is in tests/cli/top/screens, and never larger than the terminal."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
from rich.cells import cell_len

from tenantctl.top.choices import SORTS, Choices, Order, Page
from tenantctl.top.gpu_gauges import Gauges
from tenantctl.top.live_rows import view
from tenantctl.top.painting import Status
from tenantctl.top.poller import MOST_NEWS, Poller, Trouble
from tenantctl.top.samples import Sample
from tenantctl.top.showing import frame, screen
from tests.cli.top.samples import busy, rate, sample, tenant

SCREENS = Path(__file__).parent / "screens"
GPU = Gauges("NVIDIA H200", 0.87, 12.3 * 2**30, 139.8 * 2**30, 412.0, 700.0, 54.0)
STATUS = Status("14:03:22", gauges=[GPU])
PAGES = {"tenants": Page.TENANTS, "tenant": Page.TENANT, "help": Page.HELP}


def shown(samples: list[Sample], page: str, width: int, height: int, status: Status = STATUS) -> list[str]:
    found, choices = view(samples), Choices()
    choices.settle(choices.ordered(found.rows), [])
    choices.page = PAGES[page]
    choices.settle(choices.ordered(found.rows), [r["id"] for r in samples[-1].requests if r["tenant"] == "acme"])
    return [line.plain.rstrip() for line in screen(found, choices, status, width, height)]


@pytest.fixture(autouse=True)
def _in_utc() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
def test_the_screen_is_as_it_was(page: str, width: int, height: int) -> None:
    """After a change that is meant: TZ=UTC python -m tests.cli.top.test_screen"""
    kept = (SCREENS / f"{page}-{width}x{height}.txt").read_text("utf-8").splitlines()
    assert shown(busy(), page, width, height) == kept + [""] * (height - len(kept))


@pytest.mark.parametrize("page", PAGES)
def test_no_line_is_wider_and_no_screen_higher_than_the_terminal(page: str) -> None:
    many = [
        sample(float(n), *(tenant(f"tenant-{i:03}-{'x' * (i % 50)}", running=i % 2) for i in range(200)))
        for n in (1, 2)
    ]
    for samples in (busy(), many, [sample(1.0)]):
        for width in (1, 20, 40, 79, 80, 99, 100, 120, 200):
            for height in (1, 5, 12, 24, 60):
                lines = shown(samples, page, width, height)
                assert len(lines) == height and max(map(cell_len, lines)) <= width, (width, height)


def test_the_selected_tenant_is_always_on_the_screen() -> None:
    samples = [sample(1.0, *(tenant(f"tenant-{i:03}") for i in range(200)))]
    found, choices = view(samples), Choices()
    for key in ("end", "page up", "home", "j"):
        choices.press(key, choices.ordered(found.rows), [])
        lines = [line.plain for line in screen(found, choices, Status(), 80, 24)]
        assert any(line.startswith(str(choices.tenant)) for line in lines)
    assert any("of 200 tenants" in line for line in lines)


def test_questions_outcomes_and_trouble_are_said_at_the_end() -> None:
    found, choices = view(busy()), Choices()
    choices.asked = Order("cancel", "req_0123456789abcdef")
    assert screen(found, choices, Status(), 80, 24)[-1].plain == "Cancel request 89abcdef? y/n"
    choices.asked = None
    assert shown(busy(), "tenants", 80, 24, Status(said="suspended acme"))[-1] == "suspended acme"
    lines = shown(busy(), "tenants", 80, 24, Status("14:03:22", trouble="nothing\x1b[2J listens"))
    assert lines[0].endswith("no answer since 14:03:22") and lines[-1] == "trying again: nothing\ufffd[2J listens"
    choices.press("/", [], [])
    choices.press("z", [], [])
    lines = [line.plain for line in screen(found, choices, Status(), 80, 24)]
    assert lines[-1].startswith("filter: z") and any("no tenant's name contains this" in line for line in lines)


def test_while_a_filter_is_typed_or_kept_the_footer_fits_and_requests_of_others_are_hidden() -> None:
    found, choices = view(busy()), Choices()
    for key in ("/", *"acme"):
        choices.press(key, choices.ordered(found.rows), [])
    lines = [line.plain for line in screen(found, choices, Status(), 80, 24)]
    assert lines[-1] == "filter: acme▏  Enter keep  Esc clear"
    assert [line[:8] for line in lines if "length" in line] == ["cccc0001"]
    choices.press("enter", choices.ordered(found.rows), [])
    assert screen(found, choices, Status(), 80, 24)[-1].plain == (
        "filter: acme  Esc clear  Enter open  s sort: tok/s  r reverse  q quit"
    )
    for choices.is_typing in (True, False):
        for choices.filter in ("x" * 63, "数" * 63, "x" * 62 + "y"):
            last = screen(found, choices, Status(), 80, 24)[-1].plain
            assert cell_len(last) <= 80 and last.startswith("filter: …"), last
            assert last.endswith("Esc clear" if choices.is_typing else "q quit") and choices.filter[-1] in last


def test_a_view_that_is_stopped_says_which_key_resumes_it() -> None:
    found, choices = view(busy()), Choices()
    choices.settle(found.rows, [])
    for choices.page in (Page.TENANTS, Page.TENANT):
        for choices.sort in SORTS:
            choices.is_paused = False
            assert "space resume" not in screen(found, choices, Status(), 80, 24)[-1].plain
            choices.is_paused = True
            last = screen(found, choices, Status(), 80, 24)[-1].plain
            assert "space resume" in last and "space stop" not in last and not last.endswith("…")


def test_no_limit_folds_in_the_middle() -> None:
    limits = {"max_concurrent": 4, "requests_per_minute": 20, "tokens_per_minute": 1234567}
    told = tenant("acme", limits=limits, rates={"requests": rate(20, 17), "tokens": rate(1234567, 0)})
    found, choices = view([sample(1.0, told)]), Choices()
    choices.settle(found.rows, [])
    choices.page = Page.TENANT
    for width in (72, 76, 80, 84, 100):
        lines = [line.plain for line in screen(found, choices, Status(), width, 24)]
        for whole in (
            "requests per minute 3 of 20",
            "tokens per minute 1,234,567 of 1,234,567",
            "max concurrent 0 of 4",
        ):
            assert any(whole in line for line in lines), (width, whole)


def test_a_tenant_that_looks_at_itself_sees_its_page_and_no_more_of_the_daemon() -> None:
    told = {"state": "ready", "progress": 1.0}
    own, choices = view([Sample(1.0, False, told, [tenant("acme", running=1)], [])]), Choices("acme")
    choices.settle(own.rows, [])
    lines = [line.plain.rstrip() for line in screen(own, choices, Status(), 80, 24)]
    assert lines[0].startswith("tenantd  acme  ready ") and lines[2] == "requests  1 running · 0 paused · 0 queued"
    assert lines[-1].startswith("q quit") and "S suspend" not in lines[-1]


def test_names_cannot_send_escape_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    hostile = sample(1.0, tenant("a\x1b]0;x\x07[bold]b", running=1), daemon={"model": "m\x1b[31m\n", "state": "ready"})
    for page in PAGES:
        found, choices = view([hostile]), Choices()
        choices.settle(found.rows, [])
        choices.page = PAGES[page]
        text = frame(screen(found, choices, Status(), 80, 24), 80, 24)
        assert text.count("\x1b[2K") == 24 and "\x1b]" not in text and "\x1b[31m" not in text and "\x07" not in text


def test_terminals_without_unicode_get_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull, "w", encoding="ascii") as terminal:
        monkeypatch.setattr("sys.stdout", terminal)
        assert frame(screen(view(busy()), Choices(), STATUS, 80, 24), 80, 24).isascii()


if __name__ == "__main__":
    SCREENS.mkdir(exist_ok=True)
    for name in PAGES:
        for size in ((80, 24), (120, 40)):
            text = "\n".join(shown(busy(), name, *size)).rstrip("\n")
            (SCREENS / f"{name}-{size[0]}x{size[1]}.txt").write_text(f"{text}\n", "utf-8")


def test_while_nobody_looks_only_the_latest_news_are_kept() -> None:
    poller = Poller(Mock(), None, 1.0, lambda: None)
    for number in range(100):
        poller._tell(Trouble(str(number)))
    assert list(poller.news) == [Trouble(str(number)) for number in range(100 - MOST_NEWS, 100)]
