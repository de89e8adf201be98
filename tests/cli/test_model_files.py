from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Cli
from tests.support.tiny_gguf import write_tiny_gguf, write_tiny_lora
from tests.support.tiny_projector import write_tiny_projector


def test_models_are_listed_and_other_files_named_with_the_reason(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    (folder / "deep").mkdir(parents=True)
    whole = write_tiny_gguf(folder / "deep" / "tiny.gguf", context_length=1024).read_bytes()
    (folder / "cut.gguf").write_bytes(whole[:-1])
    (folder / "text.gguf").write_text("\x1b[31m")
    (folder / "folder.gguf").mkdir()
    write_tiny_lora(folder / "lora.gguf")
    result = cli("model", "list", str(folder))
    assert result.exit_code == 0
    header, *rows = result.stdout.splitlines()
    assert header.split() == ["file", "arch", "params", "quant", "size", "context", "chat", "slots", "×", "context"]
    assert [row.split()[0] for row in rows] == ["cut.gguf", "deep/tiny.gguf"]
    assert "cannot be served" in rows[0] and rows[1].endswith("8 × 1024")
    reasons = {line.partition(": ")[0]: line.partition(": ")[2] for line in result.stderr.splitlines()}
    assert "incomplete" in reasons["cut.gguf"] and "adapter" in reasons["lora.gguf"]
    assert "not a GGUF file" in reasons["text.gguf"] and "\x1b" not in result.stderr

    told = json.loads(cli("model", "list", str(folder), "--json").stdout)
    cut, tiny = told["models"]
    assert tiny["proposal"] | {"needed_bytes": 0, "free_bytes": 0} == {
        "slots": 8,
        "context_tokens": 1024,
        "kv_type": "f16",
        "needed_bytes": 0,
        "free_bytes": 0,
    }
    assert (tiny["fits"], tiny["chat_template"], cut["fits"]) == (True, True, False)
    assert [Path(one["path"]).name for one in told["unfit"]] == ["lora.gguf", "text.gguf"]


def test_one_file_is_described(cli: Cli, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf", context_length=1024, chat_template=None)
    result = cli("model", "info", str(path))
    assert result.exit_code == 0
    fields = dict(line.split(maxsplit=1) for line in result.stdout.splitlines() if not line.startswith("chat"))
    assert (fields["architecture"], fields["context"], fields["proposal"]) == (
        "llama",
        "1024 tokens",
        "8 slots of 1024 tokens",
    )
    assert "chat template  no" in result.stdout and "memory: " in result.stderr
    lora = cli("model", "info", str(write_tiny_lora(tmp_path / "lora.gguf")))
    assert "adapter" in lora.stdout and "cannot be served here: is an adapter" in lora.stderr
    projector = cli("model", "info", str(write_tiny_projector(tmp_path / "mmproj.gguf")))
    assert "gemma3, sees 32 × 32 pixels" in projector.stdout and "set model.projector to it" in projector.stderr


def test_what_is_not_there_is_said(cli: Cli, tmp_path: Path) -> None:
    assert "is not a folder" in cli("model", "list", str(tmp_path / "none")).stderr
    assert f"no models in {tmp_path}" in cli("model", "list", str(tmp_path)).stderr
    missing = cli("model", "info", str(tmp_path / "none.gguf"))
    assert missing.exit_code == 78 and missing.stderr.count("\n") == 1
