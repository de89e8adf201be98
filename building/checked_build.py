"""The build backend: hatchling's, which first makes sure that pip can install llama.cpp.

pip compiles it only after it has downloaded everything, and without a compiler ends with pages of CMake's output. The
check is made for pip alone: whoever builds only tenantd needs no compiler.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

from hatchling.build import *  # noqa: F403
from hatchling.build import get_requires_for_build_editable as _needed_for_editable
from hatchling.build import get_requires_for_build_wheel as _needed_for_wheel

BY_PIP = "PIP_BUILD_TRACKER"
"""The variable that pip sets while it builds."""
COMPILERS = {"gcc": ("CC", ("cc", "gcc", "clang")), "g++": ("CXX", ("c++", "g++", "clang++"))}
"""What to install, the variable that names another one, and what CMake looks for."""
SHORT_SOURCES = ("-i", "-f")
LONG_SOURCES = ("--index-url", "--extra-index-url", "--find-links", "--trusted-host", "--cert", "--no-index")
"""Options of pip that say where it looks for wheels. The last takes no value."""


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    """As hatchling's; ends the installation if llama.cpp can be neither found nor compiled."""
    _check()
    return _needed_for_wheel(config_settings)


def get_requires_for_build_editable(config_settings: dict[str, Any] | None = None) -> list[str]:
    """As hatchling's; ends the installation if llama.cpp can be neither found nor compiled."""
    _check()
    return _needed_for_editable(config_settings)


def missing() -> list[str]:
    """The compilers that CMake would not find."""
    if "_COMPILER" in os.environ.get("CMAKE_ARGS", ""):
        return []
    return [
        name
        for name, (variable, commands) in COMPILERS.items()
        if not os.environ.get(variable) and not any(map(shutil.which, commands))
    ]


def _check() -> None:
    if BY_PIP not in os.environ or os.name != "posix" or not (lacks := missing()):
        return
    project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
    llama = next(one for one in project["dependencies"] if one.startswith("llama-cpp-python"))
    if not _is_at_hand(llama):
        raise SystemExit(
            f"missing: {' and '.join(lacks)}, to compile llama.cpp (Debian: apt-get install g++); "
            f"or install a wheel of {llama} first"
        )


def _is_at_hand(requirement: str) -> bool:
    """Whether pip has it installed, in its cache, or where it looks for wheels; also if pip cannot be asked.

    The pip that is asked knows the environment and the configuration files; the options, and the folder that they
    start from, are those of the pip that builds. What requirements files name is not known.
    """
    name, _, version = requirement.partition("==")
    outside = {key: value for key, value in os.environ.items() if key not in (BY_PIP, "PYTHONPATH", "PYTHONNOUSERSITE")}
    outside["PIP_BREAK_SYSTEM_PACKAGES"] = "1"  # else Debian's pip refuses to say what it would install
    options, folder = _given()

    def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pip", *arguments]
        return subprocess.run(command, env=outside, cwd=folder, capture_output=True, text=True, check=False)

    if pip("--version").returncode:
        return True
    as_file = name.replace("-", "_")  # with a hyphen, pip would look for a name with a version
    if f"{as_file}-{version}-" in pip("cache", "list", as_file, "--format", "abspath").stdout:
        return True
    wheel = ("install", "--dry-run", "--quiet", "--no-deps", "--only-binary", ":all:")
    return not pip(*wheel, *options, requirement).returncode


def _given() -> tuple[list[str], str | None]:
    """The options in `sources` of pip's command line, and its folder. Nothing where processes cannot be looked at."""
    folder = f"/proc/{os.getppid()}/cwd"
    try:
        line = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode("utf-8", "surrogateescape")
        os.listdir(folder)
        return sources(line.rstrip("\0").split("\0")), folder
    except OSError:
        return [], None


def sources(arguments: list[str]) -> list[str]:
    """Of a command line of pip, the options that say where it looks for wheels."""
    found = []
    for argument, following in pairwise([*arguments, ""]):
        is_long = argument.partition("=")[0] in LONG_SOURCES
        if is_long or argument[:2] in SHORT_SOURCES:
            found.append(argument)
            if argument in (*SHORT_SOURCES, *LONG_SOURCES[:-1]):
                found.append(following)
    return found
