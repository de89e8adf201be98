"""One look, printed: for pipes, and for programs as JSON."""

from __future__ import annotations

from typing import Any, Final

from tenantctl.render import print_fields, print_table, short_names
from tenantctl.top.live_rows import Row, View, recent, used_fraction
from tenantctl.top.painting import COUNTED, DOT, engine_parts, per_second
from tenantctl.units import NOTHING, count, lasting

SPARE: Final = ("in/s", "1st p50", "paused", "budget", "limit", "entitled", "queued")
"""Columns that are left out first on a narrow terminal."""
MOST_ENDED: Final = 20


def print_view(view: View) -> None:
    """As a table."""
    daemon, engine = view.sample.daemon, view.engine
    fields: dict[str, object] = {"state": daemon["state"]}
    if daemon.get("engine"):
        fields |= {"model": daemon["model"], "engine": DOT.join(engine_parts(daemon))}
    fields["requests"] = ", ".join(f"{view.totals[state]} {word}" for state, word in COUNTED.items())
    fields["tokens a second"] = f"{per_second(engine.output_per_s)} out, {per_second(engine.input_per_s)} in"
    if engine.busy is not None:
        step = "" if engine.step_ms is None else f", {lasting(engine.step_ms * 1000)} a step"
        fields["engine busy"] = f"{engine.busy:.0%}{step}"
    print_fields(fields)
    print()
    columns = ["tenant", "running>", "paused>", "queued>", "tok/s>", "in/s>", "share>", "entitled>"]
    columns += ["1st p50>", "1st p99>", "limit>", "budget>", "slow because"]
    names = short_names([row.name for row in view.rows])
    print_table(columns, [_cells(name, row) for name, row in zip(names, view.rows, strict=True)], SPARE)


def _cells(name: str, row: Row) -> list[object]:
    return [
        name,
        *(count(row.told[state]) for state in COUNTED),
        per_second(row.output_per_s),
        per_second(row.input_per_s),
        NOTHING if row.share is None else f"{row.share:.0%}",
        NOTHING if row.entitled is None else f"{row.entitled:.0%}",
        lasting(row.first_p50_micros),
        lasting(row.first_p99_micros),
        None if row.limit is None else f"{row.limit.fraction:.0%}",
        None if row.budget is None else f"{used_fraction(row.budget):.0%}",
        ", ".join(reason.short for reason in row.why),
    ]


def as_json(view: View) -> dict[str, Any]:
    """All that is shown and what it is computed from."""
    return {
        **view.sample.daemon,
        "output_tokens_per_s": view.engine.output_per_s,
        "input_tokens_per_s": view.engine.input_per_s,
        "busy": view.engine.busy,
        "step_ms": view.engine.step_ms,
        "tenants": [
            {
                **row.told,
                "output_tokens_per_s": row.output_per_s,
                "input_tokens_per_s": row.input_per_s,
                "share": row.share,
                "entitled": row.entitled,
                "p50_first_token_micros": row.first_p50_micros,
                "p99_first_token_micros": row.first_p99_micros,
                "slow_because": [{"code": each.code, "text": each.whole} for each in row.why],
            }
            for row in view.rows
        ],
        "requests": view.sample.requests,
        "ended": [each._asdict() for each in recent(view.sample)[:MOST_ENDED]],
    }
