"""Bytes of server-sent events."""

import json

from tenantd.api.answers import event


def test_no_character_of_an_event_ends_a_line_for_anyone() -> None:
    text = "a\u2028b\u2029c\u0085d\u00e9\u2013"
    data = event({"text": text}).removeprefix(b"data: ").removesuffix(b"\n\n").decode()
    assert len(data.splitlines()) == 1
    assert json.loads(data) == {"text": text}
