"""Writes docs/configuration.md from what is declared: python -m tests.support.configuration_page

Each table of the configuration with its settings: default, values, and whether a reload applies a change.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from tenantctl.config_file import bounds, table_of
from tenantd.config import Config
from tenantd.reloadable import RELOADABLE

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
MADE_BY = "python -m tests.support.configuration_page"
HEAD = f"""\
# Every setting

`tenantctl init` writes these settings to a file, with these descriptions. A setting that you leave out keeps its
default, so a file may be as short as this:

```toml
[model]
path = "/srv/models/your-model.gguf"
```

The file is `~/.config/tenantd/config.toml` unless you pass `--config FILE` or set `TENANTD_CONFIG`. The variables
`TENANTD_SOCKET` and `TENANTD_STATE_DIR` override it. If a key is unknown or a value is bad, the daemon prints the file,
the key and the reason, and does not start.

**Reload** says whether SIGHUP (`systemctl reload tenantd`) applies a change. Other changes take effect at the next
start. Prices are changed with `tenantctl price set`; the log warns of prices in the file that are not in force.
[operations.md](operations.md#configure) explains how the settings work together. (This page is generated
from the code by `{MADE_BY}`, and a test checks that it is up to date.)
"""
IN_PART = {
    ("server", "listen"): "unless an address or its TLS is added or removed",
    ("billing", "currency"): "until something has been billed",
    ("billing", "input_price_per_million"): "warns only",
    ("billing", "output_price_per_million"): "warns only",
    ("billing", "engine_hour_price"): "warns only",
}
"""Settings that a reload reads, but does not simply apply."""


def page() -> str:
    return "\n".join([HEAD, *_sections()])


def _sections() -> Iterator[str]:
    for name in Config.model_fields:
        section: Any = getattr(Config(), name)
        fields: dict[str, FieldInfo] = type(section).__pydantic_fields__
        applied = {key: "yes" if key in RELOADABLE.get(name, ()) else "no" for key in fields}
        in_part = {key: words for (table, key), words in IN_PART.items() if table == name}
        yield from _table(f"[{name}]", section, fields, applied | in_part)
        for key, field in fields.items():
            if (inner := table_of(field)) is not None:
                yield from _table(f"[[{name}.{key}]]", inner, inner.__pydantic_fields__, None)


def _table(title: str, section: Any, fields: dict[str, FieldInfo], reload: dict[str, str] | None) -> Iterator[str]:
    """`reload`: what a reload does with each setting; None for a table of a list, which is applied as a whole."""
    yield f"## {title}\n\n{(section.__doc__ or '').strip()}\n"
    yield "| setting | default | what it does |" + ("" if reload is None else " reload |")
    yield "|---|---|---|" + ("" if reload is None else "---|")
    for key, field in fields.items():
        row = f"| `{key}` | {_default(field)} | {' '.join(filter(None, [field.description, bounds(field)]))} |"
        yield row if reload is None else f"{row} {reload[key]} |"
    yield ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None or value == ():
        return "none"
    return f"`{tomli_w.dumps({'key': value if isinstance(value, bool | int | float) else str(value)})[6:].strip()}`"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
