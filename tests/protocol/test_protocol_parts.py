"""The protocol on random histories of an ERP whose customers are several rows: join, intake, identify, merge and sink's plan together."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.protocol.parts_simulator import PartsWorld


@pytest.mark.parametrize("features", [(), ("delete",), ("shared",), ("cleared",), ("delete", "shared", "cleared")], ids=" ".join)
def test_i7_random_histories_with_parts_end_well(features: tuple[str, ...]) -> None:
    assert Counter(PartsWorld(seed, features).run() for seed in range(25)) == {"ok": 25}
