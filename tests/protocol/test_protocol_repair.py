"""Repairs on random histories: what came apart behind Concord's back comes together, and a repair never takes away what somebody did."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.protocol.protocol_simulator import ALONE
from tests.protocol.repair_simulator import RepairWorld

FEATURES = [(), *ALONE, ("soft", "lossy", "toast")]


@pytest.mark.parametrize("features", FEATURES, ids=" ".join)
def test_what_came_apart_behind_our_back_comes_together(features: tuple[str, ...]) -> None:
    worlds = [RepairWorld(seed, features) for seed in range(25)]
    assert Counter(world.run() for world in worlds) == {"ok": 25}
    assert sum(world.tampered for world in worlds) > 10
    assert sum(world.repairs for world in worlds) > 25


@pytest.mark.parametrize("features", FEATURES, ids=" ".join)
def test_repairing_what_is_only_in_flight_loses_nothing(features: tuple[str, ...]) -> None:
    worlds = [RepairWorld(seed, features, tampering=0.0, repairing=0.5) for seed in range(25)]
    assert Counter(world.run() for world in worlds) == {"ok": 25}
    assert sum(world.repairs for world in worlds) > 25
