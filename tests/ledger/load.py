"""Run by a test in a process of its own, to be killed: requests without end, each durable step told on stdout."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import sys
from pathlib import Path

from tenantd.domain import Usage
from tests.ledger.books import admission, open_ledger, settlement
from tests.ledger.trails import entry

CONCURRENT = 16


def say(what: str, name: str, tokens: int) -> None:
    os.write(1, (json.dumps([what, name, tokens]) + "\n").encode())  # whole lines, at once


async def main(folder: Path) -> None:
    ledger = open_ledger(folder / "ledger.db")

    async def one_after_another(lane: int) -> None:
        number = 0
        while True:
            number += 1
            name, tokens = f"r{lane}-{number}", 0
            about = functools.partial(entry, request_id=name)
            await ledger.admit(admission(name), functools.partial(about, "entered"))
            ledger.audit([about("resources")])
            say("admitted", name, 0)
            for _ in range(number % 3):
                tokens += 1 + lane
                ledger.checkpoint({name: Usage(completion_tokens=tokens)})
                await ledger.write(lambda conn: None)  # in the same commit, or in one after it
                say("checkpointed", name, tokens)
            ended = settlement(name, Usage(completion_tokens=tokens + 1))
            await ledger.settle(ended, None, functools.partial(about, "response"))
            say("settled", name, tokens + 1)

    await asyncio.gather(*(one_after_another(lane) for lane in range(CONCURRENT)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
