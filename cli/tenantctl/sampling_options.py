"""The sampling options of `tenantctl run`. The daemon checks their ranges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tenantctl.options import finite, number

_PANEL = "Sampling"


def _number(name: str, help: str) -> Any:
    return typer.Option(name, metavar="NUMBER", help=help, parser=number, callback=finite, rich_help_panel=_PANEL)


Temperature = Annotated[float | None, _number("--temperature", "0 always picks the most likely token.")]
TopK = Annotated[int | None, typer.Option(metavar="N", help="Keep the N most likely tokens.", rich_help_panel=_PANEL)]
TopP = Annotated[float | None, _number("--top-p", "Keep the most likely tokens that add up to this.")]
MinP = Annotated[float | None, _number("--min-p", "Drop tokens less likely than NUMBER × the likeliest.")]
TypicalP = Annotated[float | None, _number("--typical-p", "Locally typical sampling; 1 turns it off.")]
RepeatPenalty = Annotated[float | None, _number("--repeat-penalty", "Penalise repeated tokens; 1 turns it off.")]
PresencePenalty = Annotated[float | None, _number("--presence-penalty", "Penalise tokens already used.")]
FrequencyPenalty = Annotated[
    float | None, _number("--frequency-penalty", "Penalise tokens by how often they were used.")
]
Seed = Annotated[
    int | None, typer.Option(metavar="N", help="Random seed, for repeatable answers.", rich_help_panel=_PANEL)
]
Stop = Annotated[
    list[str] | None,
    typer.Option(metavar="TEXT", help="Stop before this text; may be repeated.", rich_help_panel=_PANEL),
]
IgnoreEos = Annotated[
    bool, typer.Option("--ignore-eos", help="Always generate --max-tokens tokens.", rich_help_panel=_PANEL)
]
Grammar = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="Constrain the output to this GBNF grammar.",
        rich_help_panel=_PANEL,
    ),
]
Schema = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="Constrain the output to this JSON schema.",
        rich_help_panel=_PANEL,
    ),
]


def constraint(grammar: Path | None, schema: Path | None) -> dict[str, Any]:
    """The request fields that constrain the form of the answer. Raises BadParameter."""
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
        raise typer.BadParameter(f"cannot read {path}: {e}", param_hint=option) from e
