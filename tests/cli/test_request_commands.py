"""`tenantctl requests show` and `logs`: one request in every detail, and a line for each."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import msgspec
import pytest

from tenantctl.main import app
from tests.cli import fake_daemon
from tests.cli.conftest import Cli
from tests.cli.fake_daemon import FakeDaemon
from tests.cli.test_render import on_terminal, plain

ID = "req_" + "0123456789abcdef" * 2
AT = 1_795_000_000_123_000
ROW = msgspec.to_builtins(fake_daemon.RECORD) | {
    "id": ID,
    "cost_nanos": 1900,
    "live_state": None,
    "key_id": "key_0123456789ab",
    "ended_micros": AT + 2_500_000,
    "created_micros": AT,
    "duration_micros": 2_500_000,
    "queue_micros": 1_000,
    "prefill_micros": 250,
    "swaps": 2,
    "kv_token_micros": 12_000_000,
    "adapter": "/srv/acme.gguf",
    "free_nanos": 100,
}
ENTRY = {"at_micros": AT, "tenant": "acme", "tenant_id": 1, "request_id": ID, "detail_text": "", "hash": "00"}
LIFE: dict[str, Any] = {
    "request": ROW,
    "key": {"id": "key_0123456789ab", "label": "laptop"},
    "prices": {"id": 1, "currency": "USD"},
    "entries": [
        {**ENTRY, "number": 7, "event": "resources", "detail": {"sequence": 3, "adapter": "acme.gguf"}},
        {**ENTRY, "number": 8, "event": "response", "detail": {"state": "stop", "cause": None, "completion_tokens": 3}},
    ],
    "waiting": None,
}
LINE = {
    "number": 5,
    "at_micros": AT,
    "request_id": ID,
    "tenant": "acme",
    "tenant_id": 1,
    "key_id": None,
    "path": "chat",
    "state": "stop",
    "cause": None,
    "prompt_tokens": 7,
    "cached_tokens": 0,
    "completion_tokens": 3,
    "engine_micros": 4_500,
    "queue_micros": 100,
    "first_token_micros": 1_250,
    "duration_micros": 6_000,
}
KEPT: dict[str, Any] = {"lines": [LINE], "head": 5, "missed": 0, "since_micros": AT - 1}


def test_the_whole_life_of_a_request_is_shown(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["GET", "requests/89abcdef"] = LIFE
    done = cli("requests", "show", "89abcdef")
    assert done.exit_code == 0, done.stderr
    shown = dict(re.split(r" {2,}", line, maxsplit=1) for line in done.stdout.split("\n\n")[0].splitlines())
    assert shown["request"] == ID and shown["tenant"] == "acme (id 1)"
    assert shown["by"] == "key_0123456789ab (laptop), uid 1000"
    assert shown["state"] == "stop" and shown["created"].endswith(".123")
    assert shown["slot after"] == "1.00ms" and shown["first token after"] == "1.25ms (prompt computed in 250µs)"
    assert shown["ended"].endswith(", after 2.50s")
    assert shown["prompt"] == "7 tokens: 7 computed, 0 cached" and shown["output"] == "3 tokens, at most 16"
    assert shown["slots"] == "slot 3, paused 2 times, 12.000 token-seconds of KV cache"
    assert shown["adapter"] == "/srv/acme.gguf"
    assert shown["cost"] == "USD 0.0000019 (input 0.0000007, output 0.0000012, less 0.0000001 free; price list 1)"
    assert [line.split()[0] for line in done.stdout.split("\n\n")[1].splitlines()[2:]] == ["7", "8"]
    assert json.loads(cli("requests", "show", "89abcdef", "--json").stdout) == LIFE
    assert cli("requests", "show", "00000000").exit_code == 1


def test_a_waiting_request_is_shown_with_its_place_in_the_queue(cli: Cli, daemon: FakeDaemon) -> None:
    now = {"state": "running", "live_state": "waiting", "ended_micros": None, "queue_micros": None}
    waiting = {"position": 3, "estimated_wait_low_ms": 8_200, "estimated_wait_high_ms": 19_500}
    request = {**ROW, **now, "first_token_micros": None, "prefill_micros": None, "price_id": None}
    daemon.answers["GET", f"requests/{ID}"] = {**LIFE, "request": request, "waiting": waiting, "prices": None}
    shown = cli("requests", "show", ID).stdout
    assert "waiting, 3 in the queue, first token in 8-20 s" in shown
    assert re.search(r"ended +not yet\n", shown) and re.search(r"cost +not known yet\n", shown)


def test_what_a_running_request_does_not_tell_yet_is_not_shown_as_nothing(cli: Cli, daemon: FakeDaemon) -> None:
    now = {"state": "running", "live_state": "running", "ended_micros": None, "queue_micros": None}
    request = {**ROW, **now, "first_token_micros": None, "prefill_micros": None, "kv_token_micros": 0}
    daemon.answers["GET", f"requests/{ID}"] = {**LIFE, "request": request, "prices": None}
    shown = cli("requests", "show", ID).stdout
    assert re.search(r"slot after +known when it ends\nfirst token after +known when it ends\n", shown)
    assert re.search(r"slots +slot 3, paused 2 times\n", shown)
    daemon.request = {"state": "running", "live_state": "running", "ended_micros": None, "cost_nanos": 0}
    assert cli("requests").stdout.splitlines()[1].split()[-2:] == ["-", "-"]


@pytest.mark.parametrize("columns", [80, 120])
def test_a_request_fits_the_terminal(columns: int, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.answers["GET", f"requests/{ID}"] = LIFE
    show = lambda: app(["requests", "show", ID], standalone_mode=False)  # noqa: E731
    screen = plain(on_terminal(show, monkeypatch, COLUMNS=str(columns)))
    cost = next(line for line in screen.splitlines() if line.startswith("cost"))
    assert max(len(line) for line in screen.splitlines() if line != cost) <= columns


def test_filters_are_passed_on(cli: Cli, daemon: FakeDaemon) -> None:
    done = cli(
        "requests", "--since", "2026-11-29T00:00Z", "--until", "2026-11-30T00:00Z", "--state", "failed", "--key", "k"
    )
    assert done.exit_code == 0, done.stderr
    query = "since=1795910400000000&until=1795996800000000&state=failed&key=k&limit=1000"
    assert daemon.seen[-1][1] == f"requests?{query}"
    assert cli("requests", "--since", "1h", "--until", "2h").exit_code == 2


def test_lines_of_the_log_break_between_words(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.answers["GET", "logs"] = KEPT
    lines = on_terminal(lambda: app(["logs"], standalone_mode=False), monkeypatch).splitlines()
    assert len(lines) > 1 and max(map(len, lines)) <= 80
    assert all(line.startswith("  ") for line in lines[1:])
    assert f"request id={ID} tenant=acme key=- path=chat" in " ".join(line.strip() for line in lines)


def test_lines_of_the_log_are_those_of_the_daemon(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.answers["GET", "logs"] = KEPT
    done = cli("logs", "--tenant", "acme")
    assert daemon.seen[-1][1] == "logs?tenant=acme&limit=50"
    assert done.stdout.endswith(
        f" request id={ID} tenant=acme key=- path=chat state=stop cause=- prompt=7 cached=0 output=3 queue_ms=0.1 "
        "first_ms=1.2 took_ms=6.0 engine_ms=4.5\n"
    )
    assert json.loads(cli("logs", "--json").stdout) == {"lines": [LINE]}
    cli("logs", "--since", "2020-01-01", "--limit", "3")
    assert daemon.seen[-1][1].endswith("&limit=3")
    assert cli("logs", "--limit", "1001").exit_code == 2
    assert "are not kept: tenantctl requests --since" in cli("logs", "--since", "2020-01-01").stderr
    daemon.answers["GET", "logs"] = {**KEPT, "lines": []}
    assert cli("logs").stderr.startswith("no such requests have ended since ")
    daemon.answers["GET", "logs"] = {**KEPT, "lines": [], "head": 0}
    said = cli("logs").stderr
    assert re.fullmatch(
        r"no requests have ended since the daemon started, at 2026-.*; for .*: tenantctl requests\n", said
    )
    assert cli("logs", "--json").stderr == ""


def test_lines_wider_than_the_terminal_are_told_how_to_read(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    show = lambda: app(["requests", "--wide"], standalone_mode=False)  # noqa: E731
    for columns, is_told in (("80", True), ("300", False)):
        on_terminal(show, monkeypatch, COLUMNS=columns)
        assert ("| less -S" in capsys.readouterr().err) == is_told
    show()
    assert capsys.readouterr().err == ""


def test_following_goes_on_after_the_newest_line_and_tells_what_was_missed(
    cli: Cli, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.answers["GET", "logs"] = {**KEPT, "missed": 4}
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", pause)
    done = cli("logs", "-f", "--json")
    assert done.exit_code == 130
    assert [json.loads(line) for line in done.stdout.splitlines()] == [LINE] * 3
    assert done.stderr == "4 lines were missed\n" * 2
    assert [path for _, path, _, _ in daemon.seen] == ["logs?limit=50", *["logs?after=5&limit=1000"] * 2]
