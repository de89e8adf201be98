"""The reader of server-sent events, against a plain reading of the HTML standard's rules."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantctl.sse import EventReader, Unfinished, answer_events
from tenantd.errors import EngineUnavailable, TenantdError


def read(chunks: Iterable[bytes]) -> list[bytes]:
    reader = EventReader()
    return [event for chunk in chunks for event in reader.feed(chunk)]


def cut(text: bytes, places: Iterable[int]) -> list[bytes]:
    """`text` in pieces, some of them empty."""
    ends = sorted(min(place, len(text)) for place in places)
    return [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]


def reference(stream: bytes) -> list[bytes]:
    """The whole stream at once, one character after the other."""
    stream = stream.removeprefix(b"\xef\xbb\xbf")
    lines, line, i = [], b"", 0
    while i < len(stream):
        if stream[i : i + 1] in (b"\r", b"\n"):
            lines.append(line)
            line = b""
            i += 2 if stream[i : i + 2] == b"\r\n" else 1
        else:
            line += stream[i : i + 1]
            i += 1
    events: list[bytes] = []
    data: list[bytes] = []
    for line in lines:  # what no line end follows is not one
        if line == b"":
            if data:
                events.append(b"\n".join(data))
            data = []
        elif line.startswith((b"data:", b"error:")):
            value = line[line.index(b":") + 1 :]
            data.append(value[1:] if value.startswith(b" ") else value)
        elif line in (b"data", b"error"):
            data.append(b"")
    return events


ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
VALUES = st.one_of(
    st.just("[DONE]"), st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=12)
).map(str.encode)
LINES = st.one_of(
    st.builds(
        lambda name, colon, value: name + colon + value,
        st.sampled_from([b"data", b"error", b"event", b"id", b"", b"datum"]),
        st.sampled_from([b"", b":", b": ", b":  "]),
        VALUES,
    ),
    st.just(b""),
)
FREE = st.tuples(st.sampled_from([b"", b"\xef\xbb\xbf"]), st.lists(st.tuples(LINES, ENDS).map(b"".join))).map(
    lambda parts: parts[0] + b"".join(parts[1])
)
OWN = st.lists(VALUES.map(lambda value: b"data: " + value + b"\n\n")).map(b"".join)
STREAMS = st.lists(st.one_of(FREE, OWN, st.binary(max_size=8)), max_size=4).map(b"".join)


@given(STREAMS, st.lists(st.integers(0, 400), max_size=12))
def test_a_stream_is_read_as_the_standard_says_however_it_is_cut(stream: bytes, places: list[int]) -> None:
    assert read(cut(stream, places)) == reference(stream)


@given(STREAMS)
def test_a_stream_is_read_byte_by_byte(stream: bytes) -> None:
    assert read(bytes([byte]) for byte in stream) == reference(stream)


@given(st.lists(st.text(min_size=1), min_size=1), st.lists(st.integers(0, 2000), max_size=20))
def test_text_survives_chunks_that_end_inside_characters(texts: list[str], places: list[int]) -> None:
    events = [json.dumps({"text": text}, ensure_ascii=False).encode() for text in texts]
    stream = b"".join(b"data: " + event + b"\n\n" for event in [*events, b"[DONE]"])
    assert [event["text"] for event in answer_events(cut(stream, places))] == texts


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\n", [b"a"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\rdata: b\r\r", [b"a\nb"]),
        (b": a comment\n\n: another\ndata: a\n\n", [b"a"]),
        (b"event: x\nid: 7\nretry: 1\ndata: {\ndata: }\n\n", [b"{\n}"]),
        (b"data\n\n", [b""]),
        (b"\n\n\ndata: a\n\n\n\n", [b"a"]),
        (b'error: {"code":500}\n\n', [b'{"code":500}']),
        (b"data: a\n", []),
        (b"data: a", []),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
    ],
)
def test_forms_of_events(stream: bytes, events: list[bytes]) -> None:
    assert read([stream]) == events == reference(stream)


def test_what_comes_after_done_is_not_read() -> None:
    assert list(answer_events([b'data: {"a":1}\n\ndata: [DONE]\n\ndata: {"a":2}\n\n'])) == [{"a": 1}]


@pytest.mark.parametrize("stream", [b"", b'data: {"a":1}\n\n', b'data: {"a":1}\n\ndata: [DONE]\n', b": [DONE]\n\n"])
def test_an_answer_without_its_done_is_unfinished(stream: bytes) -> None:
    with pytest.raises(Unfinished):
        list(answer_events([stream]))


def test_an_error_in_the_stream_is_raised_after_what_came_before() -> None:
    error = json.dumps(EngineUnavailable("it crashed").body()).encode()
    seen: list[Any] = []
    with pytest.raises(EngineUnavailable, match="it crashed"):
        for event in answer_events([b'data: {"a":1}\n\ndata: ' + error + b"\n\ndata: [DONE]\n\n"]):
            seen.append(event)
    assert seen == [{"a": 1}]


def test_an_event_that_is_not_json_is_an_error_of_ours() -> None:
    with pytest.raises(TenantdError, match="an event without JSON"):
        list(answer_events([b"data: <html>\n\n"]))
