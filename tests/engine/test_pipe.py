"""The engine's end of the pipe: what is sent is written by a thread, whole, in order, and never far behind."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from tenantd.domain import Sampling
from tenantd.engine.fairness import Fairness
from tenantd.engine.fake import FakeCompute
from tenantd.engine.loop import Loop
from tenantd.engine.pipe import Closed, Pipe
from tenantd.engine.scheduler import Scheduler
from tenantd.wire.frames import FrameTooLarge, decode_event, split_frames
from tenantd.wire.messages import Event, Load, LoadFailed, Loading, SetSampling, Step, Submit
from tenantd.wire.settings import Settings

PATIENCE_S = 60.0


class Daemon:
    """The other end."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(PATIENCE_S)
        self._buffer = bytearray()
        self._events: list[Event] = []

    def next(self) -> Event:
        """The next event; waits for it. Raises EOFError."""
        while not self._events:
            data = self.sock.recv(1 << 16)
            if not data:
                raise EOFError
            self._buffer += data
            self._events += map(decode_event, split_frames(self._buffer))
        return self._events.pop(0)

    def rest(self) -> list[Event]:
        """All events until the end."""
        events: list[Event] = []
        with contextlib.suppress(EOFError):
            while True:
                events.append(self.next())
        return events


@pytest.fixture
def daemon_and_pipe() -> Iterator[tuple[Daemon, Pipe]]:
    ours, theirs = socket.socketpair()
    pipe = Pipe(theirs)
    yield Daemon(ours), pipe
    ours.close()
    with contextlib.suppress(OSError):
        pipe.close()


def test_everything_that_was_sent_arrives_in_order_also_when_the_engine_ends(
    daemon_and_pipe: tuple[Daemon, Pipe],
) -> None:
    daemon, pipe = daemon_and_pipe
    events = [Loading(number / 100) for number in range(100)]
    for event in events:
        pipe.send(event)
    pipe.close()
    assert daemon.rest() == events


def test_what_was_sent_is_written_at_the_latest_while_the_engine_waits(daemon_and_pipe: tuple[Daemon, Pipe]) -> None:
    daemon, pipe = daemon_and_pipe
    for number, write in enumerate((pipe.write, pipe.flush, lambda: pipe.receive(0.001))):
        pipe.send(Loading(number))
        write()
        assert daemon.next() == Loading(number)


def test_the_engine_is_at_most_one_event_ahead_of_a_daemon_that_does_not_read(
    daemon_and_pipe: tuple[Daemon, Pipe],
) -> None:
    daemon, pipe = daemon_and_pipe
    large = LoadFailed("x" * (1 << 22))
    pipe.send(large)
    pipe.write()
    assert not pipe._writing.acquire(timeout=0.2), "it does not fit the socket, so the next one has to wait"
    assert daemon.next() == large
    pipe.send(Loading(1))
    pipe.flush()
    assert daemon.next() == Loading(1)


def test_a_daemon_that_is_gone_ends_the_engine(daemon_and_pipe: tuple[Daemon, Pipe]) -> None:
    daemon, pipe = daemon_and_pipe
    daemon.sock.close()
    pipe.send(Loading(0))
    with pytest.raises(Closed):
        pipe.flush()
    with pytest.raises(Closed):
        pipe.send(Loading(1))
    with pytest.raises(Closed):
        pipe.receive(None)


def test_an_event_that_cannot_be_written_ends_the_engine_wherever_it_waits(
    daemon_and_pipe: tuple[Daemon, Pipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, pipe = daemon_and_pipe
    monkeypatch.setattr("tenantd.wire.frames.MAX_FRAME_BYTES", 10)
    pipe.send(LoadFailed("far too long"))
    with pytest.raises(FrameTooLarge):
        pipe.receive(None)
    with pytest.raises(FrameTooLarge):
        pipe.send(Loading(1))


def test_a_step_is_written_while_the_next_pass_runs(daemon_and_pipe: tuple[Daemon, Pipe]) -> None:
    """The pass does not end before the frame of the step before it has arrived."""
    daemon, pipe = daemon_and_pipe
    passes: list[int] = []
    arrived: list[Event] = []

    def during_a_pass(_: float) -> None:
        passes.append(len(passes) + 1)
        if len(passes) > 1:
            arrived.append(daemon.next())

    load = Load(
        backend="fake", model_path="", slots=2, context_tokens=64, batch_tokens=32, kv="streams", threads=1,
        gpu_layers=0, flash_attention="auto", swap_bytes=0, grammar_budget_ms=1000, fake_step_micros=1,
        fake_token_micros=0, settings=Settings(),
    )  # fmt: skip
    scheduler = Scheduler(2, 64, Fairness(60.0), load.settings, swap_bytes=0, packs=True)
    loop = Loop(scheduler, FakeCompute(load, during_a_pass), before_work=pipe.write)
    loop.apply([
        SetSampling(1, Sampling(ignore_eos=True)),
        Submit(request=1, tenant="a", prompt=[1, 2, 3], max_tokens=5, sampling=1),
    ])  # fmt: skip
    sent: list[Event] = []
    while not scheduler.is_idle:
        for event in loop.turn():
            pipe.send(event)
            sent.append(event)
    assert passes == [1, 2, 3, 4, 5] and len(sent) == 5
    pipe.close()
    assert [*arrived, *daemon.rest()] == sent and all(isinstance(event, Step) for event in sent)
