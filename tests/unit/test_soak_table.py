"""The verdicts of a soak, and what it does when."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from tests.faults.kit.samples import Marked, Sample
from tests.faults.kit.session import LOAD_PLAN
from tests.faults.kit.soak_judge import SAMPLES, judge
from tests.faults.kit.soak_load import SoakPlan
from tests.faults.kit.soak_table import Row, Verdict, rows, table
from tests.faults.soak_run import EXIT_UNTOLD, FAULTS, ROLLS, judge_again, parse, plan

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


def _row(kind: str, what: str, each_block: float, noise: float) -> Row:
    [row] = rows(_samples(kind, what, each_block, noise=noise), 120.0)
    return row


@pytest.mark.parametrize(
    ("kind", "what", "each_minute", "noise", "verdict"),
    [
        ("worker", "RSS", 0.0, 0.1, "flat"),
        ("worker", "RSS", 0.15, 0.1, "below limit"),  # 0.5 MB per million
        ("worker", "RSS", 0.6, 0.1, "GROWS"),  # 2 MB per million
        ("server", "RSS", -0.6, 0.1, "SHRINKS"),
        ("server", "RSS", 0.0, 30.0, "can't tell"),
        ("server", "RSS", 0.6, 30.0, "can't tell"),
        ("store", "RSS", 5.0, 0.1, "(not judged)"),
        ("worker", "files", 0.0, 0.0, "flat"),
        ("worker", "files", 0.1, 0.1, "GROWS"),
        ("worker", "files", 0.0, 12.0, "can't tell"),
        ("worker", "files", 20 / 60, 30.0, "can't tell"),
        ("group", "pending", -0.1, 0.1, "SHRINKS"),
        ("log", "stream memory", 0.0, 0.4, "flat"),
        ("log", "stream memory", 0.3, 0.4, "GROWS"),
    ],
)
def test_verdict(kind: str, what: str, each_minute: float, noise: float, verdict: str) -> None:
    """Flat is what is known to be flat; in noise that could hide a leak nothing is known."""
    row = _row(kind, what, each_minute, noise)
    assert row.verdict == verdict
    assert row.bad == (verdict in {"GROWS", "SHRINKS"})
    assert row.doubtful == (verdict == "can't tell")


def test_what_chance_may_do_to_one_of_many_rows_is_in_doubt() -> None:
    """Of many flat rows a few have 0 outside their interval: these are not flat, nor accused."""
    samples = [
        sample
        for number in range(100)
        for sample in _samples(f"process {number}", "files", 0.0, noise=0.5)
    ]
    verdicts = Counter(row.verdict for row in rows(samples, 60.0))
    doubtful = verdicts[Verdict.MAY_GROW] + verdicts[Verdict.MAY_SHRINK]
    assert 0 < doubtful <= 12
    assert verdicts[Verdict.FLAT] == 100 - doubtful


def test_no_harmful_leak_is_called_flat() -> None:
    """A leak at the limit is called flat once in forty times at most, however loud the noise."""
    flat = 0
    for noise in (0.2, 1.0, 3.0, 10.0):
        for number in range(50):
            row = _row(f"process {number}", "files", 5 / 60, noise)
            flat += row.verdict is Verdict.FLAT
    assert flat <= 5


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
    assert [row.verdict for row in found] == ["can't tell"]
    assert all(len(line) < 80 for line in table(found))


def test_faults_of_an_hour() -> None:
    """One a minute, the same for a seed, all kinds; between rolls two processes are left alone."""
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


def _left(folder: Path, *, per_s: int) -> None:
    """Leave in a folder what an hour's soak leaves there; some of a last line was cut off."""
    samples = _samples("worker", "files", 0.0)
    for one in samples:
        one.events = int(one.at_s * per_s)
    faults = [Marked("kill log", "log", at_s, at_s + 6, at_s + 20) for at_s in range(0, 3600, 60)]
    lines = [msgspec.json.encode(one) for one in (*samples, *faults)]
    (folder / SAMPLES).write_bytes(b"\n".join([*lines, b'{"type":"sam']))
    plan_ = SoakPlan([], "", "", 5_000.0)
    (folder / LOAD_PLAN).write_bytes(msgspec.json.encode(plan_))


@pytest.mark.parametrize(("per_s", "complaints"), [(4_500, 0), (3_900, 1)])
def test_a_load_that_was_not_reached_is_told(tmp_path: Path, per_s: int, complaints: int) -> None:
    """At least 90 % of the load is accepted but for the time of faults, or the soak failed."""
    _left(tmp_path, per_s=per_s)
    judged = judge(tmp_path, 60.0)
    assert (judged.faults.total(), judged.fault_s) == (60, 360)
    assert len(judged.complaints) == complaints
    assert f"5,000 events/s wanted, {per_s:,} accepted" in judged.lines()[0]


def test_a_soak_is_judged_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The samples of a run are enough to print its table once more; its exit code says how."""
    _left(tmp_path, per_s=5_000)
    options = parse(["--again", str(tmp_path)])
    assert judge_again(options) == 0
    assert "worker files" in capsys.readouterr().out
    noisy = _samples("worker", "files", 0.0, noise=12.0)
    with (tmp_path / SAMPLES).open("wb") as file:
        file.writelines(msgspec.json.encode(one) + b"\n" for one in noisy)
    assert judge_again(options) == EXIT_UNTOLD
    assert "in doubt: worker files (can't tell)" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        parse(["--folder", str(tmp_path)])
