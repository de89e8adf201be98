"""How many examples Hypothesis tries: few, and always the same ones, or many times as many at random."""

from __future__ import annotations

import os
from typing import Any, Final

from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

TIMES: Final = int(os.environ.get("TENANTD_EXAMPLES", "0"))
"""How many times as many as usual, found at random. 0: the usual ones, which are the same in every run."""
SLOW: Final = [HealthCheck.too_slow]
"""How long it takes to find examples depends on what else the machine does."""
USUALLY: Final = 100  # as Hypothesis has it


def register() -> None:
    """Make it the default of all tests."""
    settings.register_profile(
        "tenantd",
        max_examples=USUALLY * max(1, TIMES),
        deadline=None,  # so does the time that an example takes
        database=None,  # what an earlier run found is written into the test
        derandomize=not TIMES,
        print_blob=True,
        suppress_health_check=SLOW,
    )
    settings.load_profile("tenantd")
    if not TIMES:
        _draw_nothing_from_sources()


def examples(usually: int, **more: Any) -> settings:
    """Settings of a test that usually tries this many."""
    return settings(max_examples=usually * max(1, TIMES), **more)


def _draw_nothing_from_sources() -> None:
    """Hypothesis draws some values from constants in the modules that are loaded, and these depend on what ran before
    in the same process, and change with every line of code."""
    if (nothing := getattr(providers, "_local_constants", None)) is not None:  # older versions have none
        providers._get_local_constants = lambda: nothing
