"""Each line that isolation rests on, when it is broken, is noticed by a test that is named here and in the docs.

`make test` tries the first mutation of each of five areas, `make night` all of them.
"""

from __future__ import annotations

from pathlib import Path

from tests.mutations.lines import MUTATIONS
from tests.mutations.runner import Trials, chosen, table
from tests.support.copies import ROOT


def test_a_broken_line_is_noticed_by_its_test(tmp_path: Path) -> None:
    trials = Trials(tmp_path)
    mutations = chosen(MUTATIONS)
    assert not (failed := trials.unmutated(mutation.test for mutation in mutations)), failed
    survivors = trials.survivors(mutations)
    assert not survivors, "\n".join(survivors)


def test_every_broken_line_is_in_its_file_once() -> None:
    for mutation in MUTATIONS:
        assert (ROOT / mutation.path).read_text("utf-8").count(mutation.old) == 1, mutation.says


def test_the_documents_have_the_table() -> None:
    assert len(MUTATIONS) >= 25
    assert table(MUTATIONS) in (ROOT / "docs" / "isolation.md").read_text("utf-8"), (
        f"put this into docs/isolation.md:\n\n{table(MUTATIONS)}"
    )
