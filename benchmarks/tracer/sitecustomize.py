"""Python imports this at its start where it is on the path: notes the calls of a process for `trace_request.py`.

Writes a line to TRACE_FOLDER/PID for each function of TRACE_CHECKOUT that is entered, and for each of RETURNS that
returns: nanoseconds of the monotonic clock, "call" or "return", file, function, the file of TRACE_CHECKOUT that called
it ("-" for what the event loop calls).
"""

from __future__ import annotations

import os
import sys
import threading
import time
from types import FrameType
from typing import Any

CHECKOUT = os.environ["TRACE_CHECKOUT"] + "/"
OUT = os.open(f"{os.environ['TRACE_FOLDER']}/{os.getpid()}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
RETURNS = {"run", "send"}
"""The engine's forward pass, and a frame on its way to the daemon: here one part of a request's way ends."""


def caller(frame: FrameType) -> str:
    """The nearest file of the project that is waiting for this call."""
    above = frame.f_back
    while above is not None and not above.f_code.co_filename.endswith("/asyncio/runners.py"):
        if above.f_code.co_filename.startswith(CHECKOUT):
            return above.f_code.co_filename.removeprefix(CHECKOUT)
        above = above.f_back
    return "-"


def note(frame: FrameType, event: str, _: Any) -> None:
    """A profile function. Generators and coroutines are entered again each time they go on."""
    code = frame.f_code
    if code.co_filename.startswith(CHECKOUT) and (event == "call" or (event == "return" and code.co_name in RETURNS)):
        name = code.co_filename.removeprefix(CHECKOUT)
        line = f"{time.monotonic_ns()} {event} {name} {code.co_qualname} {caller(frame)}\n"
        os.write(OUT, line.encode())


threading.setprofile(note)
sys.setprofile(note)
