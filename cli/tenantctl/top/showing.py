"""Shows samples on a terminal until somebody quits."""

from __future__ import annotations

import io
import sys
import time
from collections import deque
from datetime import datetime
from typing import Final

from rich.console import Console
from rich.text import Text

from tenantctl.top.choices import Choices, Order, Page, Quit
from tenantctl.top.gpu_gauges import GpuWatch
from tenantctl.top.live_rows import Row, View, view
from tenantctl.top.painting import Status, footer, header, tenants_page
from tenantctl.top.poller import Poller, Said, Trouble
from tenantctl.top.raw_terminal import RawTerminal
from tenantctl.top.samples import Sample
from tenantctl.top.tenant_page import help_page, tenant_page

SAID_FOR_S: Final = 5.0
MOST_SAMPLES: Final = 64
_IN_ASCII: Final = str.maketrans("█┃▏…·↑↓°µ\ufffd", "#||~-^v u?")


class Showing:
    """The screen of `tenantctl top`, from key to key and from sample to sample."""

    def __init__(
        self, terminal: RawTerminal, poller: Poller, choices: Choices, every_s: float, gpus: GpuWatch | None
    ) -> None:
        self._terminal, self._poller, self._choices = terminal, poller, choices
        self._every_s, self._gpus = every_s, gpus
        self._samples: deque[Sample] = deque(maxlen=MOST_SAMPLES)
        self._view: View | None = None
        self._time, self._trouble = "", ""
        self._said, self._said_at_s = Said("", False), 0.0

    def run(self, first: Sample) -> None:
        """Until somebody quits, or the terminal is gone."""
        self._show(first)
        while True:
            self._draw()
            if (keys := self._terminal.wait()) is None:
                return
            self._read_news()
            for key in keys:
                done = self._press(key)
                if isinstance(done, Quit):
                    return
                if done is not None:
                    self._poller.order(done)

    def _press(self, key: str) -> Order | Quit | None:
        choices = self._choices
        done = choices.press(key, self._rows(), self._requests())
        wanted = choices.tenant if choices.page is Page.TENANT else None
        self._poller.look_at(wanted, is_paused=choices.is_paused)
        choices.settle(self._rows(), self._requests())
        return done

    def _read_news(self) -> None:
        while self._poller.news:
            news = self._poller.news.popleft()
            if isinstance(news, Sample):
                self._trouble = ""
                self._show(news)
            elif isinstance(news, Trouble):
                self._trouble = news.why
            else:
                self._said, self._said_at_s = news, time.monotonic()

    def _show(self, sample: Sample) -> None:
        self._samples.append(sample)
        self._view = view(list(self._samples))
        self._time = f"{datetime.now():%H:%M:%S}"
        self._choices.settle(self._rows(), self._requests())

    def _rows(self) -> list[Row]:
        return [] if self._view is None else self._choices.ordered(self._view.rows)

    def _requests(self) -> list[str]:
        if self._view is None:
            return []
        return [each["id"] for each in self._view.sample.requests if each["tenant"] == self._choices.tenant]

    def _draw(self) -> None:
        assert self._view is not None, "there was a sample"
        said = self._said if time.monotonic() - self._said_at_s < SAID_FOR_S else Said("", False)
        gauges = [] if self._gpus is None else self._gpus.read()
        status = Status(self._time, self._every_s, self._trouble, *said, gauges)
        width, height = self._terminal.size()
        self._terminal.write(frame(screen(self._view, self._choices, status, width, height), width, height))


def screen(view: View, choices: Choices, status: Status, width: int, height: int) -> list[Text]:
    """Exactly `height` lines, none wider than `width`."""
    top = [*header(view, choices, status, width), Text("")]
    room = max(0, height - len(top) - 1)
    if choices.page is Page.HELP:
        body = help_page(room)
    elif choices.page is Page.TENANT:
        row = next((row for row in view.rows if row.name == choices.tenant), None)
        body = tenant_page(view, row, choices, width, room)
    else:
        body = tenants_page(view, choices.ordered(view.rows), choices, width, room)
    body = [*body[:room], *[Text("")] * (room - len(body))]
    lines = [*top, *body, footer(choices, status, width)][-height:]
    for each in lines:
        each.truncate(width)
    return lines


def frame(lines: list[Text], width: int, height: int) -> str:
    """What makes a terminal show these lines and nothing else, in the colours it has."""
    buffer = io.StringIO()
    console = Console(file=buffer, force_terminal=True, width=width, height=height, highlight=False)
    for each in lines:
        console.print(each, no_wrap=True, crop=True, overflow="crop")
    text = buffer.getvalue().removesuffix("\n").replace("\n", "\n\x1b[2K")
    if "utf" not in (sys.stdout.encoding or "").lower():
        text = text.translate(_IN_ASCII)
    return f"\x1b[H\x1b[2K{text}"
