"""How many threads compute unless engine.threads says so."""

from __future__ import annotations

import os

import psutil
import pytest

from tenantd.llamacpp import devices


@pytest.mark.parametrize(
    ("physical", "allowed", "threads"),
    [(8, 16, 7), (2, 2, 1), (1, 2, 1), (8, 4, 3), (8, 1, 1), (None, 4, 3)],
    ids=["all but one", "of two", "the only one", "as few as allowed", "only one allowed", "unknown"],
)
def test_one_physical_core_is_left_to_others(
    monkeypatch: pytest.MonkeyPatch, physical: int | None, allowed: int, threads: int
) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: None if logical else physical)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(allowed)))
    assert devices.default_threads() == threads
