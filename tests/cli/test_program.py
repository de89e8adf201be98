from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from tenantctl.main import app
from tenantctl.shells.tree import Command, command_tree
from tenantd import __version__
from tests.cli.conftest import Cli, Program, command
from tests.cli.fake_daemon import FakeDaemon

ROOT = Path(__file__).parent.parent.parent
TREE = command_tree(get_command(app))
COMMANDS = [c for c in TREE.walk() if not c.commands or not c.path]
HEAVY = ("httpx", "llama_cpp", "starlette", "uvicorn", "numpy", "msgspec", "tenantd.config", "tenantd.main")


def loaded_by(statement: str) -> set[str]:
    """Modules in memory after a statement, in a process of its own."""
    code = f"import sys, json\ntry:\n    {statement}\nexcept SystemExit: pass\n"
    code += "print(json.dumps(list(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=300, check=True)
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["completion", "bash"]], ids=" ".join)
def test_asking_for_help_loads_nothing_heavy(arguments: list[str]) -> None:
    modules = loaded_by(f"from tenantctl.main import app; app({arguments!r})")
    assert not modules & set(HEAVY)
    assert "tenantctl.commands.run" in modules


@pytest.mark.parametrize("arguments", [[], ["--version"], ["stauts"], ["run", "--max-tokens", "x"]], ids=" ".join)
def test_little_is_loaded_for_little(arguments: list[str]) -> None:
    modules = loaded_by(f"from tenantctl.main import app; app({arguments!r})")
    assert not modules & {*HEAVY, "pydantic", "rich", "tenantctl.commands.tenant"}


def test_the_program_alone_says_how_to_begin_on_a_small_screen(cli: Cli) -> None:
    result = cli()
    lines = result.stdout.splitlines()
    assert (result.exit_code, result.stderr) == (2, "")
    assert len(lines) <= 24 and max(map(len, lines)) < 80
    for found in TREE.commands:
        assert found.path[0] in result.stdout.split()
    assert "_tenants" not in result.stdout


@pytest.mark.parametrize("path", [c.path for c in TREE.walk()], ids=" ".join)
def test_help_has_no_names_of_types(cli: Cli, path: tuple[str, ...]) -> None:
    help = cli(*path, "--help", env={"COLUMNS": "100", "TERMINAL_WIDTH": "100"}).stdout
    assert not re.search("<[a-z]+>|BOOLEAN|INTEGER|FLOAT|TEXT]", help)


def test_a_daemon_that_does_not_run_is_found_out_soon(tmp_path: Path) -> None:
    modules = loaded_by(f"from tenantctl.main import app; app(['--socket', {str(tmp_path / 's')!r}, 'status'])")
    assert not modules & {"httpx", "pydantic", "llama_cpp", "starlette", "tenantd.config"}, "nothing listens there"


def test_talking_to_the_daemon_loads_little(daemon: FakeDaemon) -> None:
    modules = loaded_by("from tenantctl.main import app; app(['tenant', 'list'])")
    assert "httpx" in modules
    assert not modules & {"pydantic", "llama_cpp", "starlette", "tenantd.config"}


def test_names_of_tenants_are_listed_with_the_standard_library_alone(daemon: FakeDaemon) -> None:
    daemon.add("acme")
    modules = loaded_by("import sys; sys.argv[1:] = ['_tenants']; from tenantctl.__main__ import main; main()")
    assert "tenantctl.completing" in modules
    assert not modules & {"typer", "httpx", "rich", "pydantic"}
    done = subprocess.run([sys.executable, "-m", "tenantctl", "_tenants"], capture_output=True, timeout=300, check=True)
    assert done.stdout == b"acme\n"


def test_the_version_is_the_packages(cli: Cli) -> None:
    assert cli("--version").stdout == f"tenantctl {__version__}\n"
    done = subprocess.run(
        [sys.executable, "-m", "tenantctl", "--version"], capture_output=True, timeout=300, check=True
    )
    assert done.stdout.decode() == f"tenantctl {__version__}\n"


@pytest.mark.parametrize("found", COMMANDS, ids=lambda c: " ".join(c.path) or "tenantctl")
def test_every_command_explains_itself_with_examples(cli: Cli, found: Command) -> None:
    result = cli(*found.path, "--help", env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})
    assert result.exit_code == 0
    assert found.help
    assert "Examples:" in result.stdout
    assert "tenantctl " + " ".join(found.path) in result.stdout.partition("Examples:")[2]
    for option in found.options:
        assert option.help, option.names


@pytest.mark.parametrize(
    "arguments",
    [["tenants"], ["status", "--nonsense"], ["tenant", "add"], ["completion", "tcsh"], ["invoice", "--tenant"]],
    ids=" ".join,
)
def test_a_mistake_in_usage_ends_with_2(cli: Cli, arguments: list[str]) -> None:
    result = cli(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""


def test_a_reader_that_stops_reading_ends_the_program_quietly(daemon: FakeDaemon) -> None:
    program = subprocess.Popen(command("run", "--raw", "endless"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert program.stdout is not None and program.stderr is not None
    with program.stdout, program.stderr:
        assert program.stdout.readline() == b"line\n"
        program.stdout.close()
        assert program.stderr.read() == b""
        assert program.wait(120) == 141
    assert daemon.disconnected.wait(120)


def test_a_full_disk_behind_standard_output_is_a_clear_failure(daemon: FakeDaemon) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command("tenant", "list"), stdout=full, stderr=subprocess.PIPE, timeout=300, check=False)
    assert done.returncode == 1
    assert b"No space left" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_locale_without_unicode_is_no_failure(daemon: FakeDaemon, program: Program) -> None:
    done = program("run", "Hi", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert done.stdout == b" Hello, w?rld\n"


def test_serve_passes_on_the_daemons_exit_code(program: Program, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[server]\nsokcet = 1\n")
    done = program("serve", "--config", str(tmp_path / "bad.toml"))
    assert done.returncode == 78
    assert b"sokcet" in done.stderr


def test_no_message_advises_to_install_a_package_that_no_index_has() -> None:
    sources = [path.read_text("utf-8") for folder in ("tenantd", "cli") for path in (ROOT / folder).rglob("*.py")]
    assert not [line for text in sources for line in text.splitlines() if re.search(r"install\b.*\btenantd\[", line)]
    assert any("pip install '.[bench]'" in text for text in sources)
