"""Conversations, in a pipe and on a terminal."""

from __future__ import annotations

import json
import resource
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from tenantctl.chat_input import MOST_KEPT, _kept
from tenantctl.conversation import Conversation
from tenantctl.whole_files import write_whole
from tests.cli.conftest import Cli
from tests.cli.fake_daemon import FakeDaemon
from tests.cli.test_terminal import terminal as terminal  # a fixture

PROMPT = "> "


def asked(daemon: FakeDaemon) -> list[list[str]]:
    """The contents of the messages of each request."""
    return [[message["content"] for message in body["messages"]] for body in bodies(daemon)]


def bodies(daemon: FakeDaemon) -> list[dict[str, Any]]:
    """What was sent to be answered."""
    return [body for _, path, _, body in daemon.seen if path == "/v1/chat/completions"]


@pytest.fixture(autouse=True)
def _has_template(daemon: FakeDaemon) -> None:
    daemon.has_template = True
    row = {"state": "stop", "prompt_tokens": 2, "completion_tokens": 3, "cost_nanos": 1_500}
    daemon.answers |= {
        ("GET", "/v1/limits"): {"tenant": "acme", "state": "active"},
        ("GET", "/v1/usage"): {"currency": "EUR"},
        ("GET", "/v1/requests/req_1"): {"request": row},
    }


def test_each_message_is_sent_with_what_was_said_before(cli: Cli, daemon: FakeDaemon) -> None:
    result = cli("chat", "--tenant", "acme", "--system", "Be brief.", "--temperature", "0", input="one\n\ntwo\n")
    assert (result.exit_code, result.stdout) == (0, " Hello, wörld\n Hello, wörld\n")
    assert asked(daemon) == [["Be brief.", "one"], ["Be brief.", "one", " Hello, wörld", "two"]]
    assert bodies(daemon)[0]["temperature"] == 0.0
    assert {headers["x-tenant"] for _, _, headers, _ in daemon.seen} == {"acme"}
    assert result.stderr.splitlines()[0] == "acme is chatting with gemma."
    assert result.stderr.splitlines()[-1] == "2 answers: 4 prompt and 6 output tokens, EUR 0.000003"


def test_a_suspended_tenant_is_told_at_the_start(cli: Cli, daemon: FakeDaemon) -> None:
    assert "suspended" not in cli("chat", input="").stderr
    daemon.answers["GET", "/v1/limits"] = {"tenant": "acme", "state": "suspended"}
    first = cli("chat", input="").stderr.splitlines()[0]
    assert first == "warning: acme is suspended and gets no answers; resume it with: tenantctl tenant resume acme"


def test_an_answer_that_a_budget_cut_off_says_so(cli: Cli, daemon: FakeDaemon) -> None:
    """Raising max_tokens would not help."""
    said = cli("chat", input="overspent\n").stderr
    assert "because a budget is used up: tenantctl limits" in said and "max_tokens" not in said


def test_lines_between_quotes_are_one_message(cli: Cli, daemon: FakeDaemon) -> None:
    cli("chat", input='"""one\n/two\n\nthree"""\n"""\nfour\n"""\n"""five"""\n"""never closed\n')
    assert [said[-1] for said in asked(daemon)] == ["one\n/two\n\nthree", "four", "five", "never closed"]


def test_commands_change_what_is_sent(cli: Cli, daemon: FakeDaemon) -> None:
    typed = (
        "/system Be kind.\n/set max_tokens 5\none\n/retry\n/clear\n/system none\n/set max_tokens\ntwo\n/bye\nthree\n"
    )
    result = cli("chat", input=typed)
    assert asked(daemon) == [["Be kind.", "one"], ["Be kind.", "one"], ["two"]]
    assert [body.get("max_tokens") for body in bodies(daemon)] == [5, 5, None]
    assert "system message: Be kind." in result.stderr


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("/foo", "no command /foo; /help lists them"),
        ("/retry", "there is no message to send again"),
        ("/save", "/save needs the name of a file"),
        ("/load /nowhere/x", "cannot read /nowhere/x: No such file"),
        ("/set temprature 1", "did you mean temperature?"),
        ("/help", "Ctrl-C               stop the answer"),
        ("/usage", "nothing was sent"),
        ("/clear now", "/clear takes nothing after it"),
        ("/retry now", "/retry takes nothing after it"),
    ],
)
def test_a_command_answers_and_sends_nothing(cli: Cli, daemon: FakeDaemon, typed: str, said: str) -> None:
    result = cli("chat", input=typed + "\n")
    assert result.exit_code == 0
    assert said in result.stderr
    assert not bodies(daemon)


def test_a_message_that_gets_no_answer_is_kept(cli: Cli, daemon: FakeDaemon) -> None:
    result = cli("chat", input="be full\n/retry\nbe broken\nwell\n")
    assert "the queue of acme is full (try again in 7 s)\nYour message is kept: /retry sends it again." in result.stderr
    assert "the engine crashed too often" in result.stderr
    assert [said[-1] for said in asked(daemon)] == ["be full", "be full", "be broken", "well"]
    assert asked(daemon)[-1] == ["well"], "what got no answer is not part of the conversation"


def test_a_message_that_no_longer_fits_is_sent_after_the_rest_is_forgotten(cli: Cli, daemon: FakeDaemon) -> None:
    result = cli("chat", input="one\nthis is too much\n/clear\n/retry\n")
    assert "Your message is kept: after /clear, /retry sends it again." in result.stderr
    assert asked(daemon)[-1] == ["this is too much"]


def test_an_answer_stays_when_asking_again_gets_none(cli: Cli, daemon: FakeDaemon, tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    said = Conversation()
    said.add("be full", "eins")
    kept.write_text(said.text())
    result = cli("chat", "--load", str(kept), input="/retry\ntwo\n")
    assert "the queue of acme is full (try again in 7 s)\nThe answer you had is kept." in result.stderr
    assert asked(daemon) == [["be full"], ["be full", "eins", "two"]]


def test_a_loaded_conversation_is_counted_in_words(cli: Cli, daemon: FakeDaemon, tmp_path: Path) -> None:
    kept, said = tmp_path / "kept.json", Conversation()
    for count in ("1 answered message\n", "2 answered messages\n"):
        said.add("one", "eins")
        kept.write_text(said.text())
        assert f"loaded {count}" in cli("chat", input=f"/load {kept}\n").stderr


@contextmanager
def full_disk(room_bytes: int) -> Iterator[None]:
    """No file can become longer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_a_saved_conversation_as_it_was(
    cli: Cli, daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept.json"
    written: list[str] = []

    def write(path: Path, content: str) -> None:
        with full_disk(100) if written else nullcontext():
            write_whole(path, content)
        written.append(path.read_text())

    monkeypatch.setattr("tenantctl.commands.chatting.write_whole", write)
    result = cli("chat", input=f"/save {kept}\none\n/save {kept}\n")
    assert f"cannot write {kept}: File too large" in result.stderr
    assert kept.read_text() == written[0] and list(tmp_path.iterdir()) == [kept]


def test_a_full_disk_leaves_the_history_as_it_was(tmp_path: Path) -> None:
    history = tmp_path / "acme.history"
    lines = [json.dumps(str(n)) + "\n" for n in range(2 * MOST_KEPT + 1)]
    history.write_text("".join(lines))
    kept = [json.loads(line) for line in lines[-MOST_KEPT:]]
    with full_disk(100):
        assert _kept(history) == kept
    assert history.read_text() == "".join(lines) and list(tmp_path.iterdir()) == [history]
    assert _kept(history) == kept
    assert history.read_text() == "".join(lines[-MOST_KEPT:]), "it was cut"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


def test_an_engine_that_restarts_is_waited_for(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.readiness = [{"status": "loading", "progress": 0.4, "reason": ""}] * 4 + daemon.readiness
    result = cli("chat", input="are you restarting\n")
    assert (result.exit_code, result.stdout) == (0, " Hello, wörld\n")
    assert "loading the model 40%" in result.stderr
    daemon.readiness = [{"status": "failed", "progress": 0.0, "reason": "no memory"}]
    result = cli("chat", input="are you restarting\n")
    assert "the model is not loaded (try again in 2 s)\nYour message is kept" in result.stderr


def test_a_full_context_and_a_cut_answer_are_said(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.context_tokens = 6
    result = cli("chat", input="one\n")
    assert "the context is 83% full (5 of 6 tokens); /clear empties it" in result.stderr


def test_costs_that_cannot_be_had_are_said_to_be_unknown(cli: Cli, daemon: FakeDaemon) -> None:
    del daemon.answers["GET", "/v1/usage"]
    result = cli("chat", input="one\n")
    assert (result.exit_code, result.stdout) == (0, " Hello, wörld\n")
    assert "1 answer; what they cost is unknown: no such thing" in result.stderr


def test_a_base_model_is_named_as_such(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.has_template = False
    assert "this is a base model (it has no chat template)" in cli("chat", input="").stderr


def test_a_conversation_goes_on_from_a_private_file(cli: Cli, daemon: FakeDaemon, tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    result = cli("chat", "--system", "S", input=f"one\n/save {kept}\n/save {kept}\n/save {tmp_path / 'no' / 'x'}\n")
    assert result.stderr.count(f"saved {kept}") == 2
    assert f"cannot write {tmp_path / 'no' / 'x'}: No such file" in result.stderr
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    result = cli("chat", "--load", str(kept), input=f"/save {kept}\ntwo\n")
    assert "already exists; choose another name" in result.stderr
    assert asked(daemon)[-1] == ["S", "one", " Hello, wörld", "two"]
    cli("chat", input=f"/load {kept}\nthree\n")
    assert asked(daemon)[-1] == ["S", "one", " Hello, wörld", "three"]
    kept.write_bytes(b"\xff")
    result = cli("chat", "--load", str(kept), input="")
    assert (result.exit_code, result.stderr) == (2, f"tenantctl: cannot load {kept}: it is not text\n")
    kept.write_text("Dear diary")
    assert (
        f"cannot load {kept}: it is not a saved conversation, and not even JSON\n"
        in cli("chat", "--load", str(kept)).stderr
    )


def test_ctrl_c_ends_the_answer_and_not_the_chat(terminal: Callable[..., Any], daemon: FakeDaemon) -> None:
    with terminal("chat", whole=True) as screen:
        screen.wait_for(PROMPT)
        screen.type(b"go on forever\r")
        screen.wait_for("begun")
        screen.text = ""
        screen.type(b"\x03")
        screen.wait_for("stopped")
        screen.wait_for(PROMPT)
        assert daemon.disconnected.wait(120), "its request ends as well"
        screen.text = ""
        screen.type(b"half a line")
        screen.wait_for("half a line")
        screen.interrupt("/bye or Ctrl-D ends the chat")
        screen.wait_for(PROMPT)
        screen.type(b"again\r")
        screen.wait_for("wörld")
        screen.type(b"/bye\r")
        assert screen.end()[0] == 0
    assert asked(daemon)[-1] == ["go on forever", "begun", "again"]


def test_ctrl_d_ends_the_chat(terminal: Callable[..., Any]) -> None:
    with terminal("chat", whole=True) as screen:
        screen.wait_for(PROMPT)
        screen.type(b"\x04")
        assert screen.end()[0] == 0
    assert "nothing was sent" in screen.text


def test_markdown_is_drawn_on_a_terminal_and_escapes_are_not(terminal: Callable[..., Any], daemon: FakeDaemon) -> None:
    with terminal("chat", whole=True) as screen:
        screen.wait_for(PROMPT)
        screen.type(b"some markdown\r")
        screen.wait_for("That is all.")
        screen.type(b"escape\r")
        screen.wait_for("[31mred")
        screen.type(b"/bye\r")
        assert screen.end()[0] == 0
    assert "**ledger**" not in screen.text and "ledger" in screen.text
    assert "\x1b[31mred" not in screen.text
    with terminal("chat", "--plain", whole=True) as screen:
        screen.wait_for(PROMPT)
        screen.type(b"some markdown\r")
        screen.wait_for("**ledger**")
        screen.type(b"escape\r")
        screen.wait_for("\ufffd[31mred")


def test_what_was_typed_is_kept_for_its_user_alone(
    terminal: Callable[..., Any], daemon: FakeDaemon, tmp_path: Path
) -> None:
    history = tmp_path / "state" / "chat" / "acme.history"
    with terminal("chat", "--no-history", whole=True) as screen:
        screen.wait_for(PROMPT)
        screen.type(b"secret\r")
        screen.wait_for("wörld")
    assert not history.exists()
    with terminal("chat", whole=True) as screen:
        screen.wait_for(PROMPT)
        screen.type(b"first\r")
        screen.wait_for("wörld")
        screen.type(b"/bye\r")
        screen.end()
    assert [json.loads(line) for line in history.read_text().splitlines()] == ["first", "/bye"]
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert stat.S_IMODE(history.parent.stat().st_mode) == 0o700
    with terminal("chat", whole=True) as screen:
        screen.wait_for(PROMPT)
        screen.type(b"\x1b[A\x1b[A")
        screen.wait_for("first")
