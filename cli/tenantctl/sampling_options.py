"""The options of `tenantctl run` that say how the next token is chosen. Ranges are the daemon's to check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tenantctl.options import finite

_PANEL = "Sampling"


def _number(name: str, help: str) -> Any:
    return typer.Option(name, metavar="NUMBER", help=help, callback=finite, rich_help_panel=_PANEL)


Temperature = Annotated[float | None, _number("--temperature", "0 takes the likeliest token.")]
TopK = Annotated[int | None, typer.Option(metavar="N", help="Only the N likeliest.", rich_help_panel=_PANEL)]
TopP = Annotated[float | None, _number("--top-p", "Only the likeliest that add up to this.")]
MinP = Annotated[float | None, _number("--min-p", "Only those at least so likely, next to the likeliest.")]
TypicalP = Annotated[float | None, _number("--typical-p", "Locally typical sampling.")]
RepeatPenalty = Annotated[float | None, _number("--repeat-penalty", "Over 1: less repetition.")]
PresencePenalty = Annotated[float | None, _number("--presence-penalty", "Against tokens that came at all.")]
FrequencyPenalty = Annotated[float | None, _number("--frequency-penalty", "Against tokens, as often as they came.")]
Seed = Annotated[int | None, typer.Option(metavar="N", help="For the same answer again.", rich_help_panel=_PANEL)]
Stop = Annotated[
    list[str] | None,
    typer.Option(metavar="TEXT", help="End before this text; may be repeated.", rich_help_panel=_PANEL),
]
IgnoreEos = Annotated[bool, typer.Option("--ignore-eos", help="Go on until --max-tokens.", rich_help_panel=_PANEL)]
Grammar = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", exists=True, dir_okay=False, help="Only text of this GBNF grammar.", rich_help_panel=_PANEL
    ),
]
Schema = Annotated[
    Path | None,
    typer.Option(metavar="FILE", exists=True, dir_okay=False, help="Only JSON of this schema.", rich_help_panel=_PANEL),
]


def constraint(grammar: Path | None, schema: Path | None) -> dict[str, Any]:
    """What the request says about the form of its answer. Raises BadParameter."""
    if grammar is not None and schema is not None:
        raise typer.BadParameter("choose one of --grammar and --schema", param_hint="--schema")
    if grammar is not None:
        return {"grammar": _text(grammar, "--grammar")}
    if schema is None:
        return {}
    try:
        parsed = json.loads(_text(schema, "--schema"))
    except ValueError as e:
        raise typer.BadParameter(f"{schema} is not JSON: {e}", param_hint="--schema") from e
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": parsed}}}


def _text(path: Path, option: str) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise typer.BadParameter(f"{path} cannot be read: {e}", param_hint=option) from e
