"""`tenantctl bench`: measure how fairly a server is shared under load."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tenantctl.bench.suites import SUITES, Suite
from tenantctl.options import Json, connect, examples, finite
from tenantctl.render import message, print_json, print_table
from tenantd.errors import InvalidRequest

if TYPE_CHECKING:
    from tenantctl.bench.session import Options

EXAMPLES = examples(
    "tenantctl bench    [dim]# list the suites[/]",
    "tenantctl bench flood --png flood.png",
    "tenantctl bench weighted --duration 60 --json > weighted.json",
    "tenantctl bench flood --url http://127.0.0.1:8080/v1 --extra cache_prompt=false",
    "tenantctl bench flood --url http://127.0.0.1:4000/v1 --tenant-key quiet=sk-1 --tenant-key noisy=sk-2",
)
LEAST_SECONDS, MOST_SECONDS = 0.5, 86_400


def _suite(name: str | None) -> str | None:
    if name is not None and name not in SUITES:
        raise typer.BadParameter(f"unknown suite; choose from {', '.join(SUITES)}")
    return name


def _positive(value: float | None) -> float | None:
    if finite(value) is not None and value is not None and value <= 0:
        raise typer.BadParameter("must be more than 0")
    return value


def _vocabulary(text: str | None) -> str | None:
    if text is not None:
        first, _, last = text.partition("-")
        if not (first.isdecimal() and last.isdecimal() and int(first) < int(last)):
            raise typer.BadParameter("must be FIRST-LAST, for example 1000-100000")
    return text


def _pairs(pairs: list[str] | None) -> list[str] | None:
    for pair in pairs or []:
        if not pair.partition("=")[0] or "=" not in pair:
            raise typer.BadParameter(f"must be name=value (got {pair!r})")
    return pairs


def bench(
    ctx: typer.Context,
    suite: Annotated[
        str | None, typer.Argument(metavar="SUITE", help="Suite to run; omit to list them.", callback=_suite)
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=LEAST_SECONDS, max=MOST_SECONDS, callback=finite, help="Run for SECONDS."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Random seed; same seed, same arrivals.")] = 1,
    url: Annotated[str | None, typer.Option(metavar="URL", help="Measure the OpenAI-compatible server at URL.")] = None,
    api_key: Annotated[str, typer.Option(metavar="KEY", help="API key for --url.")] = "",
    tenant_key: Annotated[
        list[str] | None,
        typer.Option(metavar="TENANT=KEY", help="API key of one tenant for --url; may be repeated.", callback=_pairs),
    ] = None,
    extra: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=JSON", help="Add a field to every request to --url; may be repeated.", callback=_pairs
        ),
    ] = None,
    rate_scale: Annotated[
        float | None,
        typer.Option(
            metavar="NUMBER",
            help="Multiply the arrival rate (vtc suites calibrate it first by default).",
            callback=_positive,
        ),
    ] = None,
    length_scale: Annotated[
        float, typer.Option(metavar="NUMBER", help="Multiply prompt and output lengths.", callback=_positive)
    ] = 1.0,
    vocabulary: Annotated[
        str | None,
        typer.Option(metavar="FIRST-LAST", help="Range of token ids for prompts.", callback=_vocabulary),
    ] = None,
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Plot service and times to first token.")] = None,
    json: Json = False,
) -> None:
    """Measure how fairly a server is shared under load.

    Creates temporary tenants on the daemon and removes them afterwards; their requests stay in the ledger and appear
    on no invoice. With --url everything goes to that server, and tenants are only labels. Ctrl-C ends the run early
    and prints what was measured so far.
    """
    if suite is None:
        _list(json)
        return
    for option, given in (("--api-key", api_key), ("--tenant-key", tenant_key), ("--extra", extra)):
        if url is None and given:
            raise typer.BadParameter("only with --url", param_hint=option)
    chosen = SUITES[suite].with_lengths(length_scale)
    options = _options(chosen, length_scale, duration, seed, rate_scale, vocabulary, png)
    keys = dict(pair.split("=", 1) for pair in tenant_key or [])
    _run(ctx, options, url, api_key, keys, extra or [], json)


def _options(
    suite: Suite,
    length_scale: float,
    duration: float | None,
    seed: int,
    rate_scale: float | None,
    vocabulary: str | None,
    png: Path | None,
) -> Options:
    from tenantctl.bench.plot import require_matplotlib
    from tenantctl.bench.session import Options

    if png is not None:
        require_matplotlib()
        if not png.absolute().parent.is_dir():
            raise InvalidRequest(f"--png: no such folder: {png.absolute().parent}")
    tokens = None
    if vocabulary is not None:
        first, last = map(int, vocabulary.split("-"))
        tokens = range(first, last + 1)
    return Options(suite, length_scale, duration or suite.duration_s, seed, rate_scale, tokens, png)


def _run(
    ctx: typer.Context,
    options: Options,
    url: str | None,
    api_key: str,
    tenant_keys: dict[str, str],
    extra: list[str],
    json: bool,
) -> None:
    from tenantctl.bench.display import notes, print_figures
    from tenantctl.bench.plot import write_png
    from tenantctl.bench.session import measure_daemon, measure_url

    if url is not None:
        measurement = measure_url(options, url, api_key, tenant_keys, dict(map(_field, extra)))
    else:
        with connect(ctx) as client:
            measurement = measure_daemon(options, client)
        message("removed the temporary tenants; their requests stay in the ledger and appear on no invoice")
    if json:
        print_json(measurement.as_json())
        for note in notes(measurement):
            message(note)
    else:
        print_figures(measurement)
    if options.png is not None:
        write_png(options.png, measurement)
    if measurement.interrupted:
        raise typer.Exit(130)


def _field(text: str) -> tuple[str, Any]:
    """Split name=value; a value that is not JSON is taken as text."""
    name, _, value = text.partition("=")
    try:
        return name, jsonlib.loads(value)
    except ValueError:
        return name, value


def _list(json: bool) -> None:
    if json:
        print_json([{"suite": s.name, "about": s.about, "seconds": s.duration_s} for s in SUITES.values()])
    else:
        print_table(["suite", "seconds>", ""], [(s.name, f"{s.duration_s:g}", s.about) for s in SUITES.values()])
