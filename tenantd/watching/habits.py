"""What the anomaly watch knows of each tenant: counts and sketches of fixed size, never a text or a token. Pure.

Time is cut into panes of half a day. The window that is looked at is the pane that has begun and the one before, 12 to
24 hours. What is older is the tenant's past: means that fade, with a half-life of a week, and how its windows varied.
"""

from __future__ import annotations

from heapq import nsmallest
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tenantd.domain import Sketch
from tenantd.events import Signal
from tenantd.text.sketches import FEATURES, REGISTERS, add_distinct, distinct, features

SIGNALS: Final = tuple(Signal)
PANE_MICROS: Final = 12 * 3600 * 1_000_000
HALF_LIFE_PANES: Final = 14
FRESH_PANES: Final = 28
"""Tokens count as used before for as long as this, up to twice as long."""
LEAST_PROMPTS: Final = 10
"""A window with fewer teaches nothing and is not judged."""
LEARNING_WINDOWS: Final = 14
"""Windows that must be seen before a tenant is judged: 7 days of work."""
RECENT: Final = 64
"""Prompts that a new one is compared with."""
NEAR_BITS: Final = 10
"""Prompts whose SimHashes differ in at most this many bits resemble each other."""
MOST_TENANTS: Final = 100_000
_ROWS: Final = 256
_MOST_SURPRISE: Final = 3.0
"""A window teaches as if it was at most this many deviations from the mean."""

PANE: Final = np.dtype(
    [
        ("requests", "u4"),
        ("probing", "u4"),  # with logprobs or biased logits
        ("settled", "u4"),
        ("asked_tokens", "f8"),  # prompt and output tokens of settled requests
        ("answered_tokens", "f8"),
        ("prompts", "u4"),  # sketched
        ("similar", "u4"),
        ("features", "f4", (FEATURES,)),  # their sum
        ("words", "u1", (REGISTERS,)),
        ("different", "u1", (REGISTERS,)),
    ]
)
HABIT: Final = np.dtype(
    [
        ("tenant_id", "i8"),
        ("pane", "i8"),  # number of the pane that has begun, since 1970
        ("seen_micros", "i8"),
        ("told_micros", "i8"),  # when the last anomaly was found
        ("panes", PANE, (2,)),  # that one, and the one before
        ("past_prompts", "f4"),
        ("past_features", "f4", (FEATURES,)),
        ("past_words", "u1", (2, REGISTERS)),
        ("words_panes", "u2"),  # panes in the newer of the two
        ("recent", "u8", (RECENT,)),
        ("recent_prompts", "u4"),
        ("windows", "u4"),
        ("adopting", "u1"),  # windows that are taken as usual whatever they are
        ("mean", "f4", (len(SIGNALS),)),
        ("variance", "f4", (len(SIGNALS),)),
    ]
)
FLOOR: Final = np.array([0.5, 0.1, 0.15, 0.05, 0.4, 0.25, 0.05, 0.05], np.float32)
"""Every signal is taken to vary at least as much as this: a standard deviation, in the units of `measure`."""

Row = Any
"""One element of an array of `HABIT`: a view, through which it is changed."""


class Measures(NamedTuple):
    """A window in numbers, and the standard error that each has because there are only so many prompts."""

    values: npt.NDArray[np.float64]
    errors: npt.NDArray[np.float64]


def turn_to(row: Row, at_micros: int) -> None:
    """Let time pass. The past learns from a window when its second pane ends. When the clock is set back, time goes on
    from there."""
    row["seen_micros"] = at_micros
    pane = at_micros // PANE_MICROS
    for _ in range(min(pane - int(row["pane"]), 3)):  # after three, nothing is left in the window
        _learn(row)
        _fold(row)
    row["pane"] = pane


def add_request(row: Row, *, is_probing: bool) -> None:
    """A request was admitted."""
    pane = row["panes"][0]
    pane["requests"] += 1
    pane["probing"] += is_probing


def add_answer(row: Row, prompt_tokens: int, completion_tokens: int) -> None:
    """A request has ended."""
    pane = row["panes"][0]
    pane["settled"] += 1
    pane["asked_tokens"] += prompt_tokens
    pane["answered_tokens"] += completion_tokens


def add_prompt(row: Row, sketch: Sketch) -> None:
    """A prompt was sketched."""
    pane = row["panes"][0]
    recent = row["recent"]
    known = min(int(row["recent_prompts"]), RECENT)
    simhash = np.uint64(sketch.simhash)
    pane["prompts"] += 1
    pane["similar"] += known > 0 and int(np.bitwise_count(recent[:known] ^ simhash).min()) <= NEAR_BITS
    recent[int(row["recent_prompts"]) % RECENT] = simhash
    row["recent_prompts"] += 1
    pane["features"] += features(sketch)
    words = pane["words"]
    np.maximum(words, np.frombuffer(bytes(sketch.vocabulary), np.uint8), out=words)
    add_distinct(pane["different"], sketch.digest)


def is_known(row: Row) -> bool:
    """Whether enough is known of the tenant's past to judge it, and there is enough to judge."""
    learned = int(row["windows"]) >= LEARNING_WINDOWS and not row["adopting"]
    return learned and _prompts(row) >= LEAST_PROMPTS


def measure(row: Row) -> Measures:
    """The signals of the window, in the order of `SIGNALS`.

    Counts and ratios are natural logarithms, and distances are those of mean random features.
    """
    now, before = row["panes"]
    requests = int(now["requests"]) + int(before["requests"])
    prompts = _prompts(row)
    probing = (int(now["probing"]) + int(before["probing"])) / max(1, requests)
    similar = (int(now["similar"]) + int(before["similar"])) / max(1, prompts)
    different = min(1.0, distinct(np.maximum(now["different"], before["different"])) / max(1, prompts))
    asked = float(now["asked_tokens"] + before["asked_tokens"])
    answered = float(now["answered_tokens"] + before["answered_tokens"])
    words = np.maximum(now["words"], before["words"])
    used = max(1.0, distinct(words))
    past = row["past_words"].max(axis=0)
    new = max(0.0, distinct(np.maximum(words, past)) - distinct(past)) / used
    share_error = 0.5 / np.sqrt(max(1, prompts))
    values = [
        np.log1p(requests),
        different,
        similar,
        probing,
        np.log((answered + 1) / (asked + 1)),
        np.log1p(used),
        new,
        _distance(row, now, before, prompts),
    ]
    errors = [0.0, share_error / 2, share_error, share_error, 2 * share_error, 2 * share_error, share_error, 0.0]
    return Measures(np.array(values), np.array(errors))


def deviations(row: Row, measures: Measures) -> npt.NDArray[np.float64]:
    """How many standard deviations each signal is from its past mean. 0 while nothing is known."""
    windows = int(row["windows"])
    if windows < 2:
        return np.zeros(len(SIGNALS))
    spread = row["variance"] * windows / (windows - 1) + FLOOR**2 + measures.errors**2
    return np.asarray((measures.values - row["mean"]) / np.sqrt(spread))


def accept(row: Row) -> None:
    """What the tenant does now is usual from now on: an administrator says that it is harmless.

    It is not judged until two panes have ended, so that there is a whole window of it to learn from.
    """
    row["told_micros"] = 0
    row["adopting"] = 2


def _adopt(row: Row, values: npt.NDArray[np.float64]) -> None:
    """Let the past be like the window, however unlike it was."""
    difference = values - row["mean"]
    row["mean"] += difference
    row["variance"] += difference**2 / 4


def _prompts(row: Row) -> int:
    return int(row["panes"]["prompts"].sum())


def _distance(row: Row, now: Row, before: Row, prompts: int) -> float:
    """The maximum mean discrepancy of the window and the past, without what is due to their finite numbers."""
    past_prompts = float(row["past_prompts"])
    if past_prompts < LEAST_PROMPTS or prompts < LEAST_PROMPTS:
        return 0.0
    mean = (now["features"] + before["features"]) / prompts
    past_mean = row["past_features"] / past_prompts
    noise = max(0.0, 1.0 - float(np.mean(mean**2))) * (1 / prompts + 1 / past_prompts)
    return float(np.sqrt(max(0.0, float(np.mean((mean - past_mean) ** 2)) - noise)))


def _learn(row: Row) -> None:
    """Add the window, which is complete, to the means and variances of windows."""
    if _prompts(row) < LEAST_PROMPTS:
        return
    measures = measure(row)
    if row["adopting"]:
        row["adopting"] -= 1
        _adopt(row, measures.values)
    windows = int(row["windows"])
    difference = measures.values - row["mean"]
    if windows >= LEARNING_WINDOWS // 2:
        most = _MOST_SURPRISE * np.sqrt(row["variance"] + FLOOR**2 + measures.errors**2)
        difference = np.clip(difference, -most, most)
    share = 1 / min(windows + 1, 2 * HALF_LIFE_PANES)
    row["mean"] += share * difference
    row["variance"] = (1 - share) * (row["variance"] + share * difference**2)
    row["windows"] += 1


def _fold(row: Row) -> None:
    """Let the older pane become a part of the past, and begin a new one."""
    panes = row["panes"]
    decay = 0.5 ** (1 / HALF_LIFE_PANES)
    row["past_prompts"] *= decay
    row["past_features"] *= decay
    _remember(row, panes[1])
    row["words_panes"] += 1
    if row["words_panes"] >= FRESH_PANES:
        row["past_words"][1] = row["past_words"][0]
        row["past_words"][0] = 0
        row["words_panes"] = 0
    panes[1] = panes[0]
    panes[0] = np.zeros((), PANE)


def _remember(row: Row, pane: Row) -> None:
    row["past_prompts"] += pane["prompts"]
    row["past_features"] += pane["features"]
    words = row["past_words"][0]
    np.maximum(words, pane["words"], out=words)


class Habits:
    """The habits of all tenants. Once there are `most_tenants`, those not seen for the longest time are forgotten."""

    def __init__(self, most_tenants: int = MOST_TENANTS) -> None:
        self._most_tenants = most_tenants
        self._chunks: list[npt.NDArray[Any]] = []
        self._places: dict[int, int] = {}
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self._places)

    def get(self, tenant_id: int) -> Row | None:
        """What is known of a tenant; None if nothing is."""
        place = self._places.get(tenant_id)
        return None if place is None else self._at(place)

    def of(self, tenant_id: int, at_micros: int) -> Row:
        """What is known of a tenant at a time."""
        row = self.get(tenant_id)
        if row is None:
            row = self._new(tenant_id)
            row["pane"] = at_micros // PANE_MICROS
        turn_to(row, at_micros)
        return row

    def forget(self, tenant_id: int) -> None:
        """Forget a tenant, which was removed or is not seen any more."""
        if (place := self._places.pop(tenant_id, None)) is not None:
            self._set(place, np.zeros((), HABIT))
            self._free.append(place)

    def rows(self) -> npt.NDArray[Any]:
        """A copy of everything."""
        copy = np.zeros(len(self._places), HABIT)
        for i, place in enumerate(self._places.values()):  # not at once, because that would stop all other threads
            copy[i] = self._at(place)
        return copy

    def restore(self, rows: npt.NDArray[Any]) -> None:
        """Take over what `rows` returned."""
        for row in rows[-self._most_tenants :]:
            self._new(int(row["tenant_id"]))
            self._set(self._places[int(row["tenant_id"])], row)

    def _at(self, place: int) -> Row:
        return self._chunks[place // _ROWS][place % _ROWS]

    def _set(self, place: int, row: Any) -> None:
        self._chunks[place // _ROWS][place % _ROWS] = row

    def _new(self, tenant_id: int) -> Row:
        self.forget(tenant_id)
        if len(self._places) >= self._most_tenants:
            self._forget_oldest()
        if not self._free:
            first = len(self._chunks) * _ROWS
            self._chunks.append(np.zeros(_ROWS, HABIT))
            self._free = list(range(first + _ROWS - 1, first - 1, -1))
        place = self._places[tenant_id] = self._free.pop()
        row = self._at(place)
        row["tenant_id"] = tenant_id
        return row

    def _forget_oldest(self) -> None:
        """A hundredth at once, because looking for them takes a while."""
        seen = np.concatenate([chunk["seen_micros"] for chunk in self._chunks])
        number = max(1, self._most_tenants // 100)
        for tenant_id in nsmallest(number, self._places, key=lambda tenant_id: int(seen[self._places[tenant_id]])):
            self.forget(tenant_id)
