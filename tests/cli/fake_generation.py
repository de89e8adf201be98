"""The inference routes of the fake daemon."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from tenantd import errors

if TYPE_CHECKING:
    from tests.cli.fake_daemon import FakeDaemon


PIECES = {"separators": ["a\u2028b\x85c", "d"], "escape": ["\x1b[31mred"], "nothing": []}
MARKDOWN = """\
# Ledgers

A **ledger** is a *book* of `entries`. See [more](https://example.org/x).

1. It adds up.

2. It is never rewritten:
   - not even once
   - or twice

```python
def add(entries: list[int]) -> int:

    return sum(entries)  # exact
```

| entry | amount |
|-------|-------:|
| rent  | 12.50  |

That is all.
"""


def queued(request_id: str, client_id: str) -> dict[str, Any]:
    """An entry of the queue, third in it."""
    entry = {"id": request_id, "client_request_id": client_id, "tenant": "acme"}
    waits = {"estimated_wait_ms": 12_345, "estimated_wait_low_ms": 8_200, "estimated_wait_high_ms": 19_500}
    return {**entry, "position": 3, "waited_ms": 1500, **waits}


class Generation:
    """An inference route. The last word of the prompt says what happens."""

    def __init__(self, daemon: FakeDaemon, kind: str) -> None:
        self._daemon = daemon
        self._kind = kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = json.loads(await request.body())
        self._daemon.seen.append(("POST", scope["path"], dict(request.headers), body))
        prompt = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
        word = prompt.split()[-1] if prompt.split() else ""
        if word == "anonymous":
            said = "which tenant? send an API key or the header X-Tenant"
            which = errors.InvalidRequest(said, param="x-tenant")
            await JSONResponse(which.body(), 400)(scope, receive, send)
            return
        if word == "much" and len(body["messages"]) > 1:
            too_long = errors.ContextLengthExceeded.of(101, 100)
            await JSONResponse(too_long.body(), 400)(scope, receive, send)
            return
        if word == "full":
            error = errors.QueueFull("the queue of acme is full", retry_after_s=7)
            await JSONResponse(error.body(), 429, {"retry-after": "7"})(scope, receive, send)
            return
        if word == "queued":
            name = request.headers["x-client-request-id"]
            self._daemon.queue = [queued("req_0", ""), queued("req_1", name)]
            for _ in range(2):  # who asks again has shown the first answer
                await self._daemon.looks.acquire()
        if word == "restarting" and self._daemon.readiness[0]["status"] != "ready":
            error = errors.EngineUnavailable("the model is not loaded", retry_after_s=2)
            await JSONResponse(error.body(), 503, {"retry-after": "2"})(scope, receive, send)
            return
        headers = [(b"content-type", b"text/event-stream"), (b"x-request-id", b"req_1")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._stream(word, receive, send)

    async def _stream(self, word: str, receive: Receive, send: Send) -> None:
        if word in ("forever", "halfway"):
            await self._events(send, self._piece("begun" if word == "forever" else "begun to"))
            while (await receive())["type"] != "http.disconnect":
                pass
            self._daemon.disconnected.set()
            return
        if word == "endless":
            message = {"type": "http.disconnect"}
            waiting = asyncio.ensure_future(receive())
            while not waiting.done():
                await self._events(send, self._piece("line\n" * 1000))
                await asyncio.sleep(0)
            assert await waiting == message
            self._daemon.disconnected.set()
            return
        if word == "think":
            await self._events(send, self._piece("Hm.", field="reasoning_content"))
        if word == "markdown":
            for piece in re.split("(?<= )", MARKDOWN):
                await self._events(send, self._piece(piece))
                await asyncio.sleep(self._daemon.pause_s)
            pieces: list[str] | None = []
        else:
            pieces = PIECES.get(word)
        await self._events(send, *map(self._piece, [" Hello", ",", " wörld"] if pieces is None else pieces))
        if word == "broken":
            await self._events(send, errors.EngineUnavailable("the engine crashed too often").body(), more=False)
        elif word == "cut":
            await send({"type": "http.response.body", "body": b""})
        else:
            usage = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
            budget = {"x_tenantd": {"reason": "budget"}} if word == "overspent" else {}
            await self._events(
                send,
                self._piece("", "length" if word in ("unfinished", "overspent") else "stop") | budget,
                {"model": "gemma", "choices": [], "usage": usage},
            )
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    def _piece(self, text: str, reason: str | None = None, field: str = "content") -> dict[str, Any]:
        content = text if self._kind == "text" else {field: text}
        return {"model": "gemma", "choices": [{"index": 0, self._kind: content, "finish_reason": reason}]}

    async def _events(self, send: Send, *events: dict[str, Any], more: bool = True) -> None:
        body = b"".join(b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n" for event in events)
        await send({"type": "http.response.body", "body": body, "more_body": more})
