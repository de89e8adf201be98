"""Gives a real daemon listeners for a test: with this folder on PYTHONPATH, every one it has writes what it hears.

HEARD_FILE names the file that gets every event as a line of JSON. With BAD_LISTENERS there are two more, which harm
nobody: one raises each time, the other never comes back from its first event, and four more wait for it.
"""

from __future__ import annotations

import os
import threading
from typing import NoReturn

import msgspec

from tenantd.events import Event, Events


def raise_always(event: Event) -> NoReturn:
    raise ValueError("I do not like events")


def block_always(event: Event) -> None:
    threading.Event().wait()


def with_listeners(events: Events) -> None:
    without(events)
    file = open(os.environ["HEARD_FILE"], "ab", buffering=0)  # noqa: SIM115
    if "BAD_LISTENERS" in os.environ:
        events.call("raises at once", raise_always)
        events.queue("raises", raise_always)
        events.queue("blocks", block_always, most_waiting=4)
    events.queue("recorder", lambda event: file.write(msgspec.json.encode(event) + b"\n") and None)


without = Events.__init__
if __name__ == "sitecustomize":
    Events.__init__ = with_listeners  # type: ignore[method-assign]
