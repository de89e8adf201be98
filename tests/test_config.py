"""The configuration across releases."""

from __future__ import annotations

import logging

import pytest

from tenantd.config import GONE_KEYS, Config, parse_config
from tenantd.errors import ConfigError


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
