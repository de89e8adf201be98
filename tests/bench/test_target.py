"""The streaming client in front of a server that answers with given bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from tenantctl.bench.observed import Outcome, Record
from tenantctl.bench.target import Target, send, target_at
from tenantd.errors import InvalidRequest

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
BODY = {"prompt": [1, 2, 3], "max_tokens": 3}


def event(text: str, reason: str | None = None, space: str = "") -> bytes:
    choice = {"text": text, "index": 0, "finish_reason": reason}
    return b"data: " + json.dumps({"choices": [choice]}, separators=(",", f":{space}")).encode() + b"\n\n"


USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}\n\n'
END = b"data: [DONE]\n\n"
TOKENS = event("a") + event('b "finish_reason":null') + event("c") + event("", "length")


def chunked(*chunks: bytes) -> bytes:
    lines = [b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks]
    return HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"".join(lines) + b"0\r\n\r\n"


def ask(*pieces: bytes, then: Callable[[], Awaitable[Any]] | None = None) -> tuple[Record, bytes]:
    """What is noted of an answer that is written in pieces, and the request as the server read it. The connection is
    closed after `then`."""
    record = Record("a", prompt_tokens=3, max_tokens=3)
    read = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.splitlines() if line.startswith(b"content-length"))
        read.extend(head + await reader.readexactly(length))
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if then is not None:
            await then()
        writer.close()
        await writer.wait_closed()

    async def talk() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            target = target_at(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", extra=(("n", 1),))
            async with asyncio.timeout(120):
                await send(target, BODY, record)

    asyncio.run(talk())
    return record, bytes(read)


def test_tokens_are_counted_and_the_servers_count_believed() -> None:
    record, request = ask(chunked(TOKENS, USAGE, END))
    assert record.outcome is Outcome.DONE
    assert record.arrived_tokens == 3
    assert (record.prompt_tokens, record.output_tokens) == (3, 4)
    assert record.first_s is not None and record.done_s is not None
    assert record.sent_s <= record.first_s <= record.done_s
    body = json.loads(request.partition(b"\r\n\r\n")[2])
    assert body == {**BODY, "n": 1, "stream": True, "stream_options": {"include_usage": True}}
    assert request.startswith(b"POST /v1/completions HTTP/1.1\r\n")


def test_events_in_pieces_are_counted_once() -> None:
    answer = chunked(TOKENS, USAGE, END)
    record, _ = ask(*(answer[i : i + 1] for i in range(len(answer))))
    assert record.outcome is Outcome.DONE
    assert record.arrived_tokens == 3


def test_line_ends_and_comments_of_other_servers_are_understood() -> None:
    answer = b": warming up\n\n" + TOKENS + USAGE + END
    record, _ = ask(chunked(answer.replace(b"\n", b"\r\n")))
    assert (record.outcome, record.arrived_tokens, record.output_tokens) == (Outcome.DONE, 3, 4)


def test_a_server_that_puts_spaces_into_its_json_is_understood() -> None:
    record, _ = ask(chunked(event("a", space=" ") + event("b", space=" ") + event("", "length", space=" "), END))
    assert record.arrived_tokens == 2
    assert record.output_tokens == 2  # it has not said


def test_events_are_tokens_where_no_reasons_are_given() -> None:
    record, _ = ask(chunked(b'data: {"choices":[{"text":"a"}]}\n\n' * 2, USAGE, END))
    assert record.arrived_tokens == 2


def test_a_body_that_ends_with_the_connection_is_whole_if_it_says_so() -> None:
    assert ask(HEAD + b"\r\n" + TOKENS + END)[0].outcome is Outcome.DONE
    record, _ = ask(HEAD + b"\r\n" + TOKENS)
    assert record.outcome is Outcome.FAILED
    assert "closed early" in record.message


def refusal(status: bytes, message: str, headers: bytes = b"") -> bytes:
    body = json.dumps({"error": {"message": message, "code": "queue_full"}}).encode()
    return b"HTTP/1.1 %s\r\n%scontent-length: %d\r\n\r\n%s" % (status, headers, len(body), body)


@pytest.mark.parametrize("status", [b"429 Too Many Requests", b"503 Service Unavailable"])
def test_to_be_told_to_come_back_is_a_refusal(status: bytes) -> None:
    record, _ = ask(refusal(status, "not now", b"Retry-After: 7\r\n"))
    assert record.outcome is Outcome.REFUSED
    assert record.retry_after_s == 7
    assert record.message.endswith(": not now")


def test_other_errors_are_failures_with_the_servers_reason() -> None:
    record, _ = ask(refusal(b"400 Bad Request", "no such token"))
    assert (record.outcome, record.message) == (Outcome.FAILED, "HTTP 400: no such token")
    record, _ = ask(b"HTTP/1.1 500 Oops\r\ncontent-length: 4\r\n\r\noops")
    assert (record.outcome, record.message) == (Outcome.FAILED, "HTTP 500: oops")
    assert "not HTTP" in ask(b"SSH-2.0\r\n\r\n")[0].message


def test_an_error_inside_a_stream_is_a_failure_and_its_tokens_count() -> None:
    error = b'data: {"error":{"message":"the engine is gone","code":"engine_failure"}}\n\n'
    record, _ = ask(chunked(event("a"), error))
    assert record.outcome is Outcome.FAILED
    assert record.message == "HTTP 200: the engine is gone"
    assert record.output_tokens == 1


@pytest.mark.parametrize("error", [b'error: {"code":500,"message":"out of room"}', b'data: {"error":"out of room"}'])
def test_errors_of_other_servers_inside_a_stream_are_failures(error: bytes) -> None:
    record, _ = ask(chunked(event("a"), error + b"\n\n", END))
    assert (record.outcome, record.message) == (Outcome.FAILED, "HTTP 200: out of room")


def test_a_server_that_is_not_there_is_a_failure() -> None:
    record = Record("a")
    asyncio.run(send(replace(Target("nowhere"), port=1), BODY, record))
    assert record.outcome is Outcome.FAILED
    assert "cannot connect to nowhere" in record.message


def test_a_cancelled_request_closes_its_connection_and_is_cut() -> None:
    record = Record("a")
    gone: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"%x\r\n%s\r\n" % (len(event("a")), event("a")))
        try:
            while data := await reader.read(65536):
                gone[:] = [data]
        except ConnectionResetError:
            gone.append(b"reset")
        left.set()
        writer.close()

    left = asyncio.Event()

    async def talk() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            task = asyncio.create_task(send(Target("s", port=server.sockets[0].getsockname()[1]), BODY, record))
            async with asyncio.timeout(120):
                while record.first_s is None:
                    await asyncio.sleep(0.001)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await left.wait()

    asyncio.run(talk())
    assert record.outcome is Outcome.CUT
    assert record.output_tokens == 1


@pytest.mark.parametrize(
    ("url", "host", "port", "base", "tls"),
    [
        ("http://127.0.0.1:8080/v1", "127.0.0.1", 8080, "/v1", False),
        ("http://localhost/v1/", "localhost", 80, "/v1", False),
        ("https://api.example.com/openai/v1", "api.example.com", 443, "/openai/v1", True),
        ("http://[::1]:9000", "::1", 9000, "", False),
    ],
)
def test_urls_say_where_to_connect(url: str, host: str, port: int, base: str, tls: bool) -> None:
    target = target_at(url, api_key="k")
    assert (target.host, target.port, target.base, target.tls) == (host, port, base, tls)
    assert target.headers == (("authorization", "Bearer k"),)


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://x/v1", "http://", "http://x:port/v1"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match="--url"):
        target_at(url)
