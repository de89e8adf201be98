"""A supervisor over a scripted engine, with a client that has one request."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from tenantd.domain import Sampling
from tenantd.events import Loss
from tenantd.fleet.process import Ending
from tenantd.fleet.supervisor import Supervisor, load_command
from tenantd.wire.messages import Checked, Checking, Command, SetSampling, Step, Submit, TenantPolicy
from tests.fleet.scripted_engine import token_at
from tests.serving.daemon_kit import config, is_gone, scripted


class Client:
    """Has one request that generates up to `max_tokens`, and remembers everything it is told."""

    def __init__(self, prompt: list[int], max_tokens: int = 10) -> None:
        self.prompt = prompt
        self.max_tokens = max_tokens
        self.tokens: list[int] = []
        self.crashes: list[str] = []
        self.losses: list[Loss] = []
        self.given_up: list[str] = []
        self.is_finished = False
        self.steps = 0

    @property
    def has_live(self) -> bool:
        return bool(self.prompt) and not self.is_finished and not self.given_up

    def on_ready(self) -> list[Command]:
        if not self.has_live:
            return []
        return [
            TenantPolicy(tenant="acme", weight=2.0, max_concurrent=3),
            SetSampling(1, Sampling()),
            Submit(
                request=1,
                tenant="acme",
                prompt=self.prompt,
                generated=list(self.tokens),
                max_tokens=self.max_tokens,
                sampling=1,
                billed_prompt_tokens=len(self.prompt) if self.tokens else 0,
            ),
        ]

    def on_room(self) -> None:
        pass

    def on_step(self, step: Step) -> None:
        self.steps += 1
        self.tokens += [p.token for p in step.progress]
        self.is_finished = self.is_finished or bool(step.finishes)

    def on_check(self, message: Checking | Checked) -> None:
        pass

    def on_crash(self, ending: Ending) -> bool:
        self.crashes.append(ending.explained)
        self.losses.append(ending.loss)
        return False

    def on_given_up(self, reason: str) -> None:
        self.given_up.append(reason)


class Scene:
    """A supervisor with a client, stopped on the way out; no process is left."""

    def __init__(self, folder: Path, *script: dict[str, Any], prompt: list[int] | None = None, **engine: Any) -> None:
        self.client = Client([1, 2, 3] if prompt is None else prompt)
        settings = config(**engine)
        self.supervisor = Supervisor(
            load_command(settings),
            settings.engine,
            self.client,
            command=scripted(folder, *script),
            environment={k: v for k, v in os.environ.items() if k in ("PATH", "PYTHONPATH")} | {"MARK": "original"},
            slowest_restart_s=0.05,
            clock_s=self.clock_s,
        )
        self.looks = 0
        self.jump_s = 0.0
        self.pids: set[int] = set()

    def clock_s(self) -> float:
        """The supervisor's: it can be made to jump, and counts how often it is looked at."""
        self.looks += 1
        return time.monotonic() + self.jump_s

    async def __aenter__(self) -> Scene:
        self.supervisor.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.supervisor.pid is not None:
            self.pids.add(self.supervisor.pid)
        await self.supervisor.stop()
        assert all(is_gone(pid) for pid in self.pids), "no process outlives its supervisor"
        assert self.supervisor.pid is None

    def expected(self) -> list[int]:
        return [token_at(self.client.prompt, i) for i in range(self.client.max_tokens)]
