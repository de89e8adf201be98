"""Turns pydantic's errors into plain words, for request bodies and the configuration file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_WORDS: Final = {
    "missing": "is missing",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "string_too_short": "must have at least {min_length} character{s}",
    "string_too_long": "must have at most {max_length} character{s}",
    "too_short": "must have at least {min_length} item{s}",
    "too_long": "must have at most {max_length} item{s}",
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing", "decimal_type", "decimal_parsing"), "must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    **dict.fromkeys(("string_type", "string_sub_type", "path_type"), "must be a string"),
    **dict.fromkeys(("list_type", "tuple_type", "set_type"), "must be a list"),
}
_NOT_AN_OBJECT: Final = {"dict_type", "mapping_type", "model_type", "model_attributes_type", "dataclass_type"}


def in_words(error: Mapping[str, Any], an_object: str = "an object") -> str:
    """Text for one of pydantic's `errors()`, to follow the field's name. `an_object` is the format's word for an
    object."""
    kind: str = error["type"]
    if kind in _NOT_AN_OBJECT:
        return f"must be {an_object}"
    if words := _WORDS.get(kind):
        bounds = {name: _shown(bound) for name, bound in error.get("ctx", {}).items()}
        length = bounds.get("min_length") or bounds.get("max_length")
        return words.format(**bounds, s="" if length == 1 else "s")
    message: str = error["msg"]
    return message.removeprefix("Value error, ").replace("Input should ", "must ")


def _shown(bound: Any) -> Any:
    """2 for 2.0."""
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound
