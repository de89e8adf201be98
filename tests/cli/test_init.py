from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tenantctl.config_file import config_text
from tenantd.config import Config, load_config, parse_config
from tests.cli.conftest import Cli
from tests.support.tiny_gguf import write_tiny_gguf

ROOT = Path(__file__).parent.parent.parent


def test_the_example_is_what_init_writes() -> None:
    assert (ROOT / "examples" / "tenantd.toml").read_text("utf-8") == config_text(), (
        "tenantctl init --config examples/tenantd.toml --force"
    )


def test_what_is_written_is_read_back_as_the_defaults(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("init").exit_code == 0
    monkeypatch.delenv("TENANTD_STATE_DIR")
    assert load_config(tmp_path / "config.toml") == Config()


def test_a_cache_is_off_unless_it_is_asked_for(cli: Cli, tmp_path: Path) -> None:
    for arguments, default in ((), "off"), (("--cache", "on", "--force"), "on"), (("--cache", "off", "--force"), "off"):
        assert cli("init", *arguments).exit_code == 0
        assert load_config(tmp_path / "config.toml").cache.default == default
    assert cli("init", "--cache", "perhaps", "--force").exit_code == 2


def test_every_setting_is_there_with_its_description() -> None:
    text = config_text()
    flat = " ".join(text.replace("#", "").split())
    for name, field in Config.model_fields.items():
        assert f"\n[{name}]\n" in text
        section = field.annotation
        for key, setting in section.__pydantic_fields__.items():  # type: ignore[union-attr]
            assert f"\n{key} = " in text or f"\n# {key} = " in text
            assert setting.description
            assert " ".join(setting.description.split()) in flat


def test_bounds_and_choices_are_said() -> None:
    text = config_text()
    assert "# Requests that run at the same time (llama.cpp sequences). From 1 to 256.\n" in text
    assert '"auto", "on" or "off".\n' in text


def test_comments_for_what_is_unset_become_settings_without_their_hash() -> None:
    lines = [line.removeprefix("# ") if " = " in line else line for line in config_text().splitlines()]
    config = parse_config(tomllib.loads("\n".join(lines)), "test")
    assert config.model.path is not None and config.model.path.suffix == ".gguf"
    limits = config.limits.as_limits()
    assert (limits.requests_per_minute, limits.tokens_per_minute, limits.max_queued) == (60, 60_000, 256)


def test_the_model_is_filled_in_as_an_absolute_path(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli("init", "--model", "a b.gguf")
    assert load_config(tmp_path / "config.toml").model.path == tmp_path / "a b.gguf"
    assert "a b.gguf does not exist" in result.stderr
    assert result.stdout == ""


def test_a_file_that_is_there_is_kept(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.toml"
    assert cli("init", "--config", str(path)).exit_code == 0
    path.write_text("# mine")
    result = cli("init", "--config", str(path))
    assert result.exit_code == 1
    assert "--force" in result.stderr
    assert path.read_text() == "# mine"
    assert cli("init", "--config", str(path), "--force").exit_code == 0
    assert path.read_text() == config_text()


def test_a_folder_that_cannot_be_made_is_a_clear_failure(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = cli("init", "--config", str(tmp_path / "file" / "x.toml"))
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr
    assert str(tmp_path / "file") in result.stderr


def test_a_model_path_that_toml_cannot_hold_is_refused(cli: Cli, tmp_path: Path) -> None:
    result = cli("init", "--model", "\udcff.gguf")
    assert result.exit_code == 78
    assert "UTF-8" in result.stderr
    assert not (tmp_path / "config.toml").exists()


def test_what_a_model_will_take_is_said(cli: Cli, tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf", context_length=2048)
    result = cli("init", "--model", str(model))
    assert result.exit_code == 0
    said = " ".join(result.stderr.split())
    assert re.search(r"memory: \d+ MiB of .* free: .* KV cache \(f16\) for 8 slots of 2048 tokens, \d+ MiB work", said)
    assert "engine.kv_type" in said


def test_a_model_that_cannot_be_served_is_a_warning(cli: Cli, tmp_path: Path) -> None:
    model = tmp_path / "text.gguf"
    model.write_text("hello")
    result = cli("init", "--model", str(model))
    assert result.exit_code == 0
    assert "warning:" in result.stderr and "not a GGUF file" in " ".join(result.stderr.split())
