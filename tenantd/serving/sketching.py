"""Sketches the prompts of admitted requests, in the turn of their tenant in the text pool, for whoever watches them."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Sequence
from typing import Final

from tenantd.domain import Sketch, Tenant
from tenantd.errors import TenantdError
from tenantd.events import Events, Sketched
from tenantd.live.generation import Generation
from tenantd.text.pool import TextPool
from tenantd.text.sketches import Sketcher
from tenantd.wire.messages import IMAGE_TOKENS_FROM

MOST_WAITING: Final = 256
"""Prompts of one tenant that wait to be sketched. Those above it are left out."""
JOB_PROMPTS: Final = 32
"""Prompts in one turn, a few milliseconds."""


class Sketching:
    """Without a sketcher it does nothing."""

    def __init__(self, sketcher: Sketcher | None, pool: TextPool, events: Events) -> None:
        self.left_out = 0
        self._sketcher = sketcher
        self._pool = pool
        self._events = events
        self._waiting: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """Prompts that are not sketched yet."""
        return self._waiting.total()

    def begin(self, tenant: Tenant, generations: Sequence[Generation]) -> None:
        """Sketch the prompts some time, and announce each sketch. Returns at once. Texts to embed are no prompts."""
        if self._sketcher is None or tenant.id is None:
            return
        asked = (generation for generation in generations if generation.counts_prompt and not generation.texts)
        own = (_without_images(generation)[generation.hidden_tokens :] for generation in asked)
        prompts = [prompt for prompt in own if prompt]  # a system prompt is not what the tenant asks
        room = max(0, MOST_WAITING - self._waiting[tenant.name])
        if len(prompts) > room:
            self.left_out += len(prompts) - room
            prompts = [prompts[i * len(prompts) // room] for i in range(room)]
        if prompts:
            self._waiting[tenant.name] += len(prompts)
            task = asyncio.create_task(self._sketch(tenant.name, tenant.id, prompts, self._sketcher))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _sketch(self, tenant: str, tenant_id: int, prompts: list[list[int]], sketcher: Sketcher) -> None:
        try:
            for start in range(0, len(prompts), JOB_PROMPTS):
                some = prompts[start : start + JOB_PROMPTS]
                for sketch in await self._pool.run(tenant, functools.partial(_sketches, sketcher, some)):
                    self._events.announce(Sketched(tenant=tenant, tenant_id=tenant_id, sketch=sketch))
        except TenantdError:
            self.left_out += len(prompts)  # the daemon stops, or too much of this tenant's text waits
        finally:
            self._waiting[tenant] -= len(prompts)
            if self._waiting[tenant] <= 0:
                del self._waiting[tenant]

    async def close(self) -> None:
        """Leave out what waits."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _without_images(generation: Generation) -> list[int]:
    """Its prompt. Each image is another, so their tokens would tell nothing of how it asks."""
    if not generation.images:
        return generation.prompt
    return [token for token in generation.prompt if token < IMAGE_TOKENS_FROM]


def _sketches(sketcher: Sketcher, prompts: list[list[int]]) -> list[Sketch]:
    return [sketcher.sketch(prompt) for prompt in prompts]
