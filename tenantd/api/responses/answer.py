"""Writes a response: its items, and the events that tell of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tenantd.api.openai.answers import OUT_OF_BUDGET, encode_line
from tenantd.api.openai.parted import new_call_id
from tenantd.api.openai.translated import Ending, Written
from tenantd.api.responses.response_input import new_item_id
from tenantd.errors import RequestCancelled, TenantdError
from tenantd.text.calls import Part

Keep = Callable[[dict[str, Any]], bool]
"""Keeps a complete response; whether it could."""


class _Item:
    """One item of the output while it grows. `texts` are those of its only content, or of its arguments."""

    def __init__(self, kind: str, index: int, name: str = "") -> None:
        self.kind = kind  # as that of its parts; "call" for a call
        self.index = index
        self.id = new_item_id({"content": "msg", "reasoning": "rs"}.get(kind, "fc"))
        self.texts: list[str] = []
        self.call = {"call_id": new_call_id(), "name": name} if kind == "call" else {}

    def part(self, text: str) -> dict[str, Any]:
        """Its content."""
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def shown(self, status: str) -> dict[str, Any]:
        is_new, text = status == "in_progress", "".join(self.texts)
        if self.kind == "call":
            return {"id": self.id, "type": "function_call", "status": status, **self.call, "arguments": text}
        content = [] if is_new else [self.part(text)]
        if self.kind == "reasoning":
            return {"id": self.id, "type": "reasoning", "status": status, "summary": [], "content": content}
        return {"id": self.id, "type": "message", "status": status, "role": "assistant", "content": content}


class ResponseAnswer(Written):
    """One response. `repeated` are the fields that its request decides; `keep` is called once it is complete."""

    def __init__(
        self, response_id: str, model: str, created_s: int, repeated: dict[str, Any], keep: Keep, *, is_kept: bool
    ) -> None:
        self._head = {
            "id": response_id,
            "object": "response",
            "created_at": created_s,
            "model": model,
            **repeated,
            "store": is_kept,
        }
        self._keep = keep
        self._items: list[_Item] = []
        self._open: _Item | None = None
        self._number = -1  # of the last event

    def begun(self) -> dict[str, Any]:
        """What is shown before it has ended."""
        return self._response("in_progress", [])

    def opening(self) -> bytes:
        begun = self.begun()
        return self._event("response.created", response=begun) + self._event("response.in_progress", response=begun)

    def take(self, parts: list[Part]) -> bytes:
        return b"".join([self._more(part) for part in parts])

    def closing(self, ending: Ending) -> bytes:
        events = self._last_items(ending)
        body = self.whole(ending)
        return events + self._event(f"response.{body['status']}", response=body)

    def keep_failed(self, error: TenantdError) -> None:
        """Keep one that is not complete, with what there is of it."""
        body = self._failed(error)
        if isinstance(error, RequestCancelled):
            body |= {"status": "cancelled", "error": None}
        self._keep(body)

    def failure(self, error: TenantdError) -> bytes:
        return self._event("response.failed", response=self._failed(error))

    def _failed(self, error: TenantdError) -> dict[str, Any]:
        items = [item.shown("incomplete" if item is self._open else "completed") for item in self._items]
        return {**self._response("failed", items), "error": {"code": error.code, "message": error.message}}

    def whole(self, ending: Ending) -> dict[str, Any]:
        self._last_items(ending)
        status = "incomplete" if ending.is_cut else "completed"
        items = [item.shown("completed") for item in self._items]
        if ending.is_cut and items:
            items[-1]["status"] = "incomplete"
        body = self._response(status, items)
        if ending.is_cut:
            body["incomplete_details"] = {"reason": "max_output_tokens"}
        if ending.is_out_of_budget:
            body |= OUT_OF_BUDGET
        usage = ending.usage
        body["usage"] = {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {
                "cached_tokens": usage["prompt_tokens_details"]["cached_tokens"],
                "cache_write_tokens": 0,
            },
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": ending.reasoning_tokens},
            "total_tokens": usage["total_tokens"],
        }
        if body["store"] and not self._keep(body):
            body["store"] = False
        return body

    def message(self) -> dict[str, Any]:
        """What was said, as a message of a chat."""
        texts = {kind: "".join(t for item in self._items if item.kind == kind for t in item.texts) for kind in _KINDS}
        calls = [
            {
                "id": item.call["call_id"],
                "type": "function",
                "function": {"name": item.call["name"], "arguments": "".join(item.texts)},
            }
            for item in self._items
            if item.kind == "call"
        ]
        message: dict[str, Any] = {"role": "assistant", "content": texts["content"]}
        if texts["reasoning"]:
            message["reasoning_content"] = texts["reasoning"]
        return {**message, "tool_calls": calls} if calls else message

    # -- events

    def _more(self, part: Part) -> bytes:
        events = b""
        if part.kind == "call":
            return self._end_item() + self._begin_item(_Item("call", len(self._items), part.text))
        if part.kind == "arguments":
            assert self._open is not None, "arguments come after their call"
        elif self._open is None or self._open.kind != part.kind:
            events = self._end_item() + self._begin_item(_Item(part.kind, len(self._items)))
        item = self._open
        assert item is not None
        item.texts.append(part.text)
        if part.kind == "arguments":
            return events + self._item_event(item, "response.function_call_arguments.delta", delta=part.text)
        if part.kind == "reasoning":
            return events + self._item_event(item, "response.reasoning_text.delta", content_index=0, delta=part.text)
        more = {"content_index": 0, "delta": part.text, "logprobs": []}
        return events + self._item_event(item, "response.output_text.delta", **more)

    def _begin_item(self, item: _Item) -> bytes:
        self._items.append(item)
        self._open = item
        shown = item.shown("in_progress")
        events = self._event("response.output_item.added", output_index=item.index, item=shown)
        if item.kind != "call":
            events += self._item_event(item, "response.content_part.added", content_index=0, part=item.part(""))
        return events

    def _end_item(self, status: str = "completed") -> bytes:
        item, self._open = self._open, None
        if item is None:
            return b""
        text = "".join(item.texts)
        done: dict[str, Any]
        if item.kind == "call":
            done = {"arguments": text, "name": item.call["name"]}
            events = self._item_event(item, "response.function_call_arguments.done", **done)
        else:
            if item.kind == "reasoning":
                events = self._item_event(item, "response.reasoning_text.done", content_index=0, text=text)
            else:
                done = {"content_index": 0, "text": text, "logprobs": []}
                events = self._item_event(item, "response.output_text.done", **done)
            events += self._item_event(item, "response.content_part.done", content_index=0, part=item.part(text))
        return events + self._event("response.output_item.done", output_index=item.index, item=item.shown(status))

    def _last_items(self, ending: Ending) -> bytes:
        """Ends the last item. An answer always has a message or a call."""
        begun = b""
        if all(item.kind == "reasoning" for item in self._items) and not ending.is_cut:
            begun = self._end_item() + self._begin_item(_Item("content", len(self._items)))
        return begun + self._end_item("incomplete" if ending.is_cut else "completed")

    def _item_event(self, item: _Item, kind: str, **more: Any) -> bytes:
        return self._event(kind, item_id=item.id, output_index=item.index, **more)

    def _event(self, kind: str, **more: Any) -> bytes:
        self._number += 1
        data = encode_line({"type": kind, "sequence_number": self._number, **more})
        return b"event: %s\ndata: %s\n\n" % (kind.encode(), data)

    def _response(self, status: str, items: list[dict[str, Any]]) -> dict[str, Any]:
        rest = {"status": status, "error": None, "incomplete_details": None, "output": items, "usage": None}
        return {**self._head, **rest}


_KINDS: Final = ("content", "reasoning")
