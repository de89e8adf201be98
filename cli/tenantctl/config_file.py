"""The configuration file that `tenantctl init` writes: every setting with its description and default.

Names, defaults, examples, descriptions and bounds come from `tenantd.config`; this module only formats them.
"""

from __future__ import annotations

import textwrap
import tomllib
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import tomli_w
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from tenantd.config import Config, parse_config
from tenantd.errors import ConfigError
from tenantd.setting_kinds import Section

WIDTH: Final = 100
_HEAD: Final = """\
Configuration of tenantd, read by `tenantctl serve`.
A setting that you leave out keeps its default.
The environment variables TENANTD_SOCKET and TENANTD_STATE_DIR override this file."""


def config_text(config: Config | None = None) -> str:
    """The whole file, with these settings or the defaults. Raises ConfigError if the model's path is not UTF-8."""
    config = config or Config()
    text = "\n".join(_lines(config)) + "\n"
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"the path of the model must be UTF-8, because TOML is: {config.model.path}") from None
    if parse_config(tomllib.loads(text), "init") != config:
        raise AssertionError("the generated file does not parse back to the same configuration")
    return text


def _lines(config: Config) -> Iterator[str]:
    yield from _comment(_HEAD)
    for name in Config.model_fields:
        section: Any = getattr(config, name)
        yield ""
        yield from _comment((type(section).__doc__ or "").strip())
        yield f"[{name}]"
        for key, field in type(section).__pydantic_fields__.items():
            yield from _comment(" ".join(filter(None, [field.description, bounds(field)])))
            if (table := table_of(field)) is None:
                yield _setting(key, getattr(section, key), field)
            else:
                yield from _example(f"{name}.{key}", table)


def table_of(field: FieldInfo) -> type[Section] | None:
    """The kind of table of a setting that is a list of tables."""
    for kind in get_args(field.annotation):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


def _example(name: str, table: type[Section]) -> Iterator[str]:
    """A table of a list of tables that is empty by default, as comments. It stands last in its section, as in TOML."""
    yield from _comment((table.__doc__ or "").strip())
    yield f"# [[{name}]]"
    for key, field in table.__pydantic_fields__.items():
        yield from _comment(" ".join(filter(None, [field.description, bounds(field)])))
        shown = field.examples[0] if field.examples else field.default
        yield "# " + " ".join(tomli_w.dumps({key: shown}, multiline_strings=False).split())


def _setting(key: str, value: Any, field: FieldInfo) -> str:
    """A line. A setting without a default is a comment with an example."""
    if value is None:
        assert field.examples, f"{key} has neither a default nor an example"
        return "# " + tomli_w.dumps({key: field.examples[0]}).strip()
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    return tomli_w.dumps({key: str(value) if isinstance(value, Path) else value}).strip()


def _comment(text: str) -> list[str]:
    lines = (textwrap.wrap(line, WIDTH - 2, break_on_hyphens=False) for line in text.splitlines())
    return [f"# {line}" for wrapped in lines for line in wrapped]


def bounds(field: FieldInfo) -> str:
    """The values a setting accepts, as a sentence: its choices, or its minimum and maximum. May be empty."""
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    if isinstance(field.annotation, type) and issubclass(field.annotation, StrEnum):
        choices = tuple(field.annotation)
    if choices:
        *first, last = (f'"{choice}"' for choice in choices)
        return f"{', '.join(first)} or {last}."
    found = {
        name: value
        for m in field.metadata
        for name in ("ge", "gt", "le")
        if (value := getattr(m, name, None)) is not None
    }
    if not found:
        return ""
    least = f"{found['ge']}" if "ge" in found else f"more than {found['gt']}"
    return f"From {least} to {found['le']}." if "ge" in found else f"{least.capitalize()}, at most {found['le']}."
