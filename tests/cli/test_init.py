from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tenantctl.config_file import config_text
from tenantctl.proposal import CACHE_STEP_BYTES, MOST_CACHE_BYTES, Wishes, cache_bytes, options
from tenantctl.units import size
from tenantd.config import Config, load_config, parse_config
from tenantd.fleet.supervisor import load_command
from tenantd.llamacpp.memory_plan import plan_memory
from tenantd.llamacpp.planned import MemoryPlan
from tests.cli.conftest import Cli
from tests.support.tiny_gguf import write_tiny_gguf, write_tiny_lora

GIB = 1 << 30
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
            assert f"\n{key} = " in text or f"\n# {key} = " in text or f"\n# [[{name}.{key}]]\n" in text
            assert setting.description
            assert " ".join(setting.description.split()) in flat


def test_bounds_and_choices_are_said() -> None:
    text = config_text()
    assert "# Requests that run at the same time (llama.cpp sequences). From 1 to 256.\n" in text
    assert '"auto", "on" or "off".\n' in text


def test_comments_for_what_is_unset_become_settings_without_their_hash() -> None:
    lines = [line.removeprefix("# ") if " = " in line or "[[" in line else line for line in config_text().splitlines()]
    config = parse_config(tomllib.loads("\n".join(lines)), "test")
    assert config.model.path is not None and config.model.path.suffix == ".gguf"
    limits = config.limits.as_limits()
    assert (limits.requests_per_minute, limits.tokens_per_minute, limits.max_queued) == (60, 60_000, 256)


def test_the_model_is_filled_in_as_an_absolute_path(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_tiny_gguf(tmp_path / "a b.gguf", chat_template=None)
    result = cli("init", "--model", "a b.gguf")
    assert load_config(tmp_path / "config.toml").model.path == tmp_path / "a b.gguf"
    assert "a b.gguf: llama 116032, Q8_0, " in result.stderr and "base model" in result.stderr
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
    model = write_tiny_gguf(tmp_path / "\udcff.gguf")
    result = cli("init", "--model", str(model))
    assert result.exit_code == 78
    assert "UTF-8" in result.stderr
    assert not (tmp_path / "config.toml").exists()


def test_what_the_daemon_will_plan_is_proposed_and_said(cli: Cli, tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf", context_length=2048)
    result = cli("init", "--model", str(model))
    assert result.exit_code == 0
    said = " ".join(result.stderr.split())
    assert re.search(r"memory: \d+ MiB of .* free: .* KV cache \(f16\) for 8 slots of 2048 tokens, \d+ MiB work", said)
    assert "engine.kv_type" in said
    assert re.search(r"as needed, up to 1\.0 GiB for paused requests \(.*\): .* of .* in all", said)
    assert "cached prompts" not in said and "warning" not in said
    config = load_config(tmp_path / "config.toml")
    assert (config.engine.slots, config.engine.context_tokens) == (8, 2048)
    plan = plan_memory(load_command(config), model)
    assert f"{size(plan.kv)} KV cache" in said and f"{size(plan.compute)} work space" in said


def test_what_is_chosen_is_kept(cli: Cli, tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf", context_length=2048)
    own = ("--slots", "3", "--context", "700", "--currency", "eur", "--timezone", "Europe/Berlin", "--cache", "on")
    result = cli("init", "--model", str(model), *own)
    config = load_config(tmp_path / "config.toml")
    assert (config.engine.slots, config.engine.context_tokens) == (3, 700)
    assert (config.billing.currency, config.billing.timezone) == ("EUR", "Europe/Berlin")
    assert config.cache.default == "on" and config.cache.host_bytes % CACHE_STEP_BYTES == 0
    said = " ".join(result.stderr.split())
    assert "for 3 slots of 700 tokens (the model can take 2048)" in said and "for cached prompts" in said
    assert "warning" not in said


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (("--currency", "nine long"), "--currency: no currency has the code 'nine long'; give three letters"),
        (("--currency", "euro"), "--currency: no currency has the code 'euro'; did you mean EUR?"),
        (("--currency", "UDS"), "did you mean "),
        (("--timezone", "Mars/Base"), "--timezone: no time zone is called 'Mars/Base'; write it like Europe/Berlin"),
        (("--slots", "0"), "--slots"),
    ],
)
def test_a_wrong_choice_is_refused(cli: Cli, tmp_path: Path, wrong: tuple[str, str], says: str) -> None:
    result = cli("init", *wrong)
    assert result.exit_code == 2 and says in result.stderr
    assert not (tmp_path / "config.toml").exists()


def test_a_context_beyond_what_the_model_can_take_is_a_warning(cli: Cli, tmp_path: Path) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf", context_length=2048)
    result = cli("init", "--model", str(model), "--context", "4096")
    assert result.exit_code == 0 and "warning: engine.context_tokens = 4096 is more than the 2048" in result.stderr


@pytest.mark.parametrize("name", ["none.gguf", "text.gguf", "lora.gguf"])
def test_a_file_that_cannot_be_served_is_refused_and_nothing_written(cli: Cli, tmp_path: Path, name: str) -> None:
    (tmp_path / "text.gguf").write_text("hello")
    write_tiny_lora(tmp_path / "lora.gguf")
    result = cli("init", "--model", str(tmp_path / name))
    assert result.exit_code == 78 and len(result.stderr.splitlines()) == 1
    assert f"{tmp_path / name}: " in result.stderr
    assert not (tmp_path / "config.toml").exists()


def test_models_that_are_near_are_named(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    (tmp_path / "models" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "models")
    write_tiny_gguf(tmp_path / "models" / "deep" / "tiny.gguf")
    (tmp_path / "models" / "link.gguf").symlink_to("deep/tiny.gguf")
    (tmp_path / "models" / "text.gguf").write_text("hello")
    result = cli("init")
    assert result.exit_code == 0
    assert "pass one with --model:\n  ~/models/link.gguf  (llama 116032, Q8_0" in result.stderr
    assert result.stderr.count(".gguf") == 1


def test_the_proposal_prefers_slots_then_context_then_precision() -> None:
    load = load_command(Config())
    tried = options(load, Wishes())
    slots = [(one.load.slots, one.load.kv_type) for one in tried]
    assert slots == [(16, "f16"), (8, "f16"), (4, "f16"), (2, "f16"), (1, "f16"), (1, "q8_0")]
    assert [one.needs_gpu for one in tried] == [True] + [False] * 5
    assert {one.load.slots for one in options(load, Wishes(slots=5))} == {5}
    assert {one.load.context_tokens for one in options(load, Wishes(context_tokens=99))} == {99}


def plan(host_free: int, state: int) -> MemoryPlan:
    return MemoryPlan(
        context_tokens=8192,
        train_context_tokens=8192,
        weights=GIB,
        kv=GIB,
        compute=0,
        free=host_free,
        total=host_free,
        swap=0,
        cache=0,
        host_free=host_free,
        host_total=host_free,
        is_in_host=True,
        state=state,
        short_state=1,
    )


@pytest.mark.parametrize(
    ("free", "state", "cache"),
    [(6 * GIB, 1, 2 * GIB), (3 * GIB, GIB, GIB), (100 * GIB, 1, MOST_CACHE_BYTES), (GIB, 1, CACHE_STEP_BYTES)],
)
def test_a_cache_takes_half_of_what_is_left_and_a_whole_prompt_if_it_can(free: int, state: int, cache: int) -> None:
    assert cache_bytes(plan(free, state)) == cache
