"""`tenantctl audit` and `tenantctl tenant forget` as their users see them, in front of a real daemon."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, wait_until
from tests.support.program import tenantctl


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Has served acme and refused somebody. Tests change nothing in it."""
    with Daemon(tmp_path_factory.mktemp("audit")) as daemon:
        daemon.add_tenant("acme", weight=2.0)
        daemon.request("PATCH", "/admin/v1/tenants/acme", json={"weight": 3.0})
        assert daemon.complete("acme", max_tokens=3).status_code == 200
        assert daemon.get("/nowhere").status_code == 404
        wait_until(lambda: said(daemon, "log", "--event", "refused")["entries"], "the refusal")
        yield daemon


def said(daemon: Daemon, *arguments: str) -> Any:
    done = tenantctl(daemon, "audit", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_log_is_a_table_oldest_first(daemon: Daemon) -> None:
    done = tenantctl(daemon, "audit", "log")
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and "…" not in done.stdout
    assert lines[0].split() == ["number", "time", "event", "tenant", "what"]
    rows = [line.split() for line in lines[1:]]
    numbers = [int(row[0]) for row in rows]
    assert numbers == sorted(numbers) and numbers[0] == 1
    [entered] = [row for row in rows if row[3] == "entered"]
    [row] = daemon.rows()
    assert entered[4:] == [
        "acme",
        row["id"][-8:],
        str(row["prompt_length_tokens"]),
        "tokens",
        "by",
        "uid",
        str(os.geteuid()),
    ]
    me = ["by", "uid", str(os.geteuid())]
    assert ["refused", "unknown", "1", "×", "not_found", *me] in [row[3:] for row in rows]
    assert ["administered", "acme", "tenant_changed:", "weight", "2.0", "→", "3.0,", *me] in [row[3:] for row in rows]


def test_a_range_is_shown_whole_and_what_is_cut_is_told(daemon: Daemon) -> None:
    for arguments in (["--since", "1h"], ["--until", "2100-01-01"], []):
        done = tenantctl(daemon, "audit", "log", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
    done = tenantctl(daemon, "audit", "log", "--since", "1h", "--limit", "2")
    assert "showing only the newest 2" in done.stderr and len(done.stdout.splitlines()) == 3
    assert said(daemon, "log", "--since", "1h")["is_complete"] is True
    assert said(daemon, "log", "--since", "1h", "--limit", "2")["is_complete"] is False
    [number] = {entry["number"] for entry in said(daemon, "log", "--limit", "1")["entries"]}
    assert said(daemon, "log", "--limit", str(number))["is_complete"] is True


def test_the_log_shows_what_is_asked_for(daemon: Daemon) -> None:
    everything = said(daemon, "log")["entries"]
    assert {entry["tenant"] for entry in said(daemon, "log", "--tenant", "acme")["entries"]} == {"acme"}
    [row] = daemon.rows()
    of_request = said(daemon, "log", "--request", row["id"])["entries"]
    assert [entry["event"] for entry in of_request] == ["entered", "resources", "response", "cleaned_up"]
    assert said(daemon, "log", "--request", f"cmpl-{row['id'].removeprefix('req_')}")["entries"] == of_request
    assert said(daemon, "log", "--request", row["id"][-8:])["entries"] == of_request
    assert said(daemon, "log", "--request", "0" * 8)["entries"] == []
    assert said(daemon, "log", "--tenant", "acme", "--id", "1") == said(daemon, "log", "--tenant", "acme")
    assert said(daemon, "log", "--limit", "2")["entries"] == everything[-2:]
    assert said(daemon, "log", "--since", "1h")["entries"] == everything
    assert (
        said(daemon, "log", "--until", "1h")["entries"] == said(daemon, "log", "--since", "2100-01-01")["entries"] == []
    )
    [changed] = [
        entry
        for entry in said(daemon, "log", "--event", "administered")["entries"]
        if entry["detail"]["action"] == "tenant_changed"
    ]
    assert (changed["detail"]["before"], changed["detail"]["after"]) == ({"weight": 2.0}, {"weight": 3.0})
    assert tenantctl(daemon, "audit", "export", "--tenant", "acme", "--id", "7").returncode == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--event", "adminstered"], "--event must be one of administered, "),
        (["--event", "adminstered"], "did you mean administered?"),
        (["--id", "1"], "needs --tenant"),
        (["--request", "x"], "--request must be the id of a request or of an answer"),
        (["--since", "tomorrow"], "must be a time such as"),
        (["--follow", "--until", "1h"], "cannot be used with --follow"),
        (["--since", "1h", "--until", "2h"], "the range ends before it begins"),
    ],
)
def test_what_cannot_be_looked_for_is_refused(daemon: Daemon, arguments: list[str], words: str) -> None:
    done = tenantctl(daemon, "audit", "log", *arguments, TERMINAL_WIDTH="200")
    assert done.returncode == 2 and words in done.stderr and done.stdout == ""


def test_a_name_that_no_tenant_ever_had_is_not_found(daemon: Daemon) -> None:
    done = tenantctl(daemon, "audit", "log", "--tenant", "nobody")
    assert done.returncode == 1 and "no tenant named 'nobody'" in done.stderr


def test_an_export_has_all_that_is_needed_to_check_the_chain(daemon: Daemon) -> None:
    lines = tenantctl(daemon, "audit", "export").stdout.splitlines()
    entries = [json.loads(line) for line in lines]
    assert len(entries) > 8
    last = bytes(32)
    for line, entry in zip(lines, entries, strict=True):
        detail = line[line.index('"detail": ') + len('"detail": ') : line.rindex(', "hash": ')]
        assert json.loads(detail) == entry["detail"]
        columns = [entry[name] for name in ("number", "at_micros", "event", "tenant_id", "tenant", "request_id")]
        row = json.dumps([*columns, detail], ensure_ascii=False, separators=(",", ":")).encode()
        last = hashlib.sha256(last + row).digest()
        assert entry["hash"] == last.hex()
    table = list(csv.DictReader(io.StringIO(tenantctl(daemon, "audit", "export", "--format", "csv").stdout)))
    assert [row["hash"] for row in table][: len(entries)] == [entry["hash"] for entry in entries]
    assert [f'"detail": {row["detail"]}, "hash"' in line for row, line in zip(table, lines, strict=False)] == [
        True
    ] * len(lines)
    assert table[0]["tenant"] == "" and table[0]["time"].endswith("+00:00")
    responses = tenantctl(daemon, "audit", "export", "--event", "response").stdout.splitlines()
    assert [json.loads(line)["event"] for line in responses] == ["response"]


def test_verify_holds_while_the_daemon_runs(daemon: Daemon) -> None:
    done = tenantctl(daemon, "audit", "verify")
    assert done.returncode == 0 and "result   intact" in done.stdout
    verdict = said(daemon, "verify")
    assert verdict["finding"] is None and verdict["entries"] == verdict["number"] > 8
    assert verdict["ledger"] == str(daemon.folder / "state" / "ledger.db")


def test_verify_names_a_bad_entry_of_a_stopped_daemons_ledger_and_exits_with_1(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        for name in ("acme", "globex"):
            daemon.add_tenant(name)
        assert daemon.stop() == 0
    state = tmp_path / "state"
    for where in ({"TENANTD_STATE_DIR": str(state)}, {}):
        arguments = [] if where else ["--state-dir", str(state)]
        done = tenantctl(daemon, "audit", "verify", *arguments, **where)
        assert (done.returncode, "intact" in done.stdout) == (0, True), done.stderr
    with sqlite3.connect(state / "ledger.db") as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("UPDATE audit SET tenant = 'initech' WHERE number = 3")
    connection.close()
    done = tenantctl(daemon, "audit", "verify", "--state-dir", str(state))
    assert done.returncode == 1
    assert "edited at entry 3" in done.stdout and "intact   up to entry 2\n" in done.stdout
    assert "newest" not in done.stdout and "keep a copy of the ledger's files" in done.stderr
    done = tenantctl(daemon, "audit", "verify", "--state-dir", str(state), "--json")
    finding = json.loads(done.stdout)["finding"]
    assert (done.returncode, finding["number"], finding["kind"]) == (1, 3, "edited")
    with sqlite3.connect(state / "ledger.db") as connection:
        connection.execute("UPDATE audit SET tenant = 'initech' WHERE number = 5")
    connection.close()
    done = tenantctl(daemon, "audit", "verify", "--state-dir", str(state))
    assert done.returncode == 1 and "edited at entry 3" in done.stdout
    assert re.search(r"^and at 5 +edited: ", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--state-dir", "/nowhere"], 78, "/nowhere/ledger.db: no such file; tenantd has not run with this"),
        (["--anchor", "/nowhere/anchor"], 78, "cannot read the anchors in /nowhere/anchor"),
    ],
)
def test_verify_says_what_is_missing(daemon: Daemon, arguments: list[str], code: int, words: str) -> None:
    done = tenantctl(daemon, "audit", "verify", *arguments)
    assert (done.returncode, done.stdout) == (code, "") and words in done.stderr


def test_a_tenant_is_forgotten_only_when_that_is_confirmed_and_the_trail_still_holds(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.add_tenant("acme")
        daemon.complete("acme")
        unconfirmed = tenantctl(daemon, "tenant", "forget", "acme", TERMINAL_WIDTH="200")
        assert unconfirmed.returncode == 2 and "pass --yes to confirm" in unconfirmed.stderr
        done = tenantctl(daemon, "tenant", "forget", "acme", "--yes")
        assert done.returncode == 0 and "its next requests use a new key" in done.stderr
        assert said(daemon, "verify")["finding"] is None
        assert daemon.request("DELETE", "/admin/v1/tenants/acme").status_code == 200
        for words in ("past hashes can no longer be matched", "was already forgotten"):
            done = tenantctl(daemon, "tenant", "forget", "acme", "--id", "1", "--yes")
            assert done.returncode == 0 and words in done.stderr and "new key" not in done.stderr
        done = tenantctl(daemon, "tenant", "forget", "acme", "--id", "7", "--yes")
        assert done.returncode == 1 and "no tenant with id 7 is or was called 'acme'" in done.stderr
        daemon.add_tenant("acme")
        done = tenantctl(daemon, "tenant", "forget", "acme", "--yes")
        assert done.returncode == 2 and "newest first: id 2, 1; pass --id N" in done.stderr
        assert {entry["tenant_id"] for entry in said(daemon, "log", "--tenant", "acme")["entries"]} == {2}
        assert {e["tenant_id"] for e in said(daemon, "log", "--tenant", "acme", "--id", "1")["entries"]} == {1}


SIXTY_DAYS_AGO = """
import time
real = time.time_ns
time.time_ns = lambda: real() - 60 * 86_400 * 10**9
"""


def test_old_entries_are_pruned_by_whoever_asks_and_the_rest_still_holds(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SIXTY_DAYS_AGO)
    daemon = Daemon(tmp_path)
    try:
        daemon.start(PYTHONPATH=os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH", "")))))
        daemon.add_tenant("acme")
        daemon.complete("acme")
        assert daemon.stop() == 0
        daemon.start()
        daemon.add_tenant("globex")
        unconfirmed = tenantctl(daemon, "audit", "prune", "--before", "5w", TERMINAL_WIDTH="200")
        assert unconfirmed.returncode == 2 and "pass --yes to confirm" in unconfirmed.stderr
        too_new = tenantctl(daemon, "audit", "prune", "--before", "0s", "--yes")
        assert too_new.returncode == 2 and "a month stays until it is over" in too_new.stderr
        before = said(daemon, "log")["entries"]
        nothing = tenantctl(daemon, "audit", "prune", "--before", "99w", "--yes")
        assert nothing.returncode == 0 and "no entry is older than that" in nothing.stderr
        done = tenantctl(daemon, "audit", "prune", "--before", "5w", "--yes", "--json")
        assert done.returncode == 0, done.stderr
        pruned = json.loads(done.stdout)
        assert pruned["entries"] == pruned["through"] >= 6
        entries = said(daemon, "log")["entries"]
        assert entries[0]["number"] == pruned["through"] + 1 and entries[0]["event"] == "engine_started"
        assert [entry["tenant"] for entry in said(daemon, "log", "--event", "administered")["entries"]] == [
            "globex"
        ] * 2
        [recorded] = said(daemon, "log", "--event", "pruned")["entries"]
        assert recorded["detail"]["by"]["uid"] == os.geteuid()
        assert recorded["detail"]["hash"] == pruned["hash"] == before[pruned["through"] - 1]["hash"]
        verdict = said(daemon, "verify")
        assert (verdict["finding"], verdict["pruned"]) == (None, pruned["through"])
    finally:
        daemon.kill()


def matched(daemon: Daemon, *arguments: str) -> list[str]:
    """The requests that match."""
    done = tenantctl(daemon, "audit", "match", "--json", *arguments)
    found = json.loads(done.stdout)["entries"]
    assert done.returncode == (0 if found else 1), done.stderr
    return [entry["request_id"] for entry in found]


def test_a_text_that_was_asked_or_answered_is_found_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "text"
    with Daemon(tmp_path) as daemon:
        for name in ("acme", "globex"):
            daemon.add_tenant(name, system_prompt="Be brief.")
        plain = daemon.complete("acme", "What is it?", max_tokens=30, ignore_eos=True)
        message = {"messages": [{"role": "user", "content": "What is it?"}], "max_tokens": 2}
        chat = daemon.post("/v1/chat/completions", message, headers={"x-tenant": "acme"})
        ids = [answer.headers["x-request-id"] for answer in (plain, chat)]
        said_plain = plain.json()["choices"][0]["text"]
        wait_until(lambda: len(said(daemon, "log", "--event", "cleaned_up")["entries"]) == 2, "their ends")

        assert matched(daemon, "--tenant", "acme", "--prompt", "What is it?") == ids
        assert matched(daemon, "--tenant", "acme", "--prompt", "What is it") == []
        assert matched(daemon, "--tenant", "globex", "--prompt", "What is it?") == []
        assert matched(daemon, "--tenant", "acme", "--response", said_plain) == ids[:1]
        assert matched(daemon, "--tenant", "acme", "--response", said_plain[:-1]) == []
        file.write_text(f"{said_plain}\n")
        assert matched(daemon, "--tenant", "acme", "--response", f"@{file}") == ids[:1]
        assert matched(daemon, "--tenant", "acme", "--response", f"@{file}", "--until", "1h") == []
        done = tenantctl(daemon, "audit", "match", "--tenant", "acme", "--prompt", "What else?")
        assert (done.returncode, done.stdout) == (1, "") and "no request of acme (id 1) matches" in done.stderr
        assert "did you mean" not in done.stderr
        done = tenantctl(daemon, "audit", "match", "--tenant", "acme", "--response", str(file))
        assert done.returncode == 1 and f"did you mean @{file}?" in done.stderr
        for arguments in ([], ["--prompt", "x", "--response", "x"], ["--prompt", ""], ["--prompt", "@/nowhere"]):
            assert tenantctl(daemon, "audit", "match", "--tenant", "acme", *arguments).returncode == 2
        assert tenantctl(daemon, "audit", "match", "--tenant", "nobody", "--prompt", "x").returncode == 1

        assert tenantctl(daemon, "tenant", "forget", "acme", "--yes").returncode == 0
        assert matched(daemon, "--tenant", "acme", "--prompt", "What is it?") == []
        daemon.request("DELETE", "/admin/v1/tenants/acme")
        assert tenantctl(daemon, "tenant", "forget", "acme", "--id", "1", "--yes").returncode == 0
        done = tenantctl(daemon, "audit", "match", "--tenant", "acme", "--id", "1", "--prompt", "What is it?")
        assert done.returncode == 1 and "was forgotten" in done.stderr
