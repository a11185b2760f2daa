"""The protocol on random histories of an ERP whose customers are several rows: join, intake, identify, merge and sink's plan together."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.protocol.parts_simulator import PartsWorld


@pytest.mark.parametrize("features", [(), ("delete",), ("shared",), ("cleared",), ("delete", "shared", "cleared")], ids=" ".join)
def test_i7_random_histories_with_parts_end_well(features: tuple[str, ...]) -> None:
    assert Counter(PartsWorld(seed, features).run() for seed in range(25)) == {"ok": 25}


def test_a_child_row_of_ours_whose_end_is_heard_after_that_of_the_next_is_not_news() -> None:
    """Two addresses that we inserted and deleted, one after the other, lie in two partitions (seed 1090)."""
    assert PartsWorld(1090, ("delete", "shared", "cleared")).run() == "ok"
