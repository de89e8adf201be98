"""`tenantctl key`: what is sent, what is shown, and what is not taken."""

from __future__ import annotations

import io
import re
import time
from contextlib import redirect_stdout
from datetime import datetime
from typing import Any

import pytest
import typer

from tenantctl.commands.key import MOST_GRACE_S
from tenantctl.main import app
from tenantctl.times import MOST_YEARS, duration_s, end_fields
from tenantd.tenancy.keys import MAX_GRACE_S, MAX_LIFETIME_S
from tests.cli.conftest import Cli
from tests.cli.fake_daemon import FakeDaemon

DAY_S = 86_400


def micros_in(seconds: float) -> int:
    return round((time.time() + seconds) * 1e6)


def test_a_key_is_made_and_shown_alone_on_standard_output(cli: Cli, daemon: FakeDaemon) -> None:
    made = cli("key", "create", "acme", "--label", "laptop")
    assert made.stdout == "td_another\n"
    assert "of acme" in made.stderr and "shown only once" in made.stderr
    assert daemon.seen[0][1:2] + daemon.seen[0][3:] == ("tenants/acme/keys", {"label": "laptop"})


def test_a_key_gets_the_scopes_and_the_end_that_were_asked_for(cli: Cli, daemon: FakeDaemon) -> None:
    cli("key", "create", "acme", "--scope", "read", "--expires", "90d")
    cli("key", "create", "acme", "--scope", "read,run", "--expires", "2099-01-31")
    first, second = (seen[3] for seen in daemon.seen)
    assert first == {"label": "", "scopes": ["read"], "expires_in_s": 90 * DAY_S}
    assert second["scopes"] == ["read", "run"]
    assert second["expires_micros"] == datetime(2099, 1, 31).timestamp() * 1e6, "when the day begins, here"


def test_keys_that_administer_belong_to_no_tenant(cli: Cli, daemon: FakeDaemon) -> None:
    made = cli("key", "create", "--admin", "--label", "deploy", "--expires", "12h")
    assert made.stdout == "td_another\n" and "created administrator key k1; " in made.stderr
    listed = cli("key", "list", "--admin")
    assert [seen[1] for seen in daemon.seen] == ["keys", "keys"]
    assert daemon.seen[0][3] == {"label": "deploy", "expires_in_s": 12 * 3600}
    assert listed.stdout.splitlines()[1].split() == ["k1", "td_abcd", "admin", "never", "-", "first"]


def test_a_rotated_key_is_replaced_by_the_one_on_standard_output(cli: Cli, daemon: FakeDaemon) -> None:
    rotated = cli("key", "rotate", "k1", "--grace", "2d")
    assert rotated.stdout == "td_rotated\n"
    assert re.search(r"key k1 works until 20\d\d-\d\d-\d\d .*; created key k2 of acme, shown only once", rotated.stderr)
    assert "key k1 is revoked" in cli("key", "rotate", "k1", "--grace", "0", "--expires", "5m").stderr
    assert cli("key", "rotate", "k1").exit_code == 0
    assert [seen[3] for seen in daemon.seen] == [
        {"grace_s": 2 * DAY_S},
        {"grace_s": 0, "expires_in_s": 300},
        {"grace_s": 3600},
    ]
    assert daemon.seen[0][1] == "keys/k1/rotate"


def test_a_key_is_revoked(cli: Cli, daemon: FakeDaemon) -> None:
    assert "key k1 of acme is revoked" in cli("key", "revoke", "k1").stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["create"],
        ["create", "acme", "--admin"],
        ["create", "--admin", "--scope", "run"],
        ["create", "acme", "--scope", "admin"],
        ["create", "acme", "--scope", "run,write"],
        ["create", "acme", "--scope", ""],
        ["create", "acme", "--scope", "run,"],
        ["create", "acme", "--scope", "RUN"],
        ["create", "acme", "--expires", "soon"],
        ["create", "acme", "--expires", ""],
        ["create", "acme", "--expires", "-1d"],
        ["create", "acme", "--expires", "1y"],
        ["create", "acme", "--expires", "90"],
        ["create", "acme", "--expires", "1000000000000000d"],
        ["create", "acme", "--expires", "2099-02-31"],
        ["create", "acme", "--expires", "0000-01-01"],
        ["create", "No!"],
        ["list"],
        ["list", "acme", "--admin"],
        ["rotate", "k1", "--grace", "1"],
        ["rotate", "k1", "--grace", "2099-01-31"],
        ["rotate"],
        ["revoke"],
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_a_mistake_in_usage_and_nothing_is_sent(
    cli: Cli, daemon: FakeDaemon, arguments: list[str]
) -> None:
    result = cli("key", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert daemon.seen == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["create", "acme", "--expires", "2020-01-01"], "2020-01-01 has passed"),
        (["create", "acme", "--expires", "0d"], "must be longer than 0"),
        (["create", "--admin", "--expires", "100000d"], "must be within 100 years"),
        (["create", "acme", "--expires", "2999-01-01"], "must be within 100 years"),
        (["rotate", "k1", "--expires", "2020-01-01"], "2020-01-01 has passed"),
        (["rotate", "k1", "--grace", "366d"], "must be at most 365d"),
    ],
)
def test_an_end_that_cannot_be_is_refused_in_words_of_the_option(
    cli: Cli, daemon: FakeDaemon, arguments: list[str], reason: str
) -> None:
    result = cli("key", *arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 2 and reason in result.stderr and arguments[-2] in result.stderr
    assert daemon.seen == []


def test_the_bounds_of_ends_are_the_daemons() -> None:
    assert MOST_YEARS * 365 * DAY_S == MAX_LIFETIME_S
    assert MOST_GRACE_S == MAX_GRACE_S


def key(**fields: Any) -> dict[str, Any]:
    base = {"id": "key_xNJXWMyN6tcd", "tenant": "acme", "prefix": "td_0T4Dm", "label": "", "created_micros": 5}
    rest = {"revoked_micros": None, "scopes": ["run", "read"], "expires_micros": None, "last_used_micros": None}
    return {**base, **rest, "replaced_by": None, **fields}


def test_a_list_shows_rights_end_and_last_use(cli: Cli, daemon: FakeDaemon) -> None:
    far_micros = micros_in(89 * DAY_S)
    daemon.keys = [
        key(),
        key(expires_micros=far_micros, last_used_micros=micros_in(-200), label="laptop"),
        key(expires_micros=micros_in(1800), scopes=["read"], last_used_micros=micros_in(-40 * DAY_S)),
        key(expires_micros=micros_in(-5)),
        key(expires_micros=micros_in(-5), revoked_micros=7),
    ]
    header, *rows = cli("key", "list", "acme").stdout.splitlines()
    assert re.split(r"  +", header) == ["key", "prefix", "scopes", "expires", "last used", "label"]
    cells = [re.split(r"  +", row)[2:] for row in rows]
    far = datetime.fromtimestamp(far_micros / 1e6).strftime("%Y-%m-%d")
    assert cells[:2] == [["run,read", "never", "-", "-"], ["run,read", far, "3 min ago", "laptop"]]
    assert cells[2][:2] == ["read", "in 29 min"] and re.fullmatch(r"20\d\d-\d\d-\d\d", cells[2][2])
    assert [row[1] for row in cells[3:]] == ["expired", "revoked"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_list_fits_a_terminal_of_80_columns(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.keys = [key(expires_micros=micros_in(89 * DAY_S), last_used_micros=micros_in(-3), label="long " * 12)]
    for name, value in {"TERM": "xterm", "COLUMNS": "80", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    with redirect_stdout(Terminal()) as screen:
        app(["key", "list", "acme"], standalone_mode=False)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue()).splitlines()
    assert max(len(line) for line in lines) <= 80
    assert any("key_xNJXWMyN6tcd" in line and " s ago" in line for line in lines), "only the label is folded"


def test_durations_have_one_unit() -> None:
    assert [duration_s(text) for text in ("45s", "30m", "12h", "90d", "2w", "0", "0h")] == [
        45,
        1800,
        43_200,
        90 * DAY_S,
        14 * DAY_S,
        0,
        0,
    ]
    for text in ("", "d", "1.5h", "1h30m", "١d", "1 d", "+1d", "1D"):
        with pytest.raises(typer.BadParameter, match="must be a duration such as 90d"):
            duration_s(text)


def test_an_end_is_a_duration_or_a_moment_with_or_without_a_zone() -> None:
    assert end_fields("2099-01-31T18:00Z") == {"expires_micros": 4_073_565_600_000_000}
    assert end_fields("2099-01-31T18:00+01:00") == {"expires_micros": 4_073_562_000_000_000}
    local = datetime(2099, 1, 31, 18).timestamp() * 1e6
    assert end_fields("2099-01-31 18:00") == end_fields("2099-01-31T18:00:00") == {"expires_micros": local}
    for text in ("20270131", "2027-W05", "31.01.2027", "2027-01-31T25:00", "2027-01-31x", "tomorrow"):
        with pytest.raises(typer.BadParameter, match="or a date such as 2027-01-31"):
            end_fields(text)
