"""Bytes of server-sent events."""

import json

from tenantd.api.answers import event, shown
from tenantd.daemon.streams import Delta


def test_no_character_of_an_event_ends_a_line_for_anyone() -> None:
    text = "a\u2028b\u2029c\u0085d\u00e9\u2013"
    data = event({"text": text}).removeprefix(b"data: ").removesuffix(b"\n\n").decode()
    assert len(data.splitlines()) == 1
    assert json.loads(data) == {"text": text}


def test_tokens_of_a_stop_string_have_no_logprobs_in_a_whole_answer() -> None:
    deltas = [Delta("a", 1, None), Delta("", 2, None), Delta("b", 3, None), Delta("", 4, None)]
    assert shown(deltas) == deltas[:3]
    assert shown(deltas[1:2]) == []
