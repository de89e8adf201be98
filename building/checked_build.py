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
from pathlib import Path
from typing import Any

from hatchling.build import *  # noqa: F403
from hatchling.build import get_requires_for_build_editable as _needed_for_editable
from hatchling.build import get_requires_for_build_wheel as _needed_for_wheel

BY_PIP = "PIP_BUILD_TRACKER"
"""The variable that pip sets while it builds."""
COMPILERS = {"gcc": ("CC", ("cc", "gcc", "clang")), "g++": ("CXX", ("c++", "g++", "clang++"))}
"""What to install, the variable that names another one, and what CMake looks for."""


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
    """Whether pip has it installed, in its cache, or where it looks for wheels; also if pip cannot be asked."""
    name, _, version = requirement.partition("==")
    outside = {key: value for key, value in os.environ.items() if key not in (BY_PIP, "PYTHONPATH", "PYTHONNOUSERSITE")}

    def pip(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pip", *arguments]
        return subprocess.run(command, env=outside, capture_output=True, text=True, check=False)

    if pip("--version").returncode:
        return True
    as_file = name.replace("-", "_")  # with a hyphen, pip would look for a name with a version
    if f"{as_file}-{version}-" in pip("cache", "list", as_file, "--format", "abspath").stdout:
        return True
    wheel = ("install", "--dry-run", "--quiet", "--no-deps", "--only-binary", ":all:", requirement)
    return not pip(*wheel).returncode
