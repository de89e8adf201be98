"""docs/configuration.md is what is declared."""

from __future__ import annotations

from tenantd.config import Config
from tenantd.reloadable import RELOADABLE
from tests.support.configuration_page import IN_PART, MADE_BY, PAGE, page


def test_the_page_is_what_is_declared() -> None:
    assert PAGE.read_text("utf-8") == page(), f"write it again: {MADE_BY}"


def test_every_setting_is_on_it_with_what_a_reload_does() -> None:
    sections = dict(part.split("]\n", 1) for part in page().split("\n## [")[1:])
    for name, section in Config():
        for key in type(section).__pydantic_fields__:
            rows = [row for row in sections[name].splitlines() if row.startswith(f"| `{key}` |")]
            assert len(rows) == 1, f"{name}.{key}"
            if (name, key) not in IN_PART:
                assert rows[0].endswith("| yes |" if key in RELOADABLE.get(name, ()) else "| no |")
