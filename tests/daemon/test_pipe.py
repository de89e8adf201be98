"""The framed connection, against the other end of a real socket pair."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tenantd.daemon.pipe import BATCH_BYTES, MAX_COMMAND_BYTES, EnginePipe, bytes_at_most
from tenantd.domain import Sampling
from tenantd.engine.protocol import (
    MAX_FRAME_BYTES,
    Cancel,
    Command,
    Event,
    Inbox,
    Loading,
    Submit,
    decode_inbox,
    frame,
    split_frames,
)
from tests.daemon.daemon_kit import run, until


class Ends:
    """Both ends: the daemon's pipe and the engine's bare socket."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def __aenter__(self) -> Ends:
        ours, self.engine = socket.socketpair()
        ours.setblocking(False)
        self.engine.setblocking(False)
        loop = asyncio.get_running_loop()
        _, self.pipe = await loop.create_unix_connection(lambda: EnginePipe(self.events.append), sock=ours)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.pipe.close()
        self.engine.close()
        await self.pipe.lost
        await asyncio.sleep(0.01)

    async def frames(self, commands: int) -> list[list[Command]]:
        """What the engine has got once `commands` have come, by frame."""
        buffer = bytearray()
        result: list[list[Command]] = []
        while sum(map(len, result)) < commands:
            buffer += await asyncio.get_running_loop().sock_recv(self.engine, 1 << 20)
            result += [decode_inbox(body).commands for body in split_frames(buffer)]
        return result


def submit(tokens: int, number: int = 1) -> Submit:
    return Submit(request=number, tenant="acme", prompt=[200_000] * tokens, max_tokens=1)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_commands_of_one_turn_travel_in_one_frame_in_order(loop: str) -> None:
    async def scene() -> None:
        async with Ends() as ends:
            for number in range(100):
                ends.pipe.send(Cancel(number))
            assert await ends.frames(100) == [[Cancel(n) for n in range(100)]]
            ends.pipe.send(Cancel(1))
            assert await ends.frames(1) == [[Cancel(1)]]

    run(scene(), loop)


def test_more_than_a_frame_may_hold_travels_in_several() -> None:
    async def scene() -> None:
        async with Ends() as ends:
            commands = [submit(300_000, number) for number in range(50)]
            assert sum(map(bytes_at_most, commands)) > MAX_FRAME_BYTES
            for command in commands:
                ends.pipe.send(command)
            frames = await ends.frames(50)
            assert [command for commands in frames for command in commands] == commands
            assert len(frames) > 10

    run(scene())


def test_the_bound_of_a_command_is_never_less_than_its_size() -> None:
    biased = Sampling(logit_bias={n * 1000: -1.5 for n in range(1000)}, grammar="\u20ac\U0001f600" * 500)
    for command in (
        submit(0),
        submit(5000),
        Submit(request=1, tenant="t" * 63, prompt=[1], max_tokens=1, sampling=biased),
    ):
        assert len(frame(Inbox([command]))) <= bytes_at_most(command)


def test_the_largest_command_fits_a_frame_behind_a_full_batch() -> None:
    assert BATCH_BYTES + MAX_COMMAND_BYTES < MAX_FRAME_BYTES


def test_events_arrive_in_order_however_they_are_cut() -> None:
    async def scene() -> None:
        async with Ends() as ends:
            stream = b"".join(frame(Loading(n / 10)) for n in range(10))
            for start in range(0, len(stream), 7):
                await asyncio.get_running_loop().sock_sendall(ends.engine, stream[start : start + 7])
                await asyncio.sleep(0)
            await until(lambda: len(ends.events) == 10)
            assert ends.events == [Loading(n / 10) for n in range(10)]

    run(scene())


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x00\x00\x03\xc1\xc1\xc1",
        b"\x00\x00\x00\x02\xa1\xff",
        b"\x00\x00\x00\x00",
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x01\x80",
    ],
    ids=["no msgpack", "no UTF-8", "empty", "too large", "no event"],
)
def test_what_is_no_message_breaks_the_connection_and_says_so(sent: bytes) -> None:
    async def scene() -> None:
        async with Ends() as ends:
            await asyncio.get_running_loop().sock_sendall(ends.engine, frame(Loading(0.5)) + sent)
            assert "not a message" in await asyncio.wait_for(ends.pipe.lost, 5)
            ends.pipe.send(Cancel(1))  # is dropped

    run(scene())


def test_the_end_of_the_engine_is_a_clean_end() -> None:
    async def scene() -> None:
        async with Ends() as ends:
            ends.engine.shutdown(socket.SHUT_RDWR)
            assert await asyncio.wait_for(ends.pipe.lost, 5) == ""

    run(scene())


def test_a_closed_pipe_delivers_nothing_of_what_was_still_unread() -> None:
    async def scene() -> None:
        async with Ends() as ends:
            ends.pipe.close()
            ends.pipe.data_received(frame(Loading(0.1)))
            assert ends.events == []

    run(scene())
