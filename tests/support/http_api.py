"""Writes docs/http-api.md from what is declared: python -m tests.support.http_api

Each route with its parameters and the fields of its body; how other servers' names are handled; defaults as docs/api.md
has them where the declaration has none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tenantd.api.body import Body, own_fields
from tenantd.api.names import Fields, Foreign, Parts, Refused, Same, Taken
from tenantd.api.openai import known_names

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "http-api.md"
MADE_BY = "python -m tests.support.http_api"
HEAD = f"""\
# Every route and parameter

[api.md](api.md) explains what the fields do, and why names are refused or have no effect. `null` always means the
default. A field that is not listed here gets 400, with the name that was probably meant. (This page is generated from
the code by `{MADE_BY}`, and a test checks that it is up to date.)

- **same as**: another name for a field in the table
- **ignored**: accepted, but has no effect on the answer
- **refused**: 400, unless the value is null or changes nothing
"""
Schema = Mapping[str, Any]


def page(document: Schema) -> str:
    """The page for an OpenAPI description that has the administration."""
    return "\n".join([HEAD, *_routes(document), *_inner()])


def _routes(document: Schema) -> Iterator[str]:
    for place in ("/v1", "/", "/admin"):
        yield f"## {({'/v1': 'For tenants', '/': 'Other routes', '/admin': 'Administration'})[place]}\n"
        for path, methods in sorted(document["paths"].items()):
            if place == next(start for start in ("/v1", "/admin", "/") if path.startswith(start)):  # each in one
                for method, operation in methods.items():
                    yield from _route(document, f"{method.upper()} {path}", operation)


def _route(document: Schema, title: str, operation: Schema) -> Iterator[str]:
    yield f"### {title}\n"
    rows = [
        (each["name"], each["in"], _values(document, each["schema"]), _default(each["required"], each["schema"], ""))
        for each in operation["parameters"]
    ]
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    rows += _fields(document, schema)
    if not rows:
        yield "No parameters.\n"
        return
    yield "| parameter | in | values | default |\n|---|---|---|---|"
    yield from (f"| `{name}` | {where} | {values} | {default} |" for name, where, values, default in rows)
    yield ""
    if foreign := _foreign(schema):
        yield from _handled(foreign)


def _fields(document: Schema, schema: Schema, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    body = _followed(document, schema)
    told = _told(_name(schema))
    for name, field in body.get("properties", {}).items():
        full = prefix + name
        required = name in body.get("required", ())
        yield full, "body", _values(document, field), _default(required, field, told.get(full, ""))
        for inner in (field, *field.get("anyOf", ())):
            if "$ref" in inner and _followed(document, inner).get("properties"):
                yield from _fields(document, inner, f"{full}.")


def _followed(document: Schema, schema: Schema) -> Schema:
    while "$ref" in schema:
        schema = document["components"]["schemas"][_name(schema)]
    return schema


def _name(schema: Schema) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2]


def _values(document: Schema, schema: Schema) -> str:
    """What a value may be, in words."""
    if "$ref" in schema:
        inner = _followed(document, schema)
        return "an object" if inner.get("properties") else _values(document, inner)
    if "enum" in schema or "const" in schema:
        allowed = schema.get("enum", [schema.get("const")])
        return ", ".join(f"`{json.dumps(value)}`" for value in allowed if value is not None)
    if "anyOf" in schema:
        kinds = [_values(document, each) for each in schema["anyOf"] if each.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    kind = schema.get("type", "")
    if isinstance(kind, list):
        kind = next(each for each in kind if each != "null")
    match kind:
        case "integer" | "number":
            return f"{'an integer' if kind == 'integer' else 'a number'}{_range(schema)}"
        case "boolean":
            return "true or false"
        case "array":
            return f"a list of {_several(_values(document, schema.get('items', {})))}"
        case "object":
            return "an object"
        case "string":
            return "a string"
    return "any value"


def _several(values: str) -> str:
    """The words for several of a value: "strings or objects" for "a string or an object"."""
    kinds = [re.sub(r"^an? (\w+)", _plural, kind) for kind in values.split(" or ")]
    return " or ".join(kinds)


def _plural(found: re.Match[str]) -> str:
    return f"{found[1]}s"


def _range(schema: Schema) -> str:
    least, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    most, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    bounds = [
        *([f"from {least:,}"] if least is not None else [f"above {above:,}"] if above is not None else []),
        *([f"to {most:,}"] if most is not None else [f"below {below:,}"] if below is not None else []),
    ]
    return "".join(f" {bound}" for bound in bounds)


def _default(required: bool, schema: Schema, told: str) -> str:
    if required:
        return "required"
    if told:
        return told
    value = schema.get("default")
    return "none" if value in (None, "") else f"`{json.dumps(value)}`"


def _told(name: str) -> dict[str, str]:
    """The defaults that docs/api.md gives the fields of a body."""
    section = {"EmbeddingsRequest": "## Embeddings", "RerankRequest": "## Ranking documents"}.get(
        name, "## Fields" if name in GENERATION else ""
    )
    if not section:
        return {}
    text = (ROOT / "docs" / "api.md").read_text("utf-8").partition(f"\n{section}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?) \| (?:.+) \| (.*?) ?\|$", text, re.MULTILINE)
    return {field: default for names, default in rows for field in re.findall(r"`(\w[\w.]*)`", names) if default}


GENERATION = ("CompletionRequest", "ChatRequest", "StreamOptions")


def _foreign(schema: Schema) -> Mapping[str, Foreign]:
    kind = _bodies().get(_name(schema))
    return dict(_names(kind, "")) if kind is not None and issubclass(kind, Fields) else {}


def _names(kind: type[Fields], prefix: str) -> Iterator[tuple[str, Foreign]]:
    """With those of the objects in it."""
    for name, how in kind.foreign.items():
        yield prefix + name, how
    for name, inner in own_fields(kind).items():
        if inner is not None and issubclass(inner, Fields):
            yield from _names(inner, f"{prefix}{name}.")


def _bodies() -> dict[str, type[Body]]:
    found: dict[str, type[Body]] = {}
    waiting: list[type[Body]] = [Body]
    while waiting:
        for kind in waiting.pop().__subclasses__():
            found[kind.__name__] = kind
            waiting.append(kind)
    return found


def _handled(foreign: Mapping[str, Foreign]) -> Iterator[str]:
    """Other servers' names, by how they are handled."""
    same: list[str] = []
    taken: list[str] = []
    refused: list[str] = []
    for name, how in _flat(foreign):
        match how:
            case Same():
                same.append(f"`{name}` (`{how.field}`)")
            case Taken():
                taken.append(f"`{name}`")
            case Refused():
                neutral = ", ".join(f"`{json.dumps(value)}`" for value in how.neutral)
                refused.append(f"`{name}`" + (f" unless {neutral}" if neutral else ""))
    for title, names in (("same as", same), ("ignored", taken), ("refused", refused)):
        if names:
            yield f"**{title}:** {'; '.join(names)}\n"


def _flat(foreign: Mapping[str, Foreign], prefix: str = "") -> Iterator[tuple[str, Foreign]]:
    for name, how in foreign.items():
        if isinstance(how, Parts):
            yield from _flat({**how.parts, **how.foreign}, f"{prefix}{name}.")
        else:
            yield prefix + name, how


def _inner() -> Iterator[str]:
    """Names in the objects that a chat consists of."""
    yield "## Fields inside a chat\n"
    for title, foreign in (
        ("messages[]", known_names.MESSAGE),
        ("messages[].content[]", known_names.PART),
        ("tools[]", known_names.TOOL),
    ):
        yield f"### {title}\n"
        yield from _handled(foreign)


def described() -> dict[str, Any]:
    """The description that an administrator gets of a daemon without a model."""
    import tempfile

    from tests.api.conftest import serve

    with tempfile.TemporaryDirectory() as folder:
        serving = serve(Path(folder))
        description: dict[str, Any] = next(serving).client.get("/openapi.json").json()
        assert next(serving, None) is None  # it stops what it started
    return description


if __name__ == "__main__":
    PAGE.write_text(page(described()), "utf-8")
