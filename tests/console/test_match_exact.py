"""Rows of one match value, and the file that is whole or as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from console.match.exact import JUNK_ROWS, FoundRow, compared
from console.match.file import writing
from tests.console.test_foretold import PIPELINE


def test_three_systems_make_one_pair_and_two_rows_of_one_make_duplicates() -> None:
    crm, erp, web = (FoundRow(system, "1") for system in ("crm", "erp", "web"))
    found = compared(("crm", "erp", "web"), [(crm, "A"), (erp, "A"), (web, "A")])
    assert [pair.rows for pair in found.pairs] == [(crm, erp, web)]
    found = compared(("crm", "erp", "web"), [(crm, "A"), (FoundRow("crm", "2"), "A"), (erp, "A"), (web, None)])
    assert (found.pairs, len(found.duplicates[0].rows)) == ([], 3)
    assert found.left == {"crm": [], "erp": [], "web": [web]}


def test_rows_that_are_known_as_different_things_are_never_a_pair() -> None:
    rows = [(FoundRow("crm", "1", "a"), "A"), (FoundRow("erp", "1", "b"), "A"), (FoundRow("web", "1"), "A")]
    found = compared(("crm", "erp", "web"), rows)
    assert (found.pairs, len(found.duplicates), found.linked) == ([], 1, {"crm": 1, "erp": 1, "web": 0})
    found = compared(("crm", "erp"), rows[:2])
    assert (found.pairs, found.duplicates) == ([], [])


def test_a_value_that_many_rows_share_tells_nothing_and_its_rows_are_left() -> None:
    rows = [(FoundRow(system, str(number)), "unknown") for system in ("crm", "erp") for number in range(JUNK_ROWS)]
    found = compared(("crm", "erp"), rows)
    assert [len(found.left[system]) for system in ("crm", "erp")] == [JUNK_ROWS, JUNK_ROWS]
    assert len(found.duplicates) == 1


def test_ctrl_c_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "matches.csv"
    file.write_text("as it was")
    with pytest.raises(KeyboardInterrupt), writing(file, PIPELINE, ["customer"]):
        raise KeyboardInterrupt
    assert file.read_text() == "as it was"
    assert list(tmp_path.iterdir()) == [file]
