"""`tenantctl model`: which GGUF files there are, what they are, and what memory they would take here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tenantctl.ledger_place import progress
from tenantctl.model_search import MOST_DEPTH, gguf_files, usual_folders
from tenantctl.model_words import from_home
from tenantctl.options import Json, examples
from tenantctl.render import message, print_fields, print_json, print_table
from tenantctl.units import NOTHING
from tenantd.errors import ModelError, UnusableFile
from tenantd.printable import one_line

if TYPE_CHECKING:
    from tenantctl.proposal import Proposal
    from tenantd.llamacpp.header import Header

app = typer.Typer(name="model", help="Inspect GGUF files without loading them.", no_args_is_help=True)

MOST_AT_ONCE: Final = 4


@app.command("list", epilog=examples("tenantctl model list", "tenantctl model list ~/models --json"))
def list_models(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Folder to search. Default: the usual folders for models.")
    ] = None,
    json: Json = False,
) -> None:
    """List the GGUF files in a folder and its subfolders, and how each would be served.

    The last column shows the slots and the context that `tenantctl init` would propose for the memory that is free now,
    or that the model does not fit. Files that cannot be served are listed with the reason.
    """
    if folder is not None and not folder.is_dir():
        raise UnusableFile(f"{folder} is not a folder; for one file: tenantctl model info FILE")
    files = gguf_files(usual_folders() if folder is None else [(folder, MOST_DEPTH)])
    headers, unfit = _found(files.paths)
    plans = _plans(headers)
    if json:
        models = [_as_json(header, plan) for header, plan in zip(headers, plans, strict=True)]
        print_json({"models": models, "unfit": [{"path": str(path), "reason": why} for path, why in unfit]})
        return
    rows = [
        (
            _shown(header.path, folder),
            header.architecture,
            _count(header.parameters),
            header.quantisation,
            _size(header.size_bytes),
            header.context_tokens or NOTHING,
            _yes(header.has_chat_template),
            _fit(plan),
        )
        for header, plan in zip(headers, plans, strict=True)
    ]
    if rows:
        columns = ["file", "arch", "params>", "quant", "size>", "context>", "chat", "slots × context"]
        print_table(columns, rows, ("arch", "context", "params"))
    refused = [(header.path, plan) for header, plan in zip(headers, plans, strict=True) if isinstance(plan, str)]
    for path, why in refused + unfit:
        message(one_line(f"{_shown(path, folder)}: {_without_name(why, path)}"))
    if not rows:
        message(f"no models in {folder or 'the usual folders'}")
    if not files.is_complete:
        message("there are too many folders to search them all; name one of them")


@app.command(epilog=examples("tenantctl model info ~/models/gemma.gguf"))
def info(
    file: Annotated[Path, typer.Argument(metavar="GGUF", help="A model, an adapter or another GGUF file.")],
    json: Json = False,
) -> None:
    """Show what a GGUF file is, and how much memory it would take here.

    Reads only its metadata. Slots and context are those that `tenantctl init` would propose.
    """
    from tenantctl.proposal import cost_lines, slots_line
    from tenantd.llamacpp.gguf import NotGguf
    from tenantd.llamacpp.header import read_header

    try:
        header = read_header(file.expanduser())
    except NotGguf as e:
        raise ModelError(str(e)) from None
    plan = _plan(header)
    if json:
        print_json(_as_json(header, plan))
        return
    fields: dict[str, object] = {
        "file": from_home(header.path),
        "name": header.name,
        "kind": header.kind,
        "architecture": header.architecture,
        "parameters": _count(header.parameters),
        "quantisation": header.quantisation,
        "size": _size(header.size_bytes) + (f" in {header.parts} files" if header.parts > 1 else ""),
        "context": f"{header.context_tokens} tokens" if header.context_tokens else NOTHING,
        "chat template": _yes(header.has_chat_template),
        "proposal": NOTHING if isinstance(plan, str) else slots_line(plan.config),
    }
    if header.is_projector:
        fields = {name: fields[name] for name in ("file", "name", "kind", "size")} | {"images": _images(header)}
    print_fields(fields)
    if header.is_projector:
        message(header.trouble)
        return
    for line in [f"cannot be served here: {plan}"] if isinstance(plan, str) else cost_lines(plan):
        message(line)


def _images(header: Header) -> str:
    """What a projector looks at."""
    from tenantd.llamacpp.projectors import read_projector

    try:
        found = read_projector(header.path)
    except ModelError as e:
        return _without_name(e.message, header.path)
    return f"{found.kind}, sees {found.side} × {found.side} pixels"


def _found(paths: Sequence[Path]) -> tuple[list[Header], list[tuple[Path, str]]]:
    """The headers of models, and the other files with the reason."""
    from tenantd.llamacpp.gguf import NotGguf
    from tenantd.llamacpp.header import read_header

    headers: list[Header] = []
    unfit: list[tuple[Path, str]] = []
    for path in paths:
        try:
            header = read_header(path)
        except NotGguf as e:
            unfit.append((path, _without_name(str(e), path)))
            continue
        if not header.trouble:
            headers.append(header)
        elif not header.part:  # other parts belong to the first
            unfit.append((path, header.trouble))
    return headers, unfit


def _plans(headers: Sequence[Header]) -> list[Proposal | str]:
    """For each model what would be proposed, or why it cannot be served."""
    workers = min(MOST_AT_ONCE, len(os.sched_getaffinity(0)))
    plans: list[Proposal | str] = []
    with progress("planning") as show, ThreadPoolExecutor(workers) as pool:
        for header, plan in zip(headers, pool.map(_plan, headers), strict=True):
            plans.append(plan)
            show(header.path.name, len(plans), len(headers))
    return plans


def _plan(header: Header) -> Proposal | str:
    from tenantctl.proposal import Wishes, propose
    from tenantd.config import Config

    if header.trouble:
        return header.trouble
    plain = Config()
    model = plain.model.model_copy(update={"path": header.path.absolute()})
    try:
        return propose(plain.model_copy(update={"model": model}), Wishes())
    except ModelError as e:
        return e.message


def _as_json(header: Header, plan: Proposal | str) -> dict[str, Any]:
    about = {
        "path": str(header.path),
        "name": header.name,
        "kind": header.kind,
        "architecture": header.architecture,
        "parameters": header.parameters,
        "quantisation": header.quantisation,
        "size_bytes": header.size_bytes,
        "context_tokens": header.context_tokens or None,
        "chat_template": header.has_chat_template,
        "fits": not isinstance(plan, str),
    }
    if isinstance(plan, str):
        return {**about, "reason": plan}
    engine = plan.config.engine
    return {
        **about,
        "proposal": {
            "slots": engine.slots,
            "context_tokens": engine.context_tokens,
            "kv_type": engine.kv_type,
            "needed_bytes": plan.plan.needed,
            "free_bytes": plan.plan.free,
        },
    }


def _fit(plan: Proposal | str) -> str:
    if isinstance(plan, str):
        return "does not fit" if " MiB are free" in plan else "cannot be served"
    engine = plan.config.engine
    return f"{engine.slots} × {engine.context_tokens}" + ("" if engine.kv_type == "f16" else f" {engine.kv_type}")


def _count(number: int) -> str:
    from tenantd.banner import count

    return count(number)


def _size(size_bytes: int) -> str:
    from tenantd.banner import size

    return size(size_bytes)


def _without_name(reason: str, path: Path) -> str:
    return reason.removeprefix(f"{path}: ").removeprefix(f"{path.absolute()}: ")


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


def _shown(path: Path, folder: Path | None) -> str:
    """A path as short as it can be told."""
    return from_home(path) if folder is None else str(path.relative_to(folder))
