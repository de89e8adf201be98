"""The lines that isolation rests on, each broken in one way, with the test that fails then.

The first of an area is tried in every run, so its test should be a quick one.
"""

from __future__ import annotations

from typing import Final

from tests.mutations import cache_lines, daemon_lines, engine_lines

MUTATIONS: Final = [
    *daemon_lines.IDENTITY,
    *daemon_lines.SCOPES,
    *engine_lines.SLOTS,
    *engine_lines.BINDING,
    *engine_lines.SCRUB,
    *cache_lines.CACHE,
    *daemon_lines.RETURN_PATH,
    *daemon_lines.GUARD,
    *daemon_lines.SYSTEM_PROMPT,
    *engine_lines.SYSTEM_PROMPT,
    *daemon_lines.SETTLEMENT,
    *daemon_lines.AUDIT,
]
