"""The screen as lines of text: what is common to all pages, and the page of all tenants. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rich.cells import cell_len
from rich.text import Text

from tenantctl.commands.stats import rate
from tenantctl.render import SHORT_ID_DIGITS
from tenantctl.top.choices import Choices, Page
from tenantctl.top.columns import ROOMY, Column, Grid, fitted, window
from tenantctl.top.gpu_gauges import Gauges
from tenantctl.top.live_rows import Row, View, recent, used_fraction
from tenantctl.top.samples import Ended
from tenantctl.units import NOTHING, count, lasting, moment, plural, size
from tenantd.printable import one_line

DOT: Final = " · "
LEAST_RECENT: Final = 3
"""Lines of ended requests below the tenants, if there are `ENOUGH` lines for all."""
ENOUGH: Final = 12
MOST_GPUS: Final = 2
STATES: Final = {"ready": "green", "loading": "yellow", "restarting": "yellow", "checking": "yellow"}
COUNTED: Final = {"running": "running", "paused": "paused", "waiting": "queued"}


@dataclass(frozen=True)
class Status:
    """What is said beside the figures. `trouble` is why there are no new ones, `said` the outcome of an order."""

    time: str = ""
    every_s: float = 1.0
    trouble: str = ""
    said: str = ""
    is_error: bool = False
    gauges: list[Gauges] = field(default_factory=list)


def header(view: View, choices: Choices, status: Status, width: int) -> list[Text]:
    """What the daemon and its engine are and do."""
    daemon = view.sample.daemon
    left = Text.assemble(("tenantd", "bold"), f" {daemon.get('version', '')}".rstrip())
    name = daemon.get("model") if view.sample.is_whole else view.rows[0].name
    left.append(f"  {one_line(name or '', 40)}", "bold cyan")
    left.append(f"  {_state(daemon)}", STATES.get(daemon["state"], "red"))
    if restarts := daemon.get("engine_restarts"):
        left.append(f"  {plural(restarts, 'engine restart')}", "yellow")
    if status.trouble:
        right = Text(f"no answer since {status.time}", "bold red")
    elif choices.is_paused:
        right = Text(f"stopped at {status.time}", "bold yellow")
    else:
        right = Text(f"every {status.every_s:g} s  {status.time}", "dim")
    lines = [_sides(left, right, width)]
    if daemon.get("engine"):
        lines.append(_labelled("engine", engine_parts(daemon)))
    lines.append(_labelled("now", _speeds(view)))
    counts = [f"{view.totals[state]} {word}" for state, word in COUNTED.items()]
    busy = sum(row.is_busy for row in view.rows)
    tenants = [f"{busy} of {len(view.rows)} tenants have work"] if view.sample.is_whole else []
    lines.append(_labelled("requests", [*counts, *tenants]))
    lines += [_labelled("gpu", gauges.parts()) for gauges in status.gauges[:MOST_GPUS]]
    for each in lines:
        each.truncate(width, overflow="ellipsis")
    return lines


def _state(daemon: dict[str, Any]) -> str:
    state = str(daemon["state"])
    return f"{state} {daemon['progress']:.0%}" if state in ("loading", "checking") else state


def _speeds(view: View) -> list[str]:
    engine = view.engine
    if engine.output_per_s is None:
        return ["measuring …"]
    parts = [f"{per_second(engine.output_per_s)} tok/s out", f"{per_second(engine.input_per_s)} in"]
    if engine.step_ms is not None:
        parts.append(f"step {lasting(engine.step_ms * 1000)}")
    if engine.busy is not None:
        parts.append(f"engine {engine.busy:.0%} busy")
    return parts


def per_second(value: float | None) -> str:
    """Tokens a second."""
    return NOTHING if value is None else rate(value) if value else "0"


def engine_parts(daemon: dict[str, Any]) -> list[str]:
    """What is loaded, and what memory it takes."""
    engine, cache = daemon["engine"], daemon.get("cache", {})
    device = engine["device"]
    if engine["gpu_build"] and engine["layers_offloaded"] < engine["layers"]:
        device += f" ({engine['layers_offloaded']} of {engine['layers']} layers)"
    parts = [one_line(device), f"{engine['slots']} slots of {engine['context_tokens']:,}"]
    parts.append(f"{size(engine['model_bytes'])} weights, {size(engine['kv_bytes'])} KV")
    if cache.get("used_bytes"):
        parts.append(f"{size(cache['used_bytes'])} cached")
    return parts


def footer(choices: Choices, status: Status, width: int) -> Text:
    """A question, what is typed, what went wrong, or the keys."""
    if (asked := choices.asked) is not None:
        text = Text(f"{asked.what.capitalize()} {asked.name}? y/n", "bold yellow")
    elif choices.is_typing:
        text = _with_filter(choices.filter, "  Enter keep  Esc clear", "▏", width)
    elif status.said:
        text = Text(one_line(status.said), "red" if status.is_error else "green")
    elif status.trouble:
        text = Text(one_line(f"trying again: {status.trouble}"), "bold red")
    else:
        text = _keys(choices, width)
    text.truncate(width, overflow="ellipsis")
    return text


def _keys(choices: Choices, width: int) -> Text:
    keys = _OWN_KEYS if choices.only is not None and choices.page is Page.TENANT else _KEYS[choices.page]
    is_filtered = bool(choices.filter) and choices.page is Page.TENANTS
    shown = (_FILTERED_KEYS if is_filtered else keys).format(
        sort=choices.sort,
        space="space resume" if choices.is_paused else "space stop",
        or_reverse="space resume" if choices.is_paused else "r reverse",
    )
    return _with_filter(choices.filter, f"  {shown}", "", width) if is_filtered else Text(shown, "dim")


def _with_filter(typed: str, keys: str, cursor: str, width: int) -> Text:
    """The end of a filter, as far as there is room beside the keys."""
    room = max(1, width - cell_len(f"filter: {cursor}{keys}"))
    while cell_len(typed) > room:
        typed = f"…{typed[2:]}" if typed[0] == "…" and len(typed) > 1 else f"…{typed[1:]}"
    return Text.assemble(("filter: ", "bold" if cursor else "yellow"), typed, (cursor, "blink"), (keys, "dim"))


_KEYS: Final = {
    Page.TENANTS: "q quit  ? help  Enter open  s sort: {sort}  {or_reverse}  / filter  S suspend",
    Page.TENANT: "Esc back  ? help  ↑↓ select  c cancel request  S suspend  {space}  q quit",
    Page.HELP: "any key: back",
}
_FILTERED_KEYS: Final = "Esc clear  Enter open  s sort: {sort}  {or_reverse}  q quit"
_OWN_KEYS: Final = "q quit  ? help  ↑↓ select  c cancel request  {space}"


def tenants_page(view: View, rows: Sequence[Row], choices: Choices, width: int, height: int) -> list[Text]:
    """The table of tenants, and below it the requests that have ended, in at most `height` lines."""
    ended = [each for each in recent(view.sample) if choices.filter in each.tenant]
    has_both = bool(ended) and height >= ENOUGH
    most = max(1, height - 1 - (LEAST_RECENT + 2 if has_both else 0))
    shown = window([row.name for row in rows], choices.tenant, most if len(rows) <= most else max(1, most - 1))
    lines = _tenant_table(rows, shown, choices, width)
    if not rows:
        lines.append(Text("no tenant's name contains this" if choices.filter else "no tenants yet", "dim"))
    elif len(shown) < len(rows):
        lines.append(Text(f"{shown.start + 1} to {shown.stop} of {len(rows)} tenants", "dim"))
    if has_both:
        lines += [Text(""), *_ended_table(ended[: height - len(lines) - 2], width)]
    return lines


def _tenant_table(rows: Sequence[Row], shown: range, choices: Choices, width: int) -> list[Text]:
    """The names of the columns, and the tenants that are shown."""
    bar_cells = 6 if width < ROOMY else 10
    longest = max([6, *(len(row.name) for row in rows)])
    grid = Grid(_columns(min(longest, 12 if width < ROOMY else 20), bar_cells), width)
    lines = [grid.head()]
    scale = max([*(row.share or 0 for row in rows), *(row.entitled or 0 for row in rows), 0.01])
    for at in shown:
        text = grid.row(_cells(rows[at], scale, bar_cells))
        if rows[at].name == choices.tenant:
            text.stylize("reverse")
        elif not rows[at].is_busy:
            text.stylize("dim")
        lines.append(text)
    return lines


def _columns(name_cells: int, bar_cells: int) -> list[Column]:
    return [
        Column("tenant", name_cells, is_right=False),
        Column("run", 3),
        Column("paus", 4),
        Column("queue", 5),
        Column("tok/s", 6),
        Column("in/s", 6, spare=4),
        Column("share/entitled", bar_cells + len(" 100/100%"), is_right=False),
        Column("1st p50", 7, spare=3),
        Column("1st p99", 7),
        Column("limit", 5, spare=1),
        Column("budget", 6, spare=2),
        Column("slow because", 15, is_right=False, grows=True),
    ]


def _cells(row: Row, scale: float, bar_cells: int) -> list[Text | str]:
    told, why = row.told, row.why
    more = f" +{len(why) - 1}" if len(why) > 1 else ""
    return [
        Text(one_line(row.name), "bold" if row.is_busy else ""),
        *(count(told[state]) for state in COUNTED),
        per_second(row.output_per_s),
        per_second(row.input_per_s),
        share_bar(row, scale, bar_cells),
        lasting(row.first_p50_micros),
        lasting(row.first_p99_micros),
        _tinted(row.limit.fraction if row.limit else None),
        _tinted(None if row.budget is None else used_fraction(row.budget)),
        Text(why[0].short + more, "red" if why[0].is_grave else "yellow") if why else "",
    ]


def _tinted(used: float | None) -> Text:
    if used is None:
        return Text(NOTHING)
    return Text(f"{int(used * 100)}%", "red" if used >= 1 else "yellow" if used >= 0.8 else "")


def share_bar(row: Row, scale: float, cells: int) -> Text:
    """The share of the service as a bar, a mark at what the tenant is entitled to, and both in percent."""
    share, entitled = row.share or 0.0, row.entitled
    if not share and entitled is None:
        return Text(" " * (cells + 1) + NOTHING)
    full = round(share / scale * cells)
    is_behind = entitled is not None and share < 0.8 * entitled
    bar = Text("█" * full + " " * (cells - full), "yellow" if is_behind else "green")
    if entitled is None:
        return Text.assemble(bar, f" {share:.0%}")
    at = min(cells - 1, round(entitled / scale * cells))
    return Text.assemble(bar[:at], ("┃", "bold"), bar[at + 1 :], f" {share * 100:.0f}/{entitled:.0%}")


def _ended_table(ended: Sequence[Ended], width: int) -> list[Text]:
    grid = Grid(_ENDED, width)
    lines = [grid.head()]
    for each in ended:
        request, *cells = ended_cells(each)
        lines.append(grid.row([request, moment(each.at_micros)[-8:], each.tenant, *cells]))
    return lines


_ENDED: Final = [
    Column("request", 8, is_right=False),
    Column("ended at", 8, is_right=False, spare=1),
    Column("tenant", 16, is_right=False),
    Column("state", 12, is_right=False),
    Column("prompt", 6),
    Column("output", 6),
    Column("1st", 7),
    Column("took", 7),
    Column("error", 8, is_right=False, grows=True),
]


def ended_cells(each: Ended) -> list[Text | str]:
    """Of a request that has ended: its id, state, tokens, times and error."""
    style = "red" if each.state in ("failed", "interrupted") else ""
    return [
        each.id[-SHORT_ID_DIGITS:],
        Text(each.state, style),
        count(each.prompt_tokens),
        count(each.completion_tokens),
        lasting(each.first_token_micros),
        lasting(each.duration_micros),
        Text(one_line(each.cause), style),
    ]


def _labelled(label: str, parts: Sequence[str]) -> Text:
    return Text.assemble((f"{label:<10}", "cyan"), DOT.join(parts))


def _sides(left: Text, right: Text, width: int) -> Text:
    room = width - len(right.plain) - 1
    return Text.assemble(fitted(left, room), " ", right) if room >= 20 else left
