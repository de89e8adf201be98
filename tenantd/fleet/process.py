"""One engine process: start it, exchange messages, wait for its end and find the reason."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from tenantd.events import Loss
from tenantd.fleet.link import EngineLink
from tenantd.fleet.oom import oom_kills
from tenantd.fleet.output import Output
from tenantd.wire.messages import IMAGES_FD_VARIABLE, Command, Event

EXIT_GRACE_S: Final = 5.0
"""How long a process that closed its connection may take to free the model and exit."""
LAST_WORDS_S: Final = 1.0
"""How long to read what it wrote before it ended; its own children may hold the pipe open longer."""

WRONG_CPU: Final = "an instruction that this CPU does not have; build llama.cpp again on this machine (docs/install.md)"


class Ending(NamedTuple):
    """How a process ended. `status` is like `Popen.returncode` (negative for a signal), or None if it never started.

    `words` are output of the process, if they explain it. They may contain anything that was in its memory, so only
    administrators may see them.
    """

    status: int | None
    reason: str
    loss: Loss
    words: str = ""

    @property
    def explained(self) -> str:
        """The reason and the words, for administrators."""
        return f"{self.reason}: {self.words}" if self.words else self.reason


def _inherited(environment: Mapping[str, str]) -> tuple[int, ...]:
    """The descriptor of the memory with images, if there is any."""
    fd = environment.get(IMAGES_FD_VARIABLE)
    return () if fd is None else (int(fd),)


class EngineProcess:
    """One child process. Await `ended` for each that `start` returned."""

    def __init__(self, process: Process, pipe: EngineLink, output: Output) -> None:
        self._process = process
        self._pipe = pipe
        self._output = output
        self._kill_reason = ""
        self._kill_loss = Loss.KILLED
        self._oom_kills = oom_kills()  # before it

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        environment: Mapping[str, str],
        on_event: Callable[[Event], None],
        on_room: Callable[[], None],
    ) -> EngineProcess:
        """Run `command --fd N` with one end of a socket pair as descriptor N. Raises OSError.

        It gets its own session, so that Ctrl-C in a terminal reaches only the daemon.
        """
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as undo:
            ours, theirs = socket.socketpair()
            undo.callback(ours.close)
            read_fd, write_fd = os.pipe()
            reader = undo.enter_context(os.fdopen(read_fd, "rb", buffering=0))
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    "--fd",
                    str(theirs.fileno()),
                    stdin=DEVNULL,
                    stdout=write_fd,
                    stderr=write_fd,
                    pass_fds=(theirs.fileno(), *_inherited(environment)),
                    env=dict(environment),
                    start_new_session=True,
                )
            finally:
                theirs.close()
                os.close(write_fd)
            undo.callback(process.kill)
            ours.setblocking(False)
            _, output = await loop.connect_read_pipe(Output, reader)
            _, pipe = await loop.create_unix_connection(lambda: EngineLink(on_event, on_room), sock=ours)
            undo.pop_all()
        return cls(process, pipe, output)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, command: Command) -> None:
        """Queue a command for the process."""
        self._pipe.send(command)

    @property
    def has_room(self) -> bool:
        """Whether one more command can be sent; if not, `on_room` follows."""
        return self._pipe.has_room

    def kill(self, reason: str, loss: Loss = Loss.KILLED) -> None:
        """Send SIGKILL to this child only. The first `reason` is kept as the reason of its end."""
        if not self._kill_reason:
            self._kill_reason, self._kill_loss = reason, loss
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def ended(self) -> Ending:
        """Wait for its end and reap it. Its earlier events are delivered first, and none afterwards."""
        exiting = asyncio.create_task(self._process.wait())
        lost: asyncio.Future[Any] = self._pipe.lost
        try:
            await asyncio.wait({exiting, lost}, return_when=asyncio.FIRST_COMPLETED)
            if not exiting.done():
                if broken := lost.result():
                    self.kill(broken)
                await asyncio.wait({exiting}, timeout=EXIT_GRACE_S)
                if not exiting.done():
                    self.kill("it closed its connection but kept running")
            status = await exiting
            await asyncio.wait([lost, self._output.ended], timeout=LAST_WORDS_S)
        finally:
            exiting.cancel()
            self._pipe.close()
            self._output.close()
        return self._ending(status)

    def _ending(self, status: int) -> Ending:
        if self._kill_reason:
            return Ending(status, self._kill_reason, self._kill_loss)
        if (self._pipe.lost.done() and (broken := self._pipe.lost.result())) and status == 0:
            return Ending(status, broken, Loss.EXITED)
        if status == -signal.SIGKILL:
            if oom_kills() > self._oom_kills:
                return Ending(status, "killed by signal 9: probably out of memory", Loss.MEMORY)
            return Ending(status, "killed by signal 9 from outside", Loss.SIGNAL)
        if status == -signal.SIGILL:
            return Ending(status, f"killed by signal 4: {WRONG_CPU}", Loss.SIGNAL)
        how = f"killed by signal {-status}" if status < 0 else f"exited with status {status}"
        return Ending(status, how, Loss.SIGNAL if status < 0 else Loss.EXITED, self._output.last_words)
