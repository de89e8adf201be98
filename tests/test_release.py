"""What is shipped: the image gets the files that the installation needs, and the wheel has all modules."""

from __future__ import annotations

import fnmatch
import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tenantd import __version__

ROOT = Path(__file__).parent.parent
CONTAINERFILE = (ROOT / "Containerfile").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_the_image_copies_what_it_installs() -> None:
    ignore = (ROOT / ".dockerignore").read_text("utf-8").split()
    kept = [line.removeprefix("!").rstrip("/") for line in ignore if line.startswith("!")]
    copied = [name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", CONTAINERFILE, re.M) for name in line.split()]
    for name in copied:
        assert (ROOT / name).exists() and any(fnmatch.fnmatch(name, each) for each in kept), name
    built = [PROJECT["project"]["readme"], "pyproject.toml", "LICENSE", *PROJECT["build-system"]["backend-path"]]
    built += [package.split("/")[0] for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]
    assert set(built) <= set(copied)


def test_each_stage_of_the_image_exists_for_each_gpu() -> None:
    stages = re.findall(r"^FROM \S+ AS (\S+)$", CONTAINERFILE, re.M)
    for gpu in ("none", "cuda"):
        assert {f"build-{gpu}", f"run-{gpu}"} <= set(stages)
    assert re.search(r'^ENTRYPOINT \["tenantd"\]$', CONTAINERFILE, re.M) and "tenantd" in PROJECT["project"]["scripts"]


def test_the_version_is_that_of_a_release() -> None:
    assert re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", __version__)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The build backend, as pip calls it on a machine without compilers. hatchling stands beside it."""
    hatchling: Any = ModuleType("hatchling.build")
    hatchling.get_requires_for_build_wheel = hatchling.get_requires_for_build_editable = lambda _: ["needed"]
    monkeypatch.setitem(sys.modules, "hatchling", ModuleType("hatchling"))
    monkeypatch.setitem(sys.modules, "hatchling.build", hatchling)
    name = PROJECT["build-system"]["build-backend"]
    spec = importlib.util.spec_from_file_location(name, ROOT / "building" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PIP_BUILD_TRACKER", "somewhere")
    for variable in ("CC", "CXX", "CMAKE_ARGS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", "")
    return module


def pip_that(*, lists: str = "", finds: bool = False) -> Any:
    """Stands for subprocess.run: a pip with these wheels in its cache, and with or without one elsewhere."""

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if "install" in command:
            return subprocess.CompletedProcess(command, 0 if finds else 1, "")
        return subprocess.CompletedProcess(command, 0, lists if "llama_cpp_python" in command else "")

    return run


def test_pip_without_a_compiler_ends_in_one_line(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    version = re.search(r"llama-cpp-python==([\d.]+)", str(PROJECT["project"]["dependencies"]))
    assert version is not None
    monkeypatch.setattr(subprocess, "run", pip_that(lists="/wheels/llama_cpp_python-0.0.1-py3-none-any.whl"))
    for build in (backend.get_requires_for_build_wheel, backend.get_requires_for_build_editable):
        with pytest.raises(SystemExit) as ended:
            build()
        assert re.fullmatch(r"missing: gcc and g\+\+, .*apt-get install g\+\+.*", str(ended.value))
        assert str(ended.value).endswith(f"{version[0]} first")
    monkeypatch.setenv("CC", "clang-19")
    with pytest.raises(SystemExit, match=r"missing: g\+\+, to compile"):
        backend.get_requires_for_build_wheel()


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("python -m pip install .", ""),
        ("pip install -i URL --extra-index-url=OTHER . --upgrade", "-i URL --extra-index-url=OTHER"),
        ("pip install --no-index --find-links wheels -e .[dev]", "--no-index --find-links wheels"),
        ("pip install -fwheels --trusted-host host --index-url URL .", "-fwheels --trusted-host host --index-url URL"),
    ],
)
def test_wheels_are_sought_where_the_command_line_of_pip_says(backend: Any, line: str, wanted: str) -> None:
    assert backend.sources(line.split()) == wanted.split()


PARENT = """import subprocess, sys
ask = "import checked_build; print(checked_build._is_at_hand('sought==1'))"
subprocess.run([sys.executable, "-c", ask], check=True)
"""
METADATA = {
    "METADATA": "Metadata-Version: 2.1\nName: sought\nVersion: 1\n",
    "WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "RECORD": "",
}


def test_pip_is_asked_as_the_one_that_builds_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / "sought-1-py3-none-any.whl", "w") as wheel:
        for name, text in METADATA.items():
            wheel.writestr(f"sought-1.dist-info/{name}", text)
    hatchling = tmp_path / "instead" / "hatchling"
    hatchling.mkdir(parents=True)
    (hatchling / "__init__.py").touch()
    (hatchling / "build.py").write_text("get_requires_for_build_wheel = get_requires_for_build_editable = None\n")
    (tmp_path / "parent.py").write_text(PARENT)
    monkeypatch.setenv("PYTHONPATH", f"{hatchling.parent}:{ROOT / 'building'}")
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "cache"))
    for options, found in ((["--no-index"], "False"), (["--no-index", "--find-links", "wheels"], "True")):
        command = [sys.executable, "parent.py", *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == found, done.stderr


def test_no_compiler_is_needed_for_what_is_not_compiled(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    version = PROJECT["project"]["dependencies"][0].partition("==")[2]
    for pip in (pip_that(lists=f"/w/llama_cpp_python-{version}-py3-none-any.whl"), pip_that(finds=True)):
        monkeypatch.setattr(subprocess, "run", pip)
        assert backend.get_requires_for_build_wheel() == ["needed"]
    monkeypatch.setattr(subprocess, "run", pip_that())
    monkeypatch.delenv("PIP_BUILD_TRACKER")
    assert backend.get_requires_for_build_wheel() == ["needed"], "who builds a wheel of tenantd compiles nothing"
    monkeypatch.setenv("PIP_BUILD_TRACKER", "somewhere")
    monkeypatch.setenv("CMAKE_ARGS", "-DCMAKE_CXX_COMPILER=/opt/c++")
    assert backend.get_requires_for_build_wheel() == ["needed"]
