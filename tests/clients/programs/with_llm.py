"""The command line `llm`: prompts, a tool, a schema, and its own second try when it is at its limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from given import ANSWER, BUSY, QUESTION, REAL, SCRIPTED, WEATHER_QUESTION, Server, passed

SCHEMA = {"type": "object", "properties": {"is_coastal": {"type": "boolean"}}, "required": ["is_coastal"]}
TOOL = '''
def get_weather(city: str) -> str:
    """The weather in a city."""
    return "sunny"
'''


def llm(server: Server, *arguments: str, key: str = "", **options: str) -> subprocess.CompletedProcess[str]:
    given = [part for name, value in {"max_tokens": "40", **options}.items() for part in ("-o", name, value)]
    return subprocess.run(
        [Path(sys.executable).with_name("llm"), "-m", server.model, "--key", key or server.key, *given, *arguments],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LLM_USER_PATH"] = folder
        models = [
            {
                "model_id": server.model,
                "model_name": server.model,
                "api_base": server.api,
                "api_key_name": "tenantd",  # without one, no key is sent
                "supports_tools": True,
                "supports_schema": True,
            }
            for server in (REAL, SCRIPTED)
        ]
        Path(folder, "extra-openai-models.yaml").write_text(json.dumps(models))  # JSON is YAML
        check()


def check() -> None:
    whole = llm(REAL, "--no-stream", QUESTION, temperature="0")
    assert whole.returncode == 0 and whole.stdout.strip(), whole.stderr
    passed("chat")

    assert llm(REAL, "--usage", QUESTION, temperature="0").stdout == whole.stdout
    passed("stream")

    for stream, name in ((["--no-stream"], "tools"), ([], "streamed tools")):
        done = llm(SCRIPTED, *stream, "--functions", TOOL, "--tools-debug", WEATHER_QUESTION)
        assert done.stdout.strip() == ANSWER and "get_weather" in done.stderr, done.stderr
        passed(name)

    shaped = llm(REAL, "--schema", json.dumps(SCHEMA), "Describe Paris as JSON.", temperature="0", max_tokens="200")
    assert isinstance(json.loads(shaped.stdout)["is_coastal"], bool), shaped.stderr
    passed("schema")

    assert "API key" in llm(REAL, QUESTION, key="wrong").stderr
    passed("wrong key")

    for _ in range(2):
        assert llm(BUSY, QUESTION).returncode == 0
    passed("waits")


if __name__ == "__main__":
    main()
