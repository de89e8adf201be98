"""Random grammars and schemas, from a seed: some that people write, and many that nobody should."""

from __future__ import annotations

import random
from typing import Any

LITERALS = ('"a"', '"ab"', '"if"', '" "', '"\\n"', '"{"', '"}"', '","', '"\\""', '"1"', '"the "', '"é"', '"日本"')
CLASSES = ("[a-z]", "[^a-z]", "[0-9]", '[^\\x00-\\x1F"\\\\]', "[ \\t\\n]", "[a-zA-Z_]", "[à-ÿ]", ".", "[^,]")
SUFFIXES = ("", "", "", "", "?", "*", "+", "{2}", "{0,3}", "{1,50}", "{3,}", "{0,2000}")
PATTERNS = (
    "^[a-z]+$",
    "^\\d{4}-\\d\\d-\\d\\d$",
    "^(a|b)*c[^x]{100}$",
    "^.*a.{20}$",
    "[A-Z]{2,}",
    "^([a-z]+\\.)+[a-z]{2,}$",
    "^(.*,){5}.*$",
    "^(.*a.{50}b.{50})$",
)
FORMATS = ("date", "time", "date-time", "email", "uuid", "ipv4", "ipv6", "uri", "hostname", "duration")


def random_gbnf(rng: random.Random) -> str:
    """Rules that refer to each other, themselves and nothing in particular."""
    names = ["root", *(f"r{n}" for n in range(rng.choice([0, 1, 3, 10, 40])))]
    return "\n".join(f"{name} ::= {_choice(rng, names, 3)}" for name in names)


def _choice(rng: random.Random, names: list[str], depth: int) -> str:
    return " | ".join(_sequence(rng, names, depth) for _ in range(rng.choice([1, 1, 2, 3])))


def _sequence(rng: random.Random, names: list[str], depth: int) -> str:
    return " ".join(_item(rng, names, depth) for _ in range(rng.choice([0, 1, 2, 3, 6])))


def _item(rng: random.Random, names: list[str], depth: int) -> str:
    kind = rng.random()
    if kind < 0.35:
        item = rng.choice(LITERALS)
    elif kind < 0.6:
        item = rng.choice(CLASSES)
    elif kind < 0.8 or not depth:
        item = rng.choice(names)
    else:
        item = f"({_choice(rng, names, depth - 1)})"
    return item + rng.choice(SUFFIXES)


def random_schema(rng: random.Random, depth: int = 4) -> dict[str, Any]:
    """Anything that says what JSON looks like."""
    kinds = ("string", "pattern", "format", "integer", "number", "enum", "null", "boolean")
    if depth:
        kinds += ("object", "object", "array", "anyOf", "map", "wide")
    match rng.choice(kinds):
        case "string":
            return {"type": "string", "maxLength": rng.choice([0, 5, 100, 10_000])}
        case "pattern":
            return {"type": "string", "pattern": rng.choice(PATTERNS)}
        case "format":
            return {"type": "string", "format": rng.choice(FORMATS)}
        case "integer":
            low = rng.randint(-1000, 1000)
            return {"type": "integer", "minimum": low, "maximum": low + rng.choice([0, 7, 10_000])}
        case "number":
            return {"type": "number", "minimum": rng.choice([-1.5, 0, 100])}
        case "enum":
            return {"enum": [f"value {n * rng.randint(1, 99)}" for n in range(rng.choice([1, 5, 300]))]}
        case "object" | "wide" as kind:
            names = [f"key{n}" for n in range(rng.choice([60, 150] if kind == "wide" else [0, 1, 3, 8]))]
            properties = {name: random_schema(rng, 0 if kind == "wide" else depth - 1) for name in names}
            required = [name for name in names if rng.random() < 0.5]
            closed: dict[str, Any] = {"additionalProperties": False} if rng.random() < 0.5 else {}
            return {"type": "object", "properties": properties, "required": required, **closed}
        case "array":
            return {"type": "array", "items": random_schema(rng, depth - 1), "maxItems": rng.choice([1, 4, 1000])}
        case "anyOf":
            return {"anyOf": [random_schema(rng, depth - 1) for _ in range(rng.choice([1, 2, 5, 30]))]}
        case "map":
            return {"type": "object", "additionalProperties": random_schema(rng, depth - 1)}
        case kind:
            return {"type": kind}
