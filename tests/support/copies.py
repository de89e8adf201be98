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
    """The sources in `root`. Nothing in it is imported by the test's own process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        shutil.copy2(ROOT / "pyproject.toml", root)  # pytest's settings are in it
        for folder in FOLDERS:
            shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))

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
        """The exit code of `python ARGUMENTS` with the copy's modules, and what it printed."""
        environment = {**os.environ, "PYTHONPATH": f"{self.root}:{self.root / 'cli'}", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=self.root, env=environment, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout if done.returncode == 0 else done.stdout + done.stderr


def _files(root: Path) -> list[Path]:
    found = (path for folder in FOLDERS for path in (root / folder).rglob("*"))
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]


def _are_same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and filecmp.cmp(one, other, shallow=False)
