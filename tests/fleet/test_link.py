"""The framed connection, against the other end of a real socket pair."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from tenantd.domain import Sampling
from tenantd.engine.pipe import Pipe
from tenantd.fleet.link import BATCH_BYTES, MAX_COMMAND_BYTES, ROOM_BYTES, EngineLink, bytes_at_most
from tenantd.wire.frames import MAX_FRAME_BYTES, decode_inbox, frame, split_frames
from tenantd.wire.messages import (
    Backlog,
    Cancel,
    Command,
    DropSampling,
    Event,
    Inbox,
    Loading,
    SetSampling,
    Submit,
    TenantPolicy,
)
from tests.serving.daemon_kit import run, until


class Ends:
    """Both ends: the daemon's pipe and the engine's bare socket."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.rooms = 0  # times it was told of room

    async def __aenter__(self) -> Ends:
        ours, self.engine = socket.socketpair()
        ours.setblocking(False)
        self.engine.setblocking(False)
        loop = asyncio.get_running_loop()
        _, self.pipe = await loop.create_unix_connection(
            lambda: EngineLink(self.events.append, self.on_room), sock=ours
        )
        return self

    def on_room(self) -> None:
        self.rooms += 1

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
    return Submit(request=number, tenant="acme", prompt=[200_000] * tokens, max_tokens=1, sampling=1)


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
    numbers = {"request": 1 << 40, "sampling": 1 << 40, "seed": 1 << 31, "billed_prompt_tokens": 1 << 20}
    for command in (
        Cancel(1 << 40),
        DropSampling(1 << 40),
        submit(0),
        submit(5000),
        Submit(
            tenant="t" * 63, prompt=[1], max_tokens=1 << 20, adapter="/\u20ac" * 500, counts_prompt=False, **numbers
        ),
        SetSampling(1 << 40, biased),
        SetSampling(1, Sampling(temperature=0.1, top_k=1, top_p=0.1, min_p=0.1, typical_p=0.1, repeat_penalty=1.1)),
        Backlog("t" * 63, True),
        TenantPolicy(tenant="t" * 63, weight=1.5, max_concurrent=1 << 20, reserved_slots=1, tokens_per_minute=1 << 40),
    ):
        assert len(frame(Inbox([command]))) <= bytes_at_most(command)


def test_the_largest_command_fits_a_frame_behind_a_full_batch() -> None:
    assert BATCH_BYTES + MAX_COMMAND_BYTES < MAX_FRAME_BYTES


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("tokens", [10, 1000, 100_000])
def test_little_waits_for_an_engine_that_does_not_read_and_the_sender_hears_of_room(loop: str, tokens: int) -> None:
    async def scene() -> None:
        async with Ends() as ends:
            sent: list[Command] = []

            def send_while_there_is_room() -> None:
                while ends.pipe.has_room and len(sent) < 20_000:
                    sent.append(submit(tokens, len(sent)))
                    ends.pipe.send(sent[-1])

            async def no_room_is_left() -> None:
                while ends.pipe.has_room:
                    send_while_there_is_room()
                    await asyncio.sleep(0)
                await asyncio.sleep(0)

            await no_room_is_left()
            while ends.pipe.has_room:
                await no_room_is_left()
            transport: Any = ends.pipe._transport
            assert transport.get_write_buffer_size() <= 2 * ROOM_BYTES + len(frame(Inbox(sent[-1:])))
            for _ in range(3):
                rooms, before = ends.rooms, len(sent)
                got = await ends.frames(len(sent))
                assert [command for commands in got for command in commands] == sent[-sum(map(len, got)) :]
                await until(lambda rooms=rooms: ends.rooms > rooms)
                await no_room_is_left()
                assert len(sent) > before
                sent = sent[before:]

    run(scene(), loop)


def test_the_engine_takes_a_bounded_part_of_what_has_arrived_between_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    most_bytes = 20_000
    monkeypatch.setattr("tenantd.engine.pipe.READ_BYTES", most_bytes)
    ours, theirs = socket.socketpair()
    commands: list[Command] = [submit(100, number) for number in range(150)]
    frames = [frame(Inbox([command])) for command in commands]
    assert sum(map(len, frames)) > 4 * most_bytes
    ours.sendall(b"".join(frames))
    pipe = Pipe(theirs)
    got: list[Command] = []
    while received := pipe.receive(0):
        assert len(frame(Inbox(received))) <= most_bytes + len(frames[0])
        got += received
    assert got == commands, "the rest comes with the next steps"
    ours.close()
    pipe.close()


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
            assert "an invalid message" in await asyncio.wait_for(ends.pipe.lost, 120)
            ends.pipe.send(Cancel(1))  # is dropped

    run(scene())


def test_the_end_of_the_engine_is_a_clean_end() -> None:
    async def scene() -> None:
        async with Ends() as ends:
            ends.engine.shutdown(socket.SHUT_RDWR)
            assert await asyncio.wait_for(ends.pipe.lost, 120) == ""

    run(scene())


def test_a_closed_pipe_delivers_nothing_of_what_was_still_unread() -> None:
    async def scene() -> None:
        async with Ends() as ends:
            ends.pipe.close()
            ends.pipe.data_received(frame(Loading(0.1)))
            assert ends.events == []

    run(scene())
