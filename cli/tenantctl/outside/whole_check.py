"""The whole check of isolation on the running daemon: from outside over the socket, then in its engine."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import typer

from tenantctl.client import Client, url
from tenantctl.options import connect
from tenantctl.render import complain, message, print_json, print_table
from tenantctl.times import duration_s
from tenantctl.units import NOTHING, duration
from tenantd.errors import EngineUnavailable, TenantdError

LONGEST_S: Final = 1200.0
"""How long to wait for the daemon's answer. The check itself takes less than five minutes, once requests have ended."""
POLL_S: Final = 0.5
RECENT_S: Final = 10.0
"""A report that is younger was made now."""
HELD, FAILED, INCONCLUSIVE = "held", "failed", "inconclusive"
EXIT_CODES: Final = {HELD: 0, FAILED: 1, INCONCLUSIVE: 75}
ABOUT: Final = {
    "logits": "others' text does not change logits",
    "canaries": "planted text does not leak",
    "released": "released sequences hold nothing",
    "timing": "times do not reveal others' prompts",
    "identity": "forged identities are refused",
}


def check_isolation(ctx: typer.Context, *, quick: bool, if_older: str | None, json: bool) -> int:
    """Check, and print what came of it. Returns the exit code."""
    try:
        with connect(ctx) as client:
            report = None if if_older is None else _young(client, duration_s(if_older), quick)
            if report is None:
                report = _checked(client, quick)
            else:
                message("the last check passed and is recent enough")
    except TenantdError as e:
        if e.exit_code != EXIT_CODES[FAILED]:
            raise
        complain(e.message)  # what is no finding must not look like one
        return EXIT_CODES[INCONCLUSIVE]
    _print(report, as_json=json)
    return EXIT_CODES[report["result"]]


def _young(client: Client, most_s: int, quick: bool) -> dict[str, Any] | None:
    """The last report, if it held, is younger than this, and was not quicker than what is wanted now."""
    last: dict[str, Any] | None = client.get(url("isolation"))["last"]
    if last is None or last["result"] != HELD or (last["quick"] and not quick):
        return None
    return last if 0 <= time.time() - last["checked_micros"] / 1e6 < most_s else None


def _checked(client: Client, quick: bool) -> dict[str, Any]:
    """Check from outside, then let the daemon check and make a report of both."""
    from tenantctl.outside.eavesdropper import check_canaries
    from tenantctl.outside.impostor import check_identity
    from tenantctl.outside.lookalike import check_cache
    from tenantctl.outside.turn import own_turn
    from tenantctl.outside.visitors import visitors

    state = client.get(url("status"))
    if state["state"] not in ("ready", "checking"):  # the daemon refuses a second check itself
        why = f": {state['reason']}" if state["reason"] else ""
        raise EngineUnavailable(f"cannot check now: the daemon is {state['state']}{why}")
    with own_turn(client) as turn, _progress() as show:
        show("canaries and identity, over the socket", 0.0)
        with _ended_by_signals(), visitors(client) as pair:
            outside = []
            if state.get("cache", {}).get("host_bytes"):
                outside.append(check_cache(client, pair, quick=quick).result())
            outside += [check_canaries(client, pair, quick=quick).result(), check_identity(client, pair).result()]
        with _watching(client, show):
            body = {"quick": quick, "outside": outside, "turn": turn}
            report: dict[str, Any] = client.another(LONGEST_S).post(url("isolation"), body)
    return report


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the check as Ctrl-C does, so that it cleans up: the first one, because a second one
    would end the cleaning."""
    is_ending = False

    def end(number: int, _: object) -> None:
        nonlocal is_ending
        if not is_ending:
            is_ending = True
            raise typer.Exit(128 + number)

    heeded = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_DFL]  # not nohup
    before = [(each, signal.signal(each, end)) for each in heeded]
    try:
        yield
    finally:
        for each, handler in before:
            signal.signal(each, handler)


def _print(report: dict[str, Any], *, as_json: bool) -> None:
    checks = report["checks"]
    if as_json:
        print_json({"checks": [{key: check[key] for key in ("name", "result", "n", "p")} for check in checks]})
    else:
        rows = [
            (
                check["name"],
                check["result"],
                check["n"],
                NOTHING if check["p"] is None else f"{check['p']:.2g}",
                ABOUT[check["name"]],
            )
            for check in checks
        ]
        print_table(["check", "result", "n>", "p>", "what"], rows)
    for check in checks:
        if check["result"] != HELD:
            message(f"{check['name']}: {check['detail'] or check['result']}")
    message(_in_short(report))


def _in_short(report: dict[str, Any]) -> str:
    """The result, how thorough the check was, and when, unless it was just now."""
    verb = "is " if report["result"] == INCONCLUSIVE else ""
    how = "quick check" if report["quick"] else "full check"
    took_s = report["duration_micros"] / 1e6
    age_s = time.time() - report["checked_micros"] / 1e6
    when = f", {duration(age_s)} ago" if age_s >= RECENT_S else ""
    return f"isolation {verb}{report['result']} ({how}, took {took_s:.0f} s{when})"


# ---- progress -----------------------------------------------------------------------------------------------


Show = Callable[[str, float], None]
"""Shows what is being checked, and the progress from 0 to 1."""


@contextmanager
def _progress() -> Iterator[Show]:
    """Updates one line on a terminal; prints nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda what, progress: None
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status("checking") as line:
        yield lambda what, progress: line.update(Text(what + (f" {progress:.0%}" if progress else "")))


@contextmanager
def _watching(client: Client, show: Show) -> Iterator[None]:
    """Show the progress of the daemon meanwhile."""
    is_over = threading.Event()

    def watch() -> None:
        with client.another(POLL_S * 10) as own:
            while not is_over.wait(POLL_S):
                try:
                    state = own.readiness()
                except TenantdError:
                    continue  # whoever waits for the answer says what is wrong
                show(state.get("reason") or state["status"], state.get("progress", 0.0))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
