"""Blanks that a model writes cost what they add, however many came before them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import pytest

from tenantd.text.calls import Reader
from tenantd.text.dialects import GENERIC, HERMES, LLAMA, MISTRAL
from tenantd.text.reading import Reading
from tests.text.scripts import LOOK, NAMES, THINK, read

BLANKS: Final = 200_000
PIECE: Final = " \n      "
CALL: Final = '{"name": "look", "arguments": {}}'
HERMES_CALL: Final = f"<tool_call>{CALL}</tool_call>"
ARGUMENTS: Final = ("arguments", "{}")


def reasoning(*, is_thinking: bool = False) -> Reader:
    return Reading(tags=THINK, is_thinking=is_thinking).reader()


def generic() -> Reader:
    return Reading(form=GENERIC.form, names=NAMES).reader()


def hermes() -> Reader:
    return Reading(form=HERMES.form, names=NAMES).reader()


def llama() -> Reader:
    return Reading(form=LLAMA.form, names=NAMES).reader()


def mistral() -> Reader:
    return Reading(form=MISTRAL.form, names=NAMES).reader()


def thinking() -> Reader:
    return reasoning(is_thinking=True)


PLACES: Final = {
    "before reasoning": (reasoning, "", "<think>a</think>b", [("reasoning", "a"), ("content", "b")]),
    "before an answer": (reasoning, "", "b", [("content", "{}b")]),
    "first in reasoning": (thinking, "", "a</think>b", [("reasoning", "a"), ("content", "b")]),
    "in reasoning": (thinking, "a", "b</think>c", [("reasoning", "a{}b"), ("content", "c")]),
    "after reasoning": (thinking, "a</think>", "b", [("reasoning", "a"), ("content", "b")]),
    "in a text": (hermes, "a", "b", [("content", "a{}b")]),
    "before a call": (hermes, "a", HERMES_CALL, [("content", "a"), LOOK, ARGUMENTS]),
    "in a call": (hermes, "<tool_call>", f"{CALL}</tool_call>", [LOOK, ARGUMENTS]),
    "in what is no call": (hermes, "<tool_call>", "a", [("content", "<tool_call>{}a")]),
    "after a call": (hermes, HERMES_CALL, "a", [LOOK, ARGUMENTS, ("content", "a")]),
    "in the object": (hermes, "<tool_call>{", CALL[1:], [LOOK, ARGUMENTS]),
    "before the object": (llama, "", CALL, [LOOK, ARGUMENTS]),
    "before text": (llama, "", "a", [("content", "{}a")]),
    "in a fence": (generic, "```json\n", f"{CALL}\n```", [LOOK, ARGUMENTS]),
    "in a fence of text": (generic, "```json\n", "a", [("content", "```json\n{}a")]),
    "before a list": (mistral, "[TOOL_CALLS]", f"[{CALL}]", [LOOK, ARGUMENTS]),
}


@pytest.mark.parametrize("make,before,after,expected", PLACES.values(), ids=PLACES)
def test_what_a_blank_costs_does_not_depend_on_how_many_there_are(
    make: Callable[[], Reader], before: str, after: str, expected: list[tuple[str, str]]
) -> None:
    def seconds(count: int) -> float:
        """CPU time of reading so many blanks, a few at a time; the best of two."""
        blanks, found = PIECE * (count // len(PIECE)), []
        whole = [(kind, text if kind == "arguments" else text.replace("{}", blanks)) for kind, text in expected]
        for _ in range(2):
            reader, pieces = make(), [before, *[PIECE] * (count // len(PIECE)), after]
            began = time.thread_time()
            parts = read(reader, pieces)
            found.append(time.thread_time() - began)
            assert parts == whole
        return min(found)

    few = seconds(BLANKS // 4)
    assert seconds(BLANKS) < 8 * few + 0.1, "4 times as many cost 16 times as much if each looks at all before it"
