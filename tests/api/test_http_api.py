"""docs/http-api.md is what is declared."""

from __future__ import annotations

import re

import pytest

from tenantd.api.body import own_fields
from tenantd.api.names import Fields
from tests.support.http_api import MADE_BY, PAGE, described, page


@pytest.fixture(scope="module")
def description() -> dict[str, object]:
    return described()


def test_the_page_is_what_is_declared(description: dict[str, object]) -> None:
    assert PAGE.read_text("utf-8") == page(description), f"write it again: {MADE_BY}"


def test_every_name_that_is_known_is_on_it(description: dict[str, object]) -> None:
    text = page(description)
    kinds = Fields.__subclasses__()
    for kind in kinds:
        kinds += kind.__subclasses__()
        for name in (*own_fields(kind), *kind.foreign):
            assert re.search(rf"`(?:[\w.]+\.)?{name}(?:`|\.)", text), f"{kind.__name__} has {name}"
    assert len(kinds) > 8
