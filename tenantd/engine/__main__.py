"""The engine process: `python -m tenantd.engine --fd N`, started by the daemon with one end of a socket pair.

Exit codes: 0 after Stop or if the daemon is gone; 78 if the model cannot be loaded (after a LoadFailed); 70 if the
engine's state is broken and the process must be restarted.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from tenantd.engine.compute import Compute, EngineBroken
from tenantd.engine.fairness import Fairness
from tenantd.engine.loop import Loop
from tenantd.engine.metering import metering
from tenantd.engine.pipe import Closed, Pipe
from tenantd.engine.scheduler import Scheduler
from tenantd.errors import ModelError, NotEnoughMemory
from tenantd.llamacpp.gguf import model_file
from tenantd.process_limits import hide_memory, lock_much_memory
from tenantd.wire.messages import Command, Load, LoadFailed, Loading, Ready

EXIT_BROKEN: Final = 70
EXIT_MODEL: Final = 78
PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
LOADING_INTERVAL_S: Final = 0.2


def main() -> int:
    """Load the model, then step until Stop."""
    parser = argparse.ArgumentParser(prog="tenantd.engine", description="Engine process of tenantd.")
    parser.add_argument("--fd", type=int, required=True, help="inherited socket to the daemon")
    pipe = Pipe(socket.socket(fileno=parser.parse_args().fd))
    hide_memory()
    lock_much_memory()
    _die_with_parent()
    try:
        return _serve(pipe)
    except Closed:
        return 0  # the daemon is gone
    except EngineBroken as e:
        print(f"engine broken: {e}", file=sys.stderr, flush=True)
        return EXIT_BROKEN
    finally:
        pipe.close()


def _serve(pipe: Pipe) -> int:
    load, *rest = _first_commands(pipe)
    assert isinstance(load, Load), "the first command loads the model"
    try:
        compute = _open(load, _report(pipe))
    except ModelError as e:
        pipe.send(LoadFailed(e.message, may_pass=isinstance(e, NotEnoughMemory)))
        return EXIT_MODEL
    pipe.send(Ready(compute.info))
    loop = Loop(
        _scheduler(load, compute),
        compute,
        batch_tokens=load.batch_tokens,
        checkpoint_tokens=load.checkpoint_tokens,
        before_work=pipe.write,
        metering=metering(compute.gpu_bus_ids),
    )
    try:
        keep_going = loop.apply(rest)
        while keep_going:
            keep_going = loop.apply(pipe.receive(loop.patience_s()))
            for event in loop.turn():
                pipe.send(event)
                if loop.is_checking:
                    pipe.flush()  # nothing may happen beside what is measured
    finally:
        compute.close()
    return 0


def _first_commands(pipe: Pipe) -> list[Command]:
    while not (commands := pipe.receive(None)):
        pass  # part of a frame
    return commands


def _open(load: Load, progress: Callable[[float], None]) -> Compute:
    if load.backend == "fake":
        from tenantd.engine.fake import FakeCompute

        return FakeCompute(load)
    model_file(load.model_path)  # check this first: if the file is missing, a retry is cheap
    from tenantd.engine.llama import LlamaCompute  # only this process needs it

    return LlamaCompute(load, progress)


def _scheduler(load: Load, compute: Compute) -> Scheduler:
    settings = replace(load.settings, prefill_chunk_tokens=min(load.settings.prefill_chunk_tokens, load.batch_tokens))
    scheduler = Scheduler(
        compute.info.slots,
        compute.info.context_tokens,
        Fairness(settings.half_life_s, settings.burst_credit),
        settings,
        swap_bytes=compute.info.swap_bytes,
        cache_bytes=load.cache_bytes,
        packs=load.kv == "streams",
    )
    scheduler.passes.whole = compute.info.slots if compute.is_faster_when_full else 0
    return scheduler


def _report(pipe: Pipe) -> Callable[[float], None]:
    """A progress callback that sends at most one frame per LOADING_INTERVAL_S."""
    due_s = 0.0

    def report(progress: float) -> None:
        nonlocal due_s
        if (now_s := time.monotonic()) >= due_s:
            due_s = now_s + LOADING_INTERVAL_S
            pipe.send(Loading(progress))
            pipe.write()

    return report


def _die_with_parent() -> None:
    """Die with the daemon, and leave Ctrl-C to it."""
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # the daemon died between the two calls
        sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
