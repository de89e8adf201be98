"""Gets the answers of a chat, shows what comes, and adds up what it cost."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from typing import Any, Final, Protocol

from tenantctl.answer_start import start_answer
from tenantctl.client import Client
from tenantctl.render import message
from tenantctl.transcript import OUT_OF_BUDGET, Printer, Transcript
from tenantctl.units import money, plural
from tenantd.errors import TenantdError

SETTLED_S: Final = 2.0
"""A request that was stopped has its final tokens by then."""
POLL_S: Final = 0.05
NEARLY_FULL: Final = 0.8
"""Part of the context from which on it is said to be nearly full."""


class Screen(Protocol):
    """Where an answer is shown."""

    def think(self) -> None:
        """The model thinks before it answers."""

    def write(self, piece: str) -> None:
        """More of the answer."""

    def end(self) -> None:
        """The answer is complete, or will not be."""


class PlainScreen:
    """Shows an answer as it is, for files, pipes and simple terminals."""

    def __init__(self) -> None:
        self._printer = Printer()

    def think(self) -> None:
        """Nothing: only the answer is printed."""

    def write(self, piece: str) -> None:
        self._printer.write(piece)

    def end(self) -> None:
        self._printer.end_line()


def screen(*, plain: bool) -> Screen:
    """A screen for one answer: with Markdown on a terminal that can show it."""
    if plain or not sys.stdout.isatty():
        return PlainScreen()
    from rich.console import Console

    if Console().is_dumb_terminal:
        return PlainScreen()
    from tenantctl.streamed_markdown import MarkdownScreen

    return MarkdownScreen()


class Answers:
    """Asks for one tenant, and remembers the requests."""

    def __init__(self, client: Client, tenant: str | None, *, plain: bool) -> None:
        self._client = client
        self._tenant = tenant
        self._plain = plain
        self._ids: list[str] = []
        self._settled: dict[str, dict[str, Any]] = {}

    def ask(self, body: dict[str, Any]) -> tuple[Transcript, bool]:
        """The answer, and whether it is whole: Ctrl-C stops it, on the server as well. Raises TenantdError."""
        answer, shown = Transcript(), screen(plain=self._plain)
        try:
            with ExitStack() as stack:
                answer.id, events = start_answer(self._client, stack, "/v1/chat/completions", body, self._tenant)
                self._ids.append(answer.id)
                for piece in answer.read(events, lambda _: shown.think()):
                    shown.write(piece)
        except KeyboardInterrupt:
            return answer, False
        finally:
            shown.end()
        return answer, True

    # -- what they cost

    def spent(self) -> str:
        """Tokens and costs of all answers, for people."""
        if not self._ids:
            return "nothing was sent"
        answers = plural(len(self._ids), "answer")
        try:
            rows = [self._row(request_id) for request_id in self._ids]
            currency = self._client.own("/v1/usage", self._tenant)["currency"]
        except TenantdError as e:
            return f"{answers}; what they cost is unknown: {e.message}"
        read, written = (sum(row[name] for row in rows) for name in ("prompt_tokens", "completion_tokens"))
        cost = money(sum(row["cost_nanos"] for row in rows))
        return f"{answers}: {read:,} prompt and {written:,} output tokens, {currency} {cost}"

    def _row(self, request_id: str) -> dict[str, Any]:
        """A request as the ledger has it in the end."""
        deadline_s = time.monotonic() + SETTLED_S
        while request_id not in self._settled:
            row = self._client.own(f"/v1/requests/{request_id}", self._tenant)["request"]
            if row["state"] == "running" and time.monotonic() < deadline_s:
                time.sleep(POLL_S)
                continue
            self._settled[request_id] = row
        return self._settled[request_id]


def say_remarks(answer: Transcript, *, is_whole: bool, context_tokens: int | None) -> None:
    """What the user should know about an answer and about the room that is left."""
    if not is_whole:
        message("stopped")
    elif answer.is_out_of_budget:
        message(OUT_OF_BUDGET)
    elif answer.finish_reason == "length":
        message("the answer was cut off at its token limit; /set max_tokens N raises it")
    used = (answer.usage or {}).get("total_tokens", 0)
    if context_tokens and used >= NEARLY_FULL * context_tokens:
        part = f"{used / context_tokens:.0%} full ({used:,} of {context_tokens:,} tokens)"
        message(f"the context is {part}; /clear empties it")
