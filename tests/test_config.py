"""The configuration across releases."""

from __future__ import annotations

import logging
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tenantd.config import GONE_KEYS, Config, load_config, parse_config
from tenantd.domain import CacheUse
from tenantd.errors import ConfigError
from tenantd.fleet.supervisor import load_command
from tenantd.limits import OnLimit
from tenantd.main import check_cache_fits
from tenantd.reloadable import merge
from tenantd.wire.frames import HEADER_BYTES, decode_inbox, frame
from tenantd.wire.messages import Inbox
from tenantd.wire.settings import Policy, Settings
from tests.support.unreadable import UNREADABLE


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


def test_a_quantised_kv_cache_without_flash_attention_is_an_error_that_says_what_to_change() -> None:
    engine = {"kv_type": "q8_0", "flash_attention": "off"}
    with pytest.raises(
        ConfigError, match=r'config.toml: engine: kv_type = "q8_0" needs flash attention: set .* "auto"'
    ):
        parse_config({"engine": engine}, "config.toml")
    for allowed in ({"kv_type": "f16"}, {"flash_attention": "on"}, {"flash_attention": "auto"}):
        assert load_command(parse_config({"engine": engine | allowed}, "")).kv_type == (engine | allowed)["kv_type"]


def test_the_engine_gets_the_scheduler_settings_as_they_were_written() -> None:
    written = {"half_life_s": 30, "policy": "fifo", "burst_credit": 7.5}
    load = load_command(parse_config({"scheduler": written}, "config.toml"))
    arrived = decode_inbox(frame(Inbox([load]))[HEADER_BYTES:]).commands
    assert arrived == [msgspec.structs.replace(load, settings=Settings(**{**written, "policy": Policy.FIFO}))]


def test_a_cache_without_room_is_refused_only_if_it_is_on_for_all() -> None:
    assert not parse_config({"cache": {"host_bytes": 0}}, "").cache.is_on(CacheUse.ON)
    with pytest.raises(ConfigError, match=r"host_bytes = 0 leaves no room; raise it or set default to"):
        parse_config({"cache": {"host_bytes": 0, "default": "on"}}, "config.toml")
    for default, on in (("on", [True, True, False]), ("off", [False, True, False])):
        cache = parse_config({"cache": {"default": default}}, "").cache
        assert [cache.is_on(use) for use in (CacheUse.DEFAULT, CacheUse.ON, CacheUse.OFF)] == on


@pytest.mark.parametrize(
    ("default", "free", "total", "said"),
    [
        ("on", 90, 99, "cache.host_bytes is 100 B, but the machine has only 99 B of memory; lower it"),
        ("off", 90, 99, "lower it before you turn on the cache of a tenant"),
        ("on", 90, 110, ""),
        ("off", 90, 110, ""),
        ("on", 110, 120, ""),
    ],
)
def test_a_cache_larger_than_memory_is_refused_and_one_that_may_be_is_a_warning(
    default: str, free: int, total: int, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tenantd.main.host_memory", lambda: (free, total))
    config = parse_config({"cache": {"default": default, "host_bytes": 100}}, "")
    is_refused = default == "on" and total < 100
    with pytest.raises(ConfigError, match=re.escape(said)) if is_refused else nullcontext():
        check_cache_fits(config)
    assert is_refused or said in caplog.text
    assert bool(caplog.records) == (bool(said) and not is_refused)


def test_what_the_cache_may_take_needs_a_restart_and_for_whom_it_is_does_not() -> None:
    found = parse_config({"cache": {"default": "on", "host_bytes": 5, "checkpoint_tokens": 64}}, "")
    after, ignored = merge(Config(), found)
    assert after == parse_config({"cache": {"default": "on"}}, "")
    assert ignored == ["cache.host_bytes", "cache.checkpoint_tokens"]
    load = load_command(found)
    assert (load.cache_bytes, load.checkpoint_tokens) == (5, 64)


def test_a_reload_takes_what_may_change_and_names_what_may_not() -> None:
    before = Config()
    found = parse_config({"scheduler": {"half_life_s": 5}, "limits": {"max_queued": 3}, "engine": {"slots": 2}}, "")
    after, ignored = merge(before, found)
    assert after == parse_config({"limits": {"max_queued": 3}}, "")
    assert ignored == ["engine.slots", "scheduler.half_life_s"]


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE)
def test_a_file_that_the_parser_cannot_take_is_an_error_that_names_file_and_key(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(file))}: .*line \d+\): ") as caught:
        load_config(file)
    if "[\n" not in text:
        assert "max_queued (line 4)" in caught.value.message


def test_a_number_too_long_to_print_is_out_of_bounds_like_any_other(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f"[engine]\nslots = 0x{'f' * 5000}\n")
    with pytest.raises(ConfigError, match=r"engine\.slots = \.\.\.: must be at most 256"):
        load_config(file)


@pytest.mark.parametrize(
    ("table", "key", "value", "reason"),
    [
        ("limits", "max_queued", True, "must be a whole number"),
        ("limits", "max_queued", "5", "must be a whole number"),
        ("limits", "max_queued", 1.0, "must be a whole number"),
        ("limits", "default_max_tokens", "5", "must be a whole number"),
        ("scheduler", "half_life_s", True, "must be a number"),
        ("scheduler", "min_run_tokens", 1.0, "must be a whole number"),
        ("server", "lenient", 1, "must be true or false"),
        ("server", "head_timeout_s", "5", "must be a number"),
        ("server", "socket", "/tmp/a\0b", "must not contain a NUL character"),
        ("server", "socket", 5, "must be a string"),
        ("server", "socket_group", "\0", "must not contain control characters"),
        ("ledger", "state_dir", "\0", "must not contain a NUL character"),
        ("model", "path", "\0", "must not contain a NUL character"),
        ("billing", "currency", "\0", "must not contain control characters"),
        ("billing", "engine_hour_price", "\u0665", "must be a number"),
        ("billing", "engine_hour_price", "1_0", "must be a number"),
        ("billing", "engine_hour_price", True, "must be a number"),
        ("billing", "engine_hour_price", float("nan"), "must be a finite number"),
    ],
)
def test_a_value_is_not_converted(table: str, key: str, value: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"config.toml: {table}.{key} = .*: {reason}$"):
        parse_config({table: {key: value}}, "config.toml")


def test_what_toml_has_no_type_for_is_written_as_a_string() -> None:
    config = parse_config(
        {
            "server": {"socket": "/run/a"},
            "scheduler": {"policy": "fifo", "half_life_s": 30},
            "limits": {"on_limit": "queue"},
            "billing": {"input_price_per_million": 0.15, "output_price_per_million": "1e-3", "engine_hour_price": 2},
        },
        "config.toml",
    )
    assert (config.socket, config.scheduler.policy) == (Path("/run/a"), Policy.FIFO)
    assert (config.scheduler.half_life_s, config.limits.on_limit) == (30, OnLimit.QUEUE)
    prices = config.billing.model_dump(include={name for name in type(config.billing).model_fields if "price" in name})
    assert [str(price) for price in prices.values()] == ["0.15", "0.001", "2"]
