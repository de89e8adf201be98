"""The sampling options of `tenantctl run`. The daemon checks their ranges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from tenantctl.options import finite, number
from tenantctl.prompt_input import file_text

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
    str | None,
    typer.Option(
        metavar="FILE|JSON",
        help="Constrain the output to this JSON schema: a file, or the schema itself.",
        rich_help_panel=_PANEL,
    ),
]
FIELDS: Final = (
    "max_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
    "ignore_eos",
)
"""Options that are fields of a request, under the same name."""
MOST_CONSTRAINT_BYTES: Final = 1 << 20
"""More than any daemon takes."""


def settings(given: dict[str, Any]) -> dict[str, Any]:
    """The request fields for the options that were passed, from all values of a command. Raises BadParameter."""
    fields = {name: value for name in FIELDS if (value := given.get(name)) or _is_zero(value)}
    if given.get("timeout") is not None:
        fields["timeout_s"] = given["timeout"]
    return fields | constraint(given.get("grammar"), given.get("schema"))


def _is_zero(value: Any) -> bool:
    return value == 0 and value is not False


def constraint(grammar: Path | None, schema: str | None) -> dict[str, Any]:
    """The request fields that constrain the form of the answer. Raises BadParameter."""
    if grammar is not None and schema is not None:
        raise typer.BadParameter("choose one of --grammar and --schema", param_hint="--schema")
    if grammar is not None:
        text = file_text(grammar, "--grammar", MOST_CONSTRAINT_BYTES)
        if not text.strip():  # the daemon takes an empty one for none, and the answer could be anything
            raise typer.BadParameter(f"{grammar} is empty", param_hint="--grammar")
        return {"grammar": text}
    if schema is None:
        return {}
    is_inline = schema.lstrip().startswith("{")
    text = schema if is_inline else file_text(schema, "--schema", MOST_CONSTRAINT_BYTES)
    try:
        parsed = json.loads(text)
    except ValueError as e:
        named = "the schema" if is_inline else schema
        raise typer.BadParameter(f"{named} is not JSON: {e}", param_hint="--schema") from e
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": parsed}}}
