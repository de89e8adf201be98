"""The configuration across releases."""

from __future__ import annotations

import logging
import re

import msgspec
import pytest

from tenantd.config import GONE_KEYS, Config, parse_config
from tenantd.errors import ConfigError
from tenantd.fleet.supervisor import load_command
from tenantd.lifecycle import merge
from tenantd.wire.frames import HEADER_BYTES, decode_inbox, frame
from tenantd.wire.messages import Inbox
from tenantd.wire.settings import Policy, Settings


@pytest.mark.parametrize(("table", "key"), GONE_KEYS)
def test_a_key_of_the_last_release_is_a_warning_that_says_what_there_is_instead(
    table: str, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        config = parse_config({table: {key: 5, "slots": 3}}, "config.toml")
    assert config == Config.model_validate({table: {"slots": 3}})
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"config.toml: {table}.{key}" in record.message and GONE_KEYS[table, key] in record.message


def test_a_key_that_never_was_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"engine.grammar_timeouts: unknown key"):
        parse_config({"engine": {"grammar_timeouts": 5}}, "config.toml")


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"half_life": 5}, "scheduler.half_life: unknown key"),
        ({"half_life_s": 0}, "scheduler.half_life_s = 0: must be more than 0"),
        ({"policy": "random"}, "scheduler.policy = 'random': must be 'usage' or 'fifo'"),
        ({"min_run_tokens": 1.5}, "scheduler.min_run_tokens = 1.5: must be a whole number"),
        (5, "scheduler = 5: must be a table"),
    ],
)
def test_a_bad_setting_of_the_scheduler_is_an_error_that_names_its_key(table: object, reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"config.toml: {reason}")):
        parse_config({"scheduler": table}, "config.toml")


def test_the_engine_gets_the_scheduler_settings_as_they_were_written() -> None:
    written = {"half_life_s": 30, "policy": "fifo", "burst_credit": 7.5}
    load = load_command(parse_config({"scheduler": written}, "config.toml"))
    arrived = decode_inbox(frame(Inbox([load]))[HEADER_BYTES:]).commands
    assert arrived == [msgspec.structs.replace(load, settings=Settings(**{**written, "policy": Policy.FIFO}))]


def test_a_reload_takes_what_may_change_and_names_what_may_not() -> None:
    before = Config()
    found = parse_config({"scheduler": {"half_life_s": 5}, "limits": {"max_queued": 3}, "engine": {"slots": 2}}, "")
    after, ignored = merge(before, found)
    assert after == parse_config({"limits": {"max_queued": 3}}, "")
    assert ignored == ["engine.slots", "scheduler.half_life_s"]
