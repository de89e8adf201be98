"""JSON schemas whose objects have only the properties that they name.

JSON Schema allows others unless `additionalProperties` says no, and most schemas say nothing, such as those that
pydantic writes. A small model then goes on with properties of its own until its tokens are used up. What matches the
closed schema matches the client's as well.
"""

from __future__ import annotations

from typing import Any, Final

_SCHEMAS_BY_NAME: Final = ("properties", "$defs", "definitions")
_SCHEMAS: Final = ("items", "anyOf", "oneOf", "prefixItems")
_COMBINING: Final = frozenset({"$ref", "$dynamicRef", "anyOf", "oneOf"})
_ABOUT_OTHERS: Final = frozenset(
    {"additionalProperties", "patternProperties", "unevaluatedProperties", "propertyNames", "minProperties"}
)
_NOT_FOLLOWED: Final = frozenset({"allOf", "not", "if", "dependentSchemas"})


class _Combined(Exception):
    """Several schemas are to match the same object: if each were closed, nothing would match them all."""


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with its objects closed, where they do not say otherwise; the same if parts of it are combined."""
    try:
        result: dict[str, Any] = _closed(schema)
    except _Combined:
        return schema
    return result


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if _NOT_FOLLOWED & schema.keys() or ("properties" in schema and _COMBINING & schema.keys()):
        raise _Combined
    result = {key: _closed(value) if key in _SCHEMAS else value for key, value in schema.items()}
    for key in _SCHEMAS_BY_NAME:
        if isinstance(named := schema.get(key), dict):
            result[key] = {name: _closed(each) for name, each in named.items()}
    if not _ABOUT_OTHERS & schema.keys() and _names_all(schema.get("properties"), schema.get("required", [])):
        result["additionalProperties"] = False
    return result


def _names_all(properties: Any, required: Any) -> bool:
    """Whether there are properties, and all that are required are among them."""
    if not isinstance(properties, dict) or not isinstance(required, list):
        return False
    return all(isinstance(name, str) and name in properties for name in required)
