from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Cli, Program, command
from tests.cli.fake_daemon import FakeDaemon


def sent(daemon: FakeDaemon) -> dict[str, Any]:
    body: dict[str, Any] = daemon.seen[-1][3]
    return body


BASE_MODEL = "gemma is a base model (it has no chat template), so it continues the prompt; --raw hides this note\n"


def test_run_prints_the_text_and_ends_the_line(cli: Cli, daemon: FakeDaemon) -> None:
    result = cli("run", "--tenant", "acme", "Say hello")
    assert result.exit_code == 0
    assert result.stdout == " Hello, wörld\n"
    assert result.stderr == BASE_MODEL
    _, path, headers, body = daemon.seen[0]
    assert path == "/v1/completions"
    assert headers["x-tenant"] == "acme"
    assert body == {"prompt": "Say hello", "stream": True, "stream_options": {"include_usage": True}}


def test_a_note_about_the_model_comes_once_it_is_known_for_whom(cli: Cli, daemon: FakeDaemon) -> None:
    result = cli("run", "anonymous")
    assert "which tenant?" in result.stderr and "base model" not in result.stderr


def test_chat_wraps_the_prompt_in_messages(cli: Cli, daemon: FakeDaemon) -> None:
    assert cli("run", "--chat", "Hi").stdout == " Hello, wörld\n"
    assert daemon.seen[0][1] == "/v1/chat/completions"
    assert sent(daemon)["messages"] == [{"role": "user", "content": "Hi"}]
    cli("run", "--system", "Be brief.", "Hi")
    assert sent(daemon)["messages"][0] == {"role": "system", "content": "Be brief."}


def test_a_model_with_a_chat_template_is_sent_a_message(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.has_template = True
    result = cli("run", "Hi")
    assert (result.stdout, result.stderr) == (" Hello, wörld\n", "")
    assert daemon.seen[0][1] == "/v1/chat/completions"
    cli("run", "--raw", "Hi")
    assert daemon.seen[-1][1] == "/v1/completions"
    for both in (["--chat"], ["--system", "Be brief."]):
        result = cli("run", "--raw", *both, "Hi")
        assert result.exit_code == 2 and f"--raw: choose one of --raw and {both[0]}" in result.stderr
    assert len(daemon.seen) == 2


def test_raw_continues_a_prompt_without_a_note(cli: Cli, daemon: FakeDaemon) -> None:
    result = cli("run", "--raw", "Hi")
    assert (result.exit_code, result.stderr, sent(daemon)["prompt"]) == (0, "", "Hi")


def test_files_follow_the_prompt_under_their_names(cli: Cli, daemon: FakeDaemon, tmp_path: Path) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("first\n\n", "utf-8")
    two.write_text("zweite ä", "utf-8")
    assert cli("run", "--chat", "-f", str(one), "--file", str(two), "Compare.", input="piped\n").exit_code == 0
    content = sent(daemon)["messages"][0]["content"]
    assert content == "Compare.\npiped\n\n--- one.txt ---\nfirst\n\n\n--- two.txt ---\nzweite ä"
    cli("run", "-f", str(one), input="")
    assert sent(daemon)["prompt"] == "first\n", "one file alone is the prompt, without one line end"
    cli("run", "--raw", "-f", str(one), "-f", str(two), "Begin", input="")
    assert sent(daemon)["prompt"] == "Begin\nfirst\n\nzweite ä", "what a model continues has no headings"


def test_a_file_that_cannot_be_sent_is_named(
    cli: Cli, daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenantctl.prompt_input.MOST_FILE_BYTES", 100)
    contents = {"image": b"\x89PNG\x00", "latin": b"caf\xe9", "large": b"a" * 101, "none": None}
    said = {"image": "is a binary file", "latin": "byte 0xe9 at offset 3", "large": "more than 100 bytes"}
    for name, data in contents.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        result = cli("run", "-f", str(tmp_path / name), "Hi")
        assert result.exit_code == 2
        assert f"--file: cannot read {tmp_path / name}: No such file" in result.stderr or said[name] in result.stderr
    assert "is a folder" in cli("run", "-f", str(tmp_path), "Hi").stderr
    assert not daemon.seen


def test_reasoning_goes_to_standard_error(cli: Cli, daemon: FakeDaemon) -> None:
    result = cli("run", "--chat", "think")
    assert (result.stdout, result.stderr) == (" Hello, wörld\n", "Hm.\n")
    answer = json.loads(cli("run", "--chat", "--json", "think").stdout)
    assert (answer["text"], answer["reasoning"]) == (" Hello, wörld", "Hm.")


def test_json_is_one_object_with_the_ledgers_id(cli: Cli, daemon: FakeDaemon) -> None:
    answer = json.loads(cli("run", "--json", "Hi").stdout)
    assert answer["id"] == "req_1"
    assert answer["text"] == " Hello, wörld"
    assert answer["finish_reason"] == "stop"
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    assert answer["model"] == "gemma"
    assert 0 < answer["first_token_micros"] <= answer["duration_micros"]


def test_sampling_options_are_sent_as_they_are(cli: Cli, daemon: FakeDaemon, tmp_path: Path) -> None:
    options = "--max-tokens 5 --temperature 0 --top-k 3 --top-p 0.5 --min-p 0.1 --typical-p 0.9 --repeat-penalty 1.1"
    options += " --presence-penalty 0.2 --frequency-penalty -0.3 --seed 7 --stop . --stop ! --ignore-eos"
    assert cli("run", *options.split(), "Hi").exit_code == 0
    wanted = {
        "max_tokens": 5,
        "temperature": 0.0,
        "top_k": 3,
        "top_p": 0.5,
        "min_p": 0.1,
        "typical_p": 0.9,
        "repeat_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": -0.3,
        "seed": 7,
        "stop": [".", "!"],
        "ignore_eos": True,
    }
    assert {k: v for k, v in sent(daemon).items() if k not in ("prompt", "stream", "stream_options")} == wanted


def test_an_answer_to_a_schema_that_was_cut_off_is_a_failure(cli: Cli, daemon: FakeDaemon) -> None:
    """What is printed is no JSON, and a pipe can tell only by the exit code."""
    for shown in ((), ("--json",)):
        cut = cli("run", "--schema", '{"type": "object"}', *shown, "unfinished")
        assert cut.exit_code == 1 and "raise --max-tokens" in cut.stderr
        assert cli("run", "--schema", '{"type": "object"}', *shown, "Hi").exit_code == 0


def test_an_answer_that_a_budget_cut_off_says_so(cli: Cli, daemon: FakeDaemon) -> None:
    """Raising a maximum of tokens would not help."""
    said = "the answer was cut off because a budget is used up: tenantctl limits"
    for arguments in (("run", "overspent"), ("run", "--schema", '{"type": "object"}', "overspent")):
        assert cli(*arguments).stderr.splitlines()[-1] == said


def test_grammar_and_schema_come_from_files(cli: Cli, daemon: FakeDaemon, tmp_path: Path) -> None:
    (tmp_path / "g").write_text('root ::= "yes"')
    (tmp_path / "s").write_text('{"type": "object"}')
    cli("run", "--grammar", str(tmp_path / "g"), "Hi")
    assert sent(daemon)["grammar"] == 'root ::= "yes"'
    cli("run", "--schema", str(tmp_path / "s"), "Hi")
    assert sent(daemon)["response_format"]["json_schema"]["schema"] == {"type": "object"}
    cli("run", "--schema", ' {"type": "array"}', "Hi")
    assert sent(daemon)["response_format"]["json_schema"]["schema"] == {"type": "array"}
    assert "the schema is not JSON" in cli("run", "--schema", '{"type": array}', "Hi").stderr
    assert cli("run", "--schema", str(tmp_path / "s"), "--grammar", str(tmp_path / "g"), "Hi").exit_code == 2
    assert cli("run", "--schema", str(tmp_path / "g"), "Hi").exit_code == 2
    assert cli("run", "--grammar", str(tmp_path / "none"), "Hi").exit_code == 2


@pytest.mark.parametrize("options", [["--temperature", "nan"], ["--top-p", "inf"], ["--seed", "1.5"]], ids=" ".join)
def test_what_json_cannot_carry_is_a_usage_error(cli: Cli, daemon: FakeDaemon, options: list[str]) -> None:
    assert cli("run", *options, "Hi").exit_code == 2
    assert not daemon.seen


@pytest.mark.parametrize("arguments", [["run"], ["run", "-"]], ids=" ".join)
def test_standard_input_is_the_prompt_without_its_last_newline(
    cli: Cli, daemon: FakeDaemon, arguments: list[str]
) -> None:
    assert cli(*arguments, input="two\nlines\n\n").exit_code == 0
    assert sent(daemon)["prompt"] == "two\nlines\n"


def test_piped_text_follows_the_prompt_on_a_new_line(cli: Cli, daemon: FakeDaemon) -> None:
    cli("run", "Summarise:", input="two\nlines\n")
    assert sent(daemon)["prompt"] == "Summarise:\ntwo\nlines"
    cli("run", "--chat", "Summarise:", input="text")
    assert sent(daemon)["messages"] == [{"role": "user", "content": "Summarise:\ntext"}]
    cli("run", "Nothing is piped", input="")
    assert sent(daemon)["prompt"] == "Nothing is piped"


def test_a_redirected_file_follows_the_prompt(program: Program, daemon: FakeDaemon, tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("Dear you,\n", "utf-8")
    with (tmp_path / "letter").open("rb") as letter:
        assert program("run", "Summarise:", stdin=letter).returncode == 0
    assert sent(daemon)["prompt"] == "Summarise:\nDear you,"


def test_a_pipe_that_stays_open_is_said_to_be_waited_for(daemon: FakeDaemon) -> None:
    run = subprocess.Popen(command("run", "Hi"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdin is not None and run.stderr is not None
    assert b"waiting for the end of standard input; add < /dev/null" in run.stderr.readline()
    assert not daemon.seen
    out, _ = run.communicate(b"there", timeout=300)
    assert (run.returncode, out) == (0, " Hello, wörld\n".encode())
    assert sent(daemon)["prompt"] == "Hi\nthere"


def test_standard_input_that_is_not_utf8_is_refused(cli: Cli, daemon: FakeDaemon) -> None:
    result = cli("run", input=b"abc\xff")
    assert result.exit_code == 2
    assert "not UTF-8: byte 0xff at offset 3" in result.stderr
    assert not daemon.seen


def test_an_argument_that_is_not_utf8_is_refused(cli: Cli, daemon: FakeDaemon) -> None:
    for arguments in (["abc\udcff"], ["--system", "\udcff", "x"]):
        result = cli("run", *arguments)
        assert result.exit_code == 2
        assert "not UTF-8" in result.stderr
    assert not daemon.seen


@pytest.mark.parametrize(
    "arguments",
    [["run", "Hi"], ["status"], ["tenant", "list"], ["usage"], ["requests"], ["invoice"], ["key", "list", "acme"]],
    ids=" ".join,
)
def test_every_command_shows_the_key_of_the_environment_and_says_so(
    cli: Cli, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    daemon.add("acme")
    monkeypatch.setenv("TENANTD_API_KEY", "td_mine\n")
    result = cli(*arguments)
    assert result.exit_code == 0
    assert [headers["authorization"] for _, _, headers, _ in daemon.seen] == ["Bearer td_mine"]
    assert "x-tenant" not in daemon.seen[0][2]
    [line] = [line for line in result.stderr.splitlines() if "TENANTD_API_KEY" in line]
    assert "--admin" in line and "td_mine" not in result.output
    result = cli("--admin", *arguments)
    assert result.exit_code == 0
    assert "authorization" not in daemon.seen[-1][2]
    assert "TENANTD_API_KEY" not in result.stderr


@pytest.mark.parametrize("key", ["td_ü", "td_a b", "td_a\nx"])
def test_what_cannot_be_a_key_is_not_sent(
    cli: Cli, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("TENANTD_API_KEY", key)
    assert cli("run", "Hi").exit_code == 77
    assert not daemon.seen


def test_a_refusal_has_its_exit_code_and_when_to_come_back(cli: Cli, daemon: FakeDaemon) -> None:
    result = cli("run", "--raw", "be full")
    assert result.exit_code == 75
    assert result.stderr == "tenantctl: the queue of acme is full (try again in 7 s)\n"


def test_a_model_that_loads_is_waited_for(cli: Cli, daemon: FakeDaemon) -> None:
    daemon.readiness = [{"status": "loading", "progress": 0.4, "reason": ""}] * 4 + daemon.readiness
    result = cli("run", "are you restarting")
    assert (result.exit_code, result.stdout) == (0, " Hello, wörld\n")
    assert "loading the model 40%" in result.stderr
    daemon.readiness = [{"status": "loading", "progress": 0.4, "reason": ""}]
    result = cli("run", "--timeout", "2", "are you restarting")
    assert (result.exit_code, "not ready after 1." in result.stderr) == (75, True), result.stderr
    daemon.readiness = [{"status": "failed", "progress": 0.0, "reason": "no memory"}]
    result = cli("run", "are you restarting")
    assert (result.exit_code, "the model is not loaded" in result.stderr) == (75, True)


def test_a_question_for_the_tenant_names_the_option(cli: Cli, daemon: FakeDaemon) -> None:
    result = cli("run", "--raw", "be anonymous")
    assert result.exit_code == 2
    assert result.stderr == "tenantctl: which tenant? pass --tenant NAME or set TENANTD_API_KEY\n"


def test_an_error_in_mid_stream_comes_after_the_text(cli: Cli, daemon: FakeDaemon) -> None:
    result = cli("run", "--raw", "be broken")
    assert result.exit_code == 75
    assert result.stdout == " Hello, wörld\n"
    assert result.stderr == "tenantctl: the engine crashed too often\n"


def test_an_error_in_mid_stream_is_no_json_answer(cli: Cli, daemon: FakeDaemon) -> None:
    result = cli("run", "--json", "be broken")
    assert result.exit_code == 75
    assert result.stdout == ""


def test_a_stream_that_was_cut_is_not_taken_for_the_whole(cli: Cli, daemon: FakeDaemon) -> None:
    result = cli("run", "be cut")
    assert result.exit_code == 69
    assert "closed the connection before its answer was complete" in result.stderr


def test_line_separators_inside_the_text_are_text(cli: Cli, daemon: FakeDaemon) -> None:
    assert json.loads(cli("run", "--json", "separators").stdout)["text"] == "a\u2028b\x85cd"


def test_a_pipe_gets_the_text_exactly(cli: Cli, daemon: FakeDaemon) -> None:
    assert cli("run", "escape").stdout == "\x1b[31mred\n"


def test_an_answer_without_text_prints_nothing(cli: Cli, daemon: FakeDaemon) -> None:
    result = cli("run", "--timing", "nothing")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "no text in" in result.stderr


def test_timing_is_said_on_standard_error(cli: Cli, daemon: FakeDaemon) -> None:
    result = cli("run", "--timing", "Hi")
    assert result.stdout == " Hello, wörld\n"
    assert "first token after" in result.stderr
    assert "3 tokens in" in result.stderr
    assert "tokens/s" in result.stderr
