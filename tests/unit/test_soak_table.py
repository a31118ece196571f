"""The verdicts of a soak, and what it does when."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.faults.kit.samples import Sample
from tests.faults.kit.soak_table import rows, table
from tests.faults.soak_run import FAULTS, ROLLS, plan

HOUR_S = 3600


def _samples(kind: str, what: str, each_block: float, *, noise: float = 0.0) -> list[Sample]:
    """Return an hour of a series: three samples a minute, a life of ten minutes, a slope."""
    dice = random.Random(f"{kind} {what}")
    return [
        Sample(
            at_s=at_s,
            events=at_s * 5_000,
            kind=kind,
            what=what,
            life=str(at_s // 600),
            life_s=float(at_s % 600),
            block=at_s // 60,
            calm=at_s % 60 >= 30,
            value=50.0 + each_block * (at_s / 60) + dice.gauss(0, noise),
        )
        for at_s in range(0, HOUR_S, 10)
    ]


@pytest.mark.parametrize(
    ("kind", "what", "each_minute", "verdict"),
    [
        ("worker", "RSS", 0.05, "flat"),  # 0.17 MB per million
        ("worker", "RSS", 0.6, "GROWS"),  # 2 MB per million
        ("server", "RSS", -0.6, "SHRINKS"),
        ("store", "RSS", 5.0, "(engine's own)"),
        ("worker", "files", 0.0, "flat"),
        ("worker", "files", 0.1, "GROWS"),
        ("group", "pending", -0.1, "SHRINKS"),
    ],
)
def test_verdict(kind: str, what: str, each_minute: float, verdict: str) -> None:
    """Memory has a limit, all else must be flat, and what engines take is told only."""
    [row] = rows(_samples(kind, what, each_minute, noise=0.1), 120.0)
    assert row.verdict == verdict
    assert row.bad == (verdict in {"GROWS", "SHRINKS"})


def test_faults_and_warm_up_do_not_count() -> None:
    """What is seen during a fault, or of a young process, changes nothing."""
    samples = _samples("worker", "connections", 0.0)
    for one in samples:
        if not one.calm or one.life_s < 60:
            one.value += one.at_s
    [row] = rows(samples, 120.0)
    assert row.verdict == "flat"
    assert row.found is not None
    assert row.found.mean == 50.0


def test_few_samples_are_no_verdict() -> None:
    """A run of two minutes says that it is too short, and its table can be printed."""
    found = rows(_samples("worker", "files", 1.0)[:18], 60.0)
    assert [row.verdict for row in found] == ["too short to tell"]
    assert all(len(line) < 100 for line in table(found))


def test_faults_of_an_hour() -> None:
    """One a minute, the same for a seed, all kinds; two processes are left alone for long."""
    faults = list(plan(3, HOUR_S, 60.0))
    assert faults == list(plan(3, HOUR_S, 60.0))
    assert [int(fault.at_s // 60) for fault in faults] == list(range(60))
    counts = Counter(fault.verb for fault in faults)
    assert counts.keys() == {verb for verb, *_ in FAULTS + ROLLS}
    assert {counts[verb] for verb, *_ in ROLLS} == {3}
    assert min(counts[verb] for verb, *_ in FAULTS) >= 8
    killed = {fault.target for fault in faults if fault.verb.startswith("kill")}
    assert killed == {"log", "server-1", "worker-1", "worker-2"}
    for fault in faults:
        assert fault.at_s % 60 + fault.for_s < 45
