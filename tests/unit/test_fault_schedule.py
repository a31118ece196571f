"""The plan of a fault run follows from its seed and leaves nothing out."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.faults.kit.schedule import plan
from tests.faults.kit.verbs import FAULT_S_MAX, PAUSE_S_MAX, VERBS, WIRES

TEN_MINUTES_S = 600.0


def test_same_seed_same_plan() -> None:
    """A run can be repeated; another seed is another run."""
    assert plan(7, 60) == plan(7, 60)
    assert plan(7, 60) != plan(8, 60)


@pytest.mark.parametrize("seed", range(5))
def test_ten_minutes_leave_nothing_out(seed: int) -> None:
    """At least a hundred faults, each verb at least five times, each wire by several verbs."""
    faults = plan(seed, TEN_MINUTES_S)
    assert len(faults) >= 100
    counts = Counter(fault.verb for fault in faults)
    assert {verb for verb in VERBS if counts[verb] < 5} == set()
    for wire in WIRES:
        assert len({fault.verb for fault in faults if fault.target == wire}) > 5


@pytest.mark.parametrize("seconds", [20.0, 60.0, TEN_MINUTES_S])
def test_everything_ends_in_time(seconds: float) -> None:
    """Faults come by time, begin after the start, are undone before the end, none is endless."""
    faults = plan(1, seconds)
    assert faults == sorted(faults, key=lambda one: one.at_s)
    for fault in faults:
        assert fault.at_s > 0
        assert fault.at_s + fault.for_s <= max(seconds, 3 + PAUSE_S_MAX) + 0.1
        assert 0 < fault.for_s <= (PAUSE_S_MAX if "pause" in fault.verb else FAULT_S_MAX)
        assert fault.target in VERBS[fault.verb].targets


def test_faults_overlap() -> None:
    """Things don't break one after the other."""
    faults = plan(1, TEN_MINUTES_S)
    together = [
        (one.verb, other.verb)
        for one in faults
        for other in faults
        if one.at_s < other.at_s < one.at_s + one.for_s
    ]
    assert len(together) > 50
