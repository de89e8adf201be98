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

WIDTH: Final = 100
_HEAD: Final = """\
Configuration of tenantd, read by `tenantctl serve`.
A setting that you leave out keeps its default.
The environment variables TENANTD_SOCKET and TENANTD_STATE_DIR override this file."""


def config_text(model: Path | None = None, *, caches: bool = False) -> str:
    """The whole file. `caches`: each tenant has a cache unless it is set otherwise. Raises ConfigError if the model's
    path is not UTF-8."""
    config = Config()
    if caches:
        config = config.model_copy(update={"cache": config.cache.model_copy(update={"default": "on"})})
    if model is not None:
        config = config.model_copy(update={"model": config.model.model_copy(update={"path": model})})
    text = "\n".join(_lines(config)) + "\n"
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"the path of the model must be UTF-8, because TOML is: {model!r}") from None
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
            yield from _comment(" ".join(filter(None, [field.description, _bounds(field)])))
            yield _setting(key, getattr(section, key), field)


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


def _bounds(field: FieldInfo) -> str:
    """The values a setting accepts: its choices, or its minimum and maximum."""
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    if isinstance(field.annotation, type) and issubclass(field.annotation, StrEnum):
        choices = tuple(field.annotation)
    if choices:
        *first, last = (f'"{choice}"' for choice in choices)
        return f"{', '.join(first)} or {last}."
    bounds = {
        name: value
        for m in field.metadata
        for name in ("ge", "gt", "le")
        if (value := getattr(m, name, None)) is not None
    }
    if not bounds:
        return ""
    least = f"{bounds['ge']}" if "ge" in bounds else f"more than {bounds['gt']}"
    return f"From {least} to {bounds['le']}." if "ge" in bounds else f"{least.capitalize()}, at most {bounds['le']}."
