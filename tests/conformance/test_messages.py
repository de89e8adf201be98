"""Anthropic's client on a real daemon: what it costs."""

from __future__ import annotations

import anthropic

from tests.conformance.conftest import MODEL, Shared
from tests.support.anthropic_http import on_socket


def test_a_message_is_metered_and_billed_like_a_chat(shared: Shared) -> None:
    http = on_socket(shared.daemon.socket)
    with anthropic.Anthropic(
        api_key=shared.keys["acme"], base_url="http://tenantd", http_client=http, max_retries=0
    ) as client:
        asked: anthropic.types.MessageParam = {"role": "user", "content": "Hi"}
        whole = client.messages.create(model=MODEL, max_tokens=20, messages=[asked])
        with client.messages.stream(model=MODEL, max_tokens=20, messages=[asked]) as stream:
            streamed = stream.get_final_message()
        count = client.messages.count_tokens(model=MODEL, messages=[asked])
    for message in (whole, streamed):
        [row] = [row for row in shared.daemon.rows() if row["id"] == message.id.replace("msg_", "req_")]
        assert row["state"] in ("completed", "length")
        used = message.usage
        assert row["completion_tokens"] == used.output_tokens > 0
        cached = used.cache_read_input_tokens or 0
        assert row["prompt_tokens"] + row["cached_tokens"] == used.input_tokens + cached == count.input_tokens
