"""One daemon with the real model for the whole folder: loading takes seconds, and so does every hundred tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.daemon import Daemon, wait_until
from tests.support.models import gemma_path

CONTEXT_TOKENS = 512
SLOTS = 8


@pytest.fixture(scope="session")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    engine = {"backend": "llama", "slots": SLOTS, "context_tokens": CONTEXT_TOKENS}
    with Daemon(tmp_path_factory.mktemp("gemma"), engine=engine, model={"path": str(gemma_path())}) as running:
        running.add_tenant("acme")
        yield running
        assert running.stop() == 0
        assert "Traceback" not in running.log.read_text()


@pytest.fixture
def ask(daemon: Daemon) -> Ask:
    return Ask(daemon)


class Ask:
    """Completions of acme, greedy unless said otherwise."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def whole(self, prompt: Any, **body: Any) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        answer = self._daemon.complete("acme", prompt, **{"temperature": 0, **body})
        assert answer.status_code == 200, answer.text
        whole: dict[str, Any] = answer.json()
        return whole

    def choice(self, prompt: Any, **body: Any) -> dict[str, Any]:
        """The one choice of it."""
        (choice,) = self.whole(prompt, **body)["choices"]
        return dict(choice)

    def text(self, prompt: Any, **body: Any) -> str:
        """The text of the one choice."""
        return str(self.choice(prompt, **body)["text"])


def idle_status(daemon: Daemon) -> dict[str, Any]:
    """Status once nothing is live; fails when something stays."""

    def idle() -> dict[str, Any] | None:
        status = daemon.status()
        return status if status["running"] == status["waiting"] == 0 else None

    status: dict[str, Any] = wait_until(idle, "an idle engine")
    return status


def check_engine_time(daemon: Daemon) -> None:
    """All engine time is somebody's, or unbilled: to the microsecond."""
    status = idle_status(daemon)
    billed = sum(row["engine_micros"] for row in daemon.rows())
    assert billed + status["engine_unbilled_micros"] == status["engine_busy_micros"] > 0
