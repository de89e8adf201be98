"""aider, asked once without its editor."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from given import REAL, passed

QUIET = (
    "--no-git",
    "--yes-always",
    "--no-show-model-warnings",
    "--no-check-update",
    "--analytics-disable",
    "--no-pretty",
)


def aider(folder: str, *arguments: str, key: str = REAL.key) -> str:
    """What it prints."""
    server = ("--model", f"openai/{REAL.model}", "--openai-api-base", REAL.api, "--openai-api-key", key)
    asked = ("--edit-format", "ask", "--message", "What does this file say? Answer in one sentence.", "notes.txt")
    done = subprocess.run(
        [Path(sys.executable).with_name("aider"), *server, *QUIET, *arguments, *asked],
        cwd=folder,
        env={**os.environ, "HOME": folder},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    return done.stdout + done.stderr


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "notes.txt").write_text("The sea is blue.\n")
        for name, option in (("chat", "--no-stream"), ("stream", "--stream")):
            said = aider(folder, option)
            assert "Tokens: " in said and " received" in said, said
            passed(name)
        said = aider(folder, key="wrong")
        assert "AuthenticationError" in said, said
        passed("wrong key")


if __name__ == "__main__":
    main()
