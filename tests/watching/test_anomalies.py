"""The watch: it learns, is quiet about harmless work, finds a copy being made, says why, and forgets nothing."""

from __future__ import annotations

import itertools
import logging
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tenantd.events import Action, Administered, Deviation, Event, Signal
from tenantd.text.sketches import Sketcher
from tenantd.watching import anomalies
from tenantd.watching.anomalies import AnomalyWatch, HabitFile
from tenantd.watching.scores import Anomaly, explain
from tests.support.little_traffic import day, extraction, harmless


@pytest.fixture(autouse=True)
def _always_the_same_key(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = itertools.count()
    monkeypatch.setattr(anomalies.secrets, "token_bytes", lambda size: next(keys).to_bytes(size, "big"))


class Watched:
    """A watch with a file, and what it has found."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "habits.npz"
        self.found: list[tuple[int, Anomaly]] = []
        key, habits = HabitFile(self.path).load()
        self.sketcher = Sketcher(key)
        self.habits = habits
        self.watch = AnomalyWatch(HabitFile(self.path), key, habits, lambda *found: self.found.append(found))

    def hear(self, events: Iterable[Event]) -> Watched:
        for event in events:
            self.watch.hear(event)
        return self

    def works(self, first: int, last: int, requests: int = 20) -> Watched:
        for number in range(first, last):
            self.hear(day(self.sketcher, number, requests + number % 7, harmless))
        return self

    def copies(self, number: int, requests: int = 60) -> Watched:
        return self.hear(day(self.sketcher, number, requests, extraction))


def test_a_tenant_that_begins_to_copy_the_model_is_found_once_a_day_and_the_reasons_are_told(tmp_path: Path) -> None:
    watched = Watched(tmp_path).works(0, 14)
    assert watched.found == []
    watched.copies(14)
    [(tenant_id, anomaly)] = watched.found
    assert tenant_id == 1 and anomaly.score >= 10
    signals = {one.signal for one in anomaly.deviations}
    assert {Signal.LOGPROBS, Signal.OUTPUT} <= signals
    text = "\n".join(explain(anomaly.deviations))
    assert "ask for logprobs or bias logits (usually 0%)" in text and "output tokens per prompt token" in text
    watched.copies(15)
    assert len(watched.found) == 2


def test_a_new_tenant_is_not_judged(tmp_path: Path) -> None:
    assert Watched(tmp_path).works(0, 3).copies(3).found == []


def test_harmless_work_that_grows_is_not_taken_for_a_copy(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    for number in range(30):
        watched.works(number, number + 1, requests=20 + 2 * number)
    assert watched.found == []


def test_what_an_administrator_clears_is_usual_from_then_on(tmp_path: Path) -> None:
    watched = Watched(tmp_path).works(0, 14).copies(14)
    cleared = Administered(action=Action.ANOMALIES_CLEARED, actor_uid=0, tenant="tenant1", tenant_id=1)
    watched.hear([cleared]).copies(15).copies(16)
    assert len(watched.found) == 1


def test_a_tenant_that_is_removed_is_forgotten(tmp_path: Path) -> None:
    watched = Watched(tmp_path).works(0, 2)
    assert len(watched.habits) == 1
    watched.hear([Administered(action=Action.TENANT_REMOVED, actor_uid=0, tenant="tenant1", tenant_id=1)])
    assert len(watched.habits) == 0


def test_what_it_knows_survives_a_restart(tmp_path: Path) -> None:
    before = Watched(tmp_path).works(0, 14)
    before.watch.save()
    after = Watched(tmp_path)
    assert after.sketcher.sketch([1, 2, 3]) == before.sketcher.sketch([1, 2, 3])
    assert len(after.copies(14).found) == 1
    assert stat.S_IMODE(after.path.stat().st_mode) == 0o600


def test_it_saves_what_it_knows_now_and_then(tmp_path: Path) -> None:
    assert Watched(tmp_path).works(0, 1).path.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"\x93NUMPY"], ids=["empty", "zip", "numpy"])
def test_a_broken_file_is_replaced_and_said(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "habits.npz").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        watched = Watched(tmp_path)
    assert "the anomaly watch starts from scratch" in caplog.text
    watched.watch.save()
    caplog.clear()
    Watched(tmp_path)
    assert not caplog.text


def test_a_full_disk_is_logged_and_the_watch_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(tmp_path / "nowhere").works(0, 14)
    assert "cannot save what the anomaly watch knows" in caplog.text
    assert len(watched.copies(14).found) == 1


def test_nothing_that_was_asked_is_in_the_file(tmp_path: Path) -> None:
    """The tokens of a distinctive prompt, in any width that a program would write them in."""
    watched = Watched(tmp_path)
    prompt = [12_345, 23_456, 31_234, 17_171] * 4

    def distinctive(_: object) -> tuple[list[int], int, bool]:
        return prompt, 5, False

    watched.hear(day(watched.sketcher, 0, 20, distinctive)).watch.save()
    content = watched.path.read_bytes()
    for width in (2, 4, 8):
        for order in ("little", "big"):
            assert b"".join(t.to_bytes(width, order) for t in prompt[:2]) not in content  # type: ignore[arg-type]


def test_every_signal_is_put_in_words_that_fit_a_terminal() -> None:
    reasons = explain(Deviation(signal=signal, value=12345.0, usual=0.25, weight=1.0) for signal in Signal)
    assert len(set(reasons)) == len(Signal) and max(map(len, reasons)) <= 76


def test_a_disk_too_full_for_the_file_keeps_the_old_one_and_no_half_of_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Any, **_: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    watched = Watched(tmp_path)
    watched.watch.save()
    before = watched.path.read_bytes()
    monkeypatch.setattr("tenantd.watching.anomalies.np.savez", full)
    watched.watch.save()
    assert [path.name for path in tmp_path.iterdir()] == ["habits.npz"] and watched.path.read_bytes() == before
