"""The audit trail of a real daemon: who did what, in order, and never what was said."""

from __future__ import annotations

import hashlib
import hmac
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tenantd.ledger.verify import verify_file
from tests.process.test_events import CANARY, refusals, send_canaries
from tests.process.test_stuck_ledger import locked
from tests.support.daemon import Daemon, wait_until
from tests.support.program import command_environment


def trail(daemon: Daemon, **filters: Any) -> list[dict[str, Any]]:
    """All entries that match, oldest first, over the API."""
    entries: list[dict[str, Any]] = []
    after = 0
    while True:
        page = (
            daemon.get("/admin/v1/audit", params={"after": after, "limit": 1000, **filters}).raise_for_status().json()
        )
        entries += page["entries"]
        if page["next"] is None:
            return entries
        after = page["next"]


def of_request(daemon: Daemon, request_id: str) -> list[dict[str, Any]]:
    """Its entries once the last of them is written."""

    def found() -> list[dict[str, Any]] | None:
        entries = trail(daemon, request=request_id)
        return entries if entries and entries[-1]["event"] == "cleaned_up" else None

    entries: list[dict[str, Any]] = wait_until(found, "its last entry")
    return entries


def audit_key(daemon: Daemon, name: str) -> bytes:
    with sqlite3.connect(f"file:{daemon.folder / 'state' / 'ledger.db'}?mode=ro", uri=True) as connection:
        [(key,)] = connection.execute("SELECT audit_key FROM tenants WHERE name = ?", (name,)).fetchall()
    connection.close()
    return bytes(key)


def test_a_request_leaves_its_entries_in_order(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        key = daemon.add_tenant("acme")
        by_key = {"authorization": f"Bearer {key}"}
        body = {"prompt": "Once", "max_tokens": 5, "temperature": 0.25, "logprobs": 2, "ignore_eos": True}
        for number in range(20):
            answer = daemon.post("/v1/completions", body, headers=by_key)
            entries = of_request(daemon, answer.headers["x-request-id"])
            assert [entry["event"] for entry in entries] == ["entered", "resources", "response", "cleaned_up"]
            assert (entries[1]["detail"]["sequence"], entries[1]["detail"]["binding"]) == (0, number + 1)
        [row] = [row for row in daemon.rows() if row["id"] == answer.headers["x-request-id"]]
        assert {entry["tenant"] for entry in entries} == {"acme"}
        assert {entry["tenant_id"] for entry in entries} == {row["tenant_id"]}
        entered, response = entries[0]["detail"], entries[2]["detail"]
        assert (entered["key_id"], entered["uid"], entered["pid"]) == (row["key_id"], os.geteuid(), os.getpid())
        assert (entered["temperature"], entered["logprobs"], entered["n"], entered["kind"]) == (
            0.25,
            2,
            1,
            "completion",
        )
        assert entered["prompt_tokens"] == row["prompt_length_tokens"]
        said = answer.json()["choices"][0]["text"].encode()
        secret = audit_key(daemon, "acme")
        assert response["text_hmac"] == hmac.new(secret, said, hashlib.sha256).hexdigest()
        assert (response["text_bytes"], response["state"]) == (len(said), "length")
        assert (response["prompt_tokens"], response["completion_tokens"]) == (
            row["prompt_tokens"], row["completion_tokens"],
        )  # fmt: skip
        hashes = [entry["detail"]["prompt_hmac"] for entry in trail(daemon, event="entered")]
        assert len(hashes) == 20 and len(set(hashes)) == 1, "repeats can be counted"


def test_each_choice_has_entries_of_its_own(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.add_tenant("acme")
        assert daemon.complete("acme", n=3, max_tokens=2).status_code == 200
        wait_until(lambda: len(trail(daemon, event="cleaned_up")) == 3, "their last entries")
        entered = [entry["detail"] for entry in trail(daemon, event="entered")]
        assert [(detail["choice"], detail["n"]) for detail in entered] == [(0, 3), (1, 3), (2, 3)]
        assert len({entry["request_id"] for entry in trail(daemon, event="response")}) == 3


def test_a_system_prompt_is_recorded_as_a_hash_wherever_it_is_used_or_changed(tmp_path: Path) -> None:
    policy, other = "Answer in verse only, whatever they say.", "Answer in prose."
    with Daemon(tmp_path, engine={"context_tokens": 512}) as daemon:
        daemon.add_tenant("acme", system_prompt=policy)
        daemon.add_tenant("globex")
        chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
        for name in ("acme", "globex"):
            assert daemon.post("/v1/chat/completions", chat, headers={"x-tenant": name}).status_code == 200
        daemon.complete("acme", max_tokens=2)
        daemon.request("PATCH", "/admin/v1/tenants/acme", json={"system_prompt": other, "system_in_completions": True})
        daemon.complete("acme", max_tokens=2)
        wait_until(lambda: len(trail(daemon, event="cleaned_up")) == 4, "the last request's end")
        secret = audit_key(daemon, "acme")
        before, after = (hmac.new(secret, text.encode(), hashlib.sha256).hexdigest() for text in (policy, other))
        used = [entry["detail"]["system_prompt_hmac"] for entry in trail(daemon, event="resources")]
        assert used == [before, None, None, after]
        [changed] = [
            entry["detail"]
            for entry in trail(daemon, event="administered")
            if entry["detail"]["action"] == "tenant_changed"
        ]
        assert (changed["before"]["system_prompt_hmac"], changed["after"]["system_prompt_hmac"]) == (before, after)
        assert changed["after"]["system_prompt_bytes"] == len(other)
        assert not any(text in str(trail(daemon)) for text in (policy, other))


def test_nothing_that_a_client_writes_or_is_answered_is_in_the_file(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        key = daemon.add_tenant("acme")
        send_canaries(daemon, key)
        streamed = daemon.stream("acme", "x", max_tokens=200, ignore_eos=True).join()
        whole = daemon.complete("acme", "x", max_tokens=200, ignore_eos=True).json()["choices"][0]["text"]
        wait_until(lambda: len(trail(daemon, event="refused")) > 5, "its refusals")
        entries = str(trail(daemon))
        assert daemon.stop() == 0
        with sqlite3.connect(tmp_path / "state" / "ledger.db") as connection:
            dump = "\n".join(line for line in connection.iterdump() if 'INSERT INTO "keys"' not in line)
        connection.close()
        for text in (entries, dump):  # the label of a key is an administrator's word, and in the table of keys
            without_labels = text.replace(f'"label":"{CANARY}"', "").replace(f"'label': '{CANARY}'", "")
            assert CANARY not in without_labels and key not in text
        raw = b"".join(path.read_bytes() for path in (tmp_path / "state").iterdir() if path.is_file())
        for said in (streamed.text, whole):
            assert len(said) > 100 and said[20:80].encode() not in raw


def test_a_flood_of_refusals_is_one_entry_a_second(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.add_tenant("slow", limits={"requests_per_minute": 1})
        assert daemon.complete("slow").status_code == 200
        with daemon.client() as client:
            for _ in range(300):
                refused = client.post("/v1/completions", json={"prompt": "x"}, headers={"x-tenant": "slow"})
                assert refused.status_code == 429
                assert client.get("/nowhere").status_code == 404

        def counted(cause: str) -> list[dict[str, Any]]:
            return [e for e in trail(daemon, event="refused") if e["detail"]["cause"] == cause]

        def total(cause: str) -> int:
            return sum(entry["detail"]["count"] for entry in counted(cause))

        wait_until(lambda: total("not_found") == 300, "the last of them")
        assert total("requests_per_minute_exceeded") == 300
        for cause in ("requests_per_minute_exceeded", "not_found"):
            entries = counted(cause)
            lasted_micros = entries[-1]["detail"]["until_micros"] - entries[0]["at_micros"]
            assert len(entries) <= lasted_micros / 1e6 + 2
        assert {entry["tenant"] for entry in counted("not_found")} == {None}
        assert counted("not_found")[0]["detail"]["uids"] == [os.geteuid()]


def test_refusals_of_an_outage_are_one_entry_and_none_is_forgotten(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.add_tenant("acme")
        with locked(daemon):
            wait_until(lambda: daemon.complete("acme").status_code == 503, "the trouble")
            wait_until(lambda: not daemon.status()["ledger"]["healthy"], "the trouble to be known")
            before = time.time()
            wait_until(lambda: daemon.get("/nowhere").status_code == 404 and time.time() > before + 3, "three seconds")
            counted = refusals(daemon)
        wait_until(lambda: daemon.status()["ledger"]["healthy"], "the end of the trouble")
        wait_until(lambda: trail(daemon, event="refused"), "the entries")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        daemon.start()
        recorded: dict[tuple[str, str], list[int]] = {}
        for entry in trail(daemon, event="refused"):
            of_cause = recorded.setdefault((entry["detail"]["cause"], entry["tenant"] or ""), [])
            of_cause.append(entry["detail"]["count"])
        assert {cause: sum(counts) for cause, counts in recorded.items()} == counted
        assert len(recorded["not_found", ""]) == 1 and counted["not_found", ""] > 10


def test_what_administrators_do_has_its_actor_and_what_was_before_and_after(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"fake_step_micros": 10_000}) as daemon:
        key = daemon.add_tenant("acme", weight=2.0)
        daemon.request("PATCH", "/admin/v1/tenants/acme", json={"weight": 3.0, "limits": {"max_queued": 5}})
        created = daemon.post("/admin/v1/tenants/acme/keys", {"label": "laptop"}).json()
        rotated = daemon.post(f"/admin/v1/keys/{created['key']['id']}/rotate", {"grace_s": 60}).json()
        daemon.request("DELETE", f"/admin/v1/keys/{rotated['key']['id']}")
        master = daemon.post("/admin/v1/keys", {"label": "master"}).json()
        by_master = {"authorization": f"Bearer {master['secret']}"}
        daemon.post("/admin/v1/tenants/acme/suspend", headers=by_master)
        daemon.post("/admin/v1/tenants/acme/rename", {"name": "acme2"})
        daemon.post("/admin/v1/tenants/acme2/resume")
        running = daemon.stream("acme2", max_tokens=3000, ignore_eos=True).begun(1)
        daemon.post(f"/admin/v1/requests/{running.request_id}/cancel")
        running.join()
        assert daemon.request("DELETE", "/admin/v1/tenants/acme2").status_code == 200
        daemon.signal(signal.SIGHUP)
        wait_until(lambda: trail(daemon, event="administered")[-1]["detail"]["action"] == "reloaded", "the reload")
        entries = trail(daemon, event="administered")
        assert [entry["detail"]["action"] for entry in entries] == [
            "tenant_added", "key_created", "tenant_changed", "key_created", "key_created", "key_rotated", "key_revoked",
            "key_created", "tenant_suspended", "tenant_renamed", "tenant_resumed", "request_cancelled",
            "tenant_removed", "reloaded",
        ]  # fmt: skip
        details = {entry["detail"]["action"]: entry["detail"] for entry in entries}
        actors = [(entry["detail"]["by"]["uid"], entry["detail"]["by"]["pid"]) for entry in entries]
        assert actors == [(os.geteuid(), os.getpid())] * 13 + [(None, None)]
        keys = {entry["detail"]["by"]["key_id"] for entry in entries if entry["detail"]["action"] != "tenant_suspended"}
        assert keys == {None} and details["tenant_suspended"]["by"]["key_id"] == master["key"]["id"]
        added, changed, renamed = details["tenant_added"], details["tenant_changed"], details["tenant_renamed"]
        assert added["before"] is None and added["after"]["weight"] == 2.0
        assert (changed["before"]["weight"], changed["after"]["weight"]) == (2.0, 3.0)
        assert changed["after"]["limits"]["max_queued"] == 5 and changed["after"].keys() == {"weight", "limits"}
        assert (renamed["before"], renamed["after"]) == ({"name": "acme"}, {"name": "acme2"})
        removed = details["tenant_removed"]
        assert removed["before"]["name"] == "acme2" and removed["after"] is None
        assert entries[3]["detail"]["after"]["label"] == "laptop"
        assert details["key_rotated"]["after"]["replaced_by"] == rotated["key"]["id"]
        assert (
            details["key_revoked"]["after"]["revoked_micros"]
            and details["key_revoked"]["key_id"] == rotated["key"]["id"]
        )
        assert {entry["tenant_id"] for entry in entries[:7]} == {1} and entries[7]["tenant_id"] is None
        [cancelled] = [entry for entry in entries if entry["detail"]["action"] == "request_cancelled"]
        assert cancelled["request_id"] == running.request_id
        secrets = [key, created["secret"], rotated["secret"], master["secret"]]
        assert not any(secret[:8] in str(entries) for secret in secrets)
        [first_use] = trail(daemon, event="key_first_used")
        assert (first_use["tenant"], first_use["detail"]["key_id"]) == (None, master["key"]["id"])


def test_engines_are_recorded_as_they_start_and_are_lost(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        os.kill(daemon.engine_pid(), signal.SIGKILL)
        wait_until(lambda: len(trail(daemon, event="engine_started")) == 2, "the next engine")
        [lost] = trail(daemon, event="engine_lost")
        assert (lost["detail"]["reason"], lost["detail"]["status"]) == ("signal", -9)


def test_after_a_kill_no_row_is_without_its_entry(tmp_path: Path) -> None:
    with Daemon(tmp_path, engine={"fake_step_micros": 2000}) as daemon:
        daemon.add_tenant("acme", limits={"max_queued": 1000})
        lengths = [3000, 3000, *(20 + 40 * (i % 7) for i in range(28))]  # some are not done whenever that is seen
        streams = [daemon.stream("acme", max_tokens=length, ignore_eos=True) for length in lengths]
        wait_until(lambda: sum(stream.done for stream in streams) > 8, "some to be done")
        daemon.kill()
        for stream in streams:
            stream.join()
        daemon.start()
        entries = trail(daemon)
        entered = {entry["request_id"] for entry in entries if entry["event"] == "entered"}
        rows = {row["id"]: row["state"] for row in daemon.rows()}
        assert entered == rows.keys()
        ends = {
            entry["request_id"]: entry["event"] for entry in entries if entry["event"] in ("response", "interrupted")
        }
        assert ends.keys() == rows.keys()
        assert {state == "interrupted" for state in rows.values()} == {True, False}, "both kinds were there"
        for request_id, state in rows.items():
            assert (ends[request_id] == "interrupted") == (state == "interrupted")
        verdict = verify_file(tmp_path / "state" / "ledger.db")
        assert verdict.finding is None and verdict.entries >= len(entries)


def test_who_is_forgotten_cannot_be_matched_and_the_key_is_nowhere(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.add_tenant("acme")
        daemon.add_tenant("gone")
        daemon.complete("acme", "the same", max_tokens=1)
        secrets = {name: audit_key(daemon, name) for name in ("acme", "gone")}
        daemon.request("DELETE", "/admin/v1/tenants/gone")
        assert audit_key(daemon, "gone") == secrets["gone"], "it is still needed to match what it sent"
        answer = daemon.post("/admin/v1/tenants/acme/forget").json()
        assert answer == {"id": 1, "name": "acme", "had_key": True, "is_removed": False}
        answer = daemon.post("/admin/v1/tenants/gone/forget", params={"id": 2}).json()
        assert answer == {"id": 2, "name": "gone", "had_key": True, "is_removed": True}
        assert not daemon.post("/admin/v1/tenants/gone/forget").json()["had_key"]
        for wrong in ({"id": 1}, {"id": 99}, {"id": 10**17}):
            assert daemon.post("/admin/v1/tenants/gone/forget", params=wrong).status_code == 404
        assert daemon.post("/admin/v1/tenants/nobody/forget").status_code == 404
        daemon.complete("acme", "the same", max_tokens=1)
        first, second = (entry["detail"]["prompt_hmac"] for entry in trail(daemon, event="entered"))
        assert first != second and audit_key(daemon, "acme") not in secrets.values()
        forgotten = [e for e in trail(daemon, event="administered") if e["detail"]["action"] == "tenant_forgotten"]
        assert [(e["tenant"], e["detail"]["after"]["has_audit_key"]) for e in forgotten] == [
            ("acme", True), ("gone", False), ("gone", False),
        ]  # fmt: skip
        assert daemon.stop() == 0
        raw = b"".join(path.read_bytes() for path in (tmp_path / "state").iterdir() if path.is_file())
        assert not any(secret in raw for secret in secrets.values())


def test_nothing_is_recorded_while_the_trail_is_off(tmp_path: Path) -> None:
    with Daemon(tmp_path, security={"audit": "off"}) as daemon:
        daemon.add_tenant("acme")
        daemon.complete("acme")
        daemon.get("/nowhere")
        daemon.post("/admin/v1/tenants/acme/forget")
        assert daemon.stop() == 0
        with sqlite3.connect(tmp_path / "state" / "ledger.db") as connection:
            events = [event for (event,) in connection.execute("SELECT event FROM audit")]
        connection.close()
        assert events == ["switched_off"]


def test_the_trail_is_followed_line_by_line(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        daemon.add_tenant("acme")
        command = [sys.executable, "-m", "tenantctl.main", "audit", "log", "--tenant", "acme", "--follow", "--json"]
        following = subprocess.Popen(command, stdout=subprocess.PIPE, env=command_environment(daemon), text=True)
        assert following.stdout is not None
        try:
            assert '"tenant_added"' in following.stdout.readline()
            assert '"key_created"' in following.stdout.readline()
            daemon.complete("acme", max_tokens=1)
            events = [following.stdout.readline() for _ in range(4)]
            assert ['"entered"' in events[0], '"cleaned_up"' in events[3]] == [True, True]
            following.send_signal(signal.SIGINT)
            assert following.wait(120) == 130
        finally:
            following.kill()
            following.wait()
            following.stdout.close()
