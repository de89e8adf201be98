"""Turns pydantic's errors into plain words, for request bodies and the configuration file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Final, get_args

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
MOST_CHARACTERS: Final = 60
"""Of a key that is compared with those there are."""
CLOSE: Final = 0.8
"""How similar a key of another table must be to be suggested; 1 is the same."""
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


def meant(tables: Any, place: Sequence[Any]) -> str:
    """What an unknown key was probably meant to be: "; did you mean slots?", or "".

    `tables` is the model of the whole file, `place` leads to the key.
    """
    *way, name = place
    key, table = str(name)[:MOST_CHARACTERS], tables
    for part in way:
        if isinstance(part, str):  # not the number of a table in a list
            table = _table(table.__pydantic_fields__[part].annotation)
    sections = {section: _keys(field.annotation) for section, field in tables.__pydantic_fields__.items()}
    for section, keys in sections.items():
        if key in keys:
            return f"; it belongs in the table [{section}]"
    if near := get_close_matches(key, table.__pydantic_fields__, n=1):
        return f"; did you mean {near[0]}?"
    for section, keys in sections.items():
        if near := get_close_matches(key, keys, n=1, cutoff=CLOSE):
            return f"; did you mean {near[0]}, in the table [{section}]?"
    return ""


def _keys(annotation: Any) -> Sequence[str]:
    """Those of a table; none of anything else."""
    return list(getattr(_table(annotation), "__pydantic_fields__", ()))


def _table(annotation: Any) -> Any:
    """The model of a table, or of the tables in a list."""
    while inner := get_args(annotation):
        annotation = inner[0]
    return annotation


def _shown(bound: Any) -> Any:
    """2 for 2.0."""
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound
