"""A copy of the sources, to change in a test and to run."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent.parent
FOLDERS: Final = ("tenantd", "cli", "examples", "docs", "completions", "tests")


class Copy:
    """The sources in `root`. Nothing in it is imported by the test's own process.

    `is_compiled`: with what Python has compiled of them so far, for a quick start. Files keep their times in the copy,
    so what is edited there is compiled anew.
    """

    def __init__(self, root: Path, *, is_compiled: bool = False) -> None:
        self.root = root
        root.mkdir()
        shutil.copy2(ROOT / "pyproject.toml", root)  # pytest's settings are in it
        for folder in FOLDERS:
            left_out = shutil.ignore_patterns(*(() if is_compiled else ("__pycache__",)))
            shutil.copytree(ROOT / folder, root / folder, ignore=left_out)

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace the one place in a file that has `old`."""
        text = (self.root / path).read_text("utf-8")
        assert text.count(old) == 1, f"{path} has {old!r} {text.count(old)} times"
        (self.root / path).write_text(text.replace(old, new), "utf-8")

    def changed(self) -> list[str]:
        """Files that differ from the original, are new, or are gone."""
        names = {str(path.relative_to(root)) for root in (ROOT, self.root) for path in _files(root)}
        return sorted(name for name in names if not _are_same(ROOT / name, self.root / name))

    def run(self, *arguments: str) -> str:
        """What `python ARGUMENTS` prints with the copy's modules. Fails unless it exits with 0."""
        code, printed = self.outcome(*arguments)
        assert code == 0, printed
        return printed

    def outcome(self, *arguments: str) -> tuple[int, str]:
        """The exit code of `python ARGUMENTS` with the copy's modules, and what it printed. Settings of this run
        (TENANTD_…) do not count in it."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TENANTD_")}
        own = {"PYTHONPATH": f"{self.root}:{self.root / 'cli'}", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.root,
            env={**inherited, **own},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout if done.returncode == 0 else done.stdout + done.stderr


def _files(root: Path) -> list[Path]:
    found = (path for folder in FOLDERS for path in (root / folder).rglob("*"))
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]


def _are_same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and filecmp.cmp(one, other, shallow=False)
