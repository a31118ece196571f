"""The plan for a load and an outage: it adds up, and agrees with what can be worked out by hand."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from capacity import main, plan_of
from capacity_model import (
    Costs,
    Deployment,
    Load,
    Measured,
    calibrated,
    capacity_eps,
    event_us,
    planned,
)
from capacity_simulation import Outage, Simulation
from evp.errors import UsageError
from evp.limits import MEMORY_MARK_SHARE, MIB
from tests.tidy.source import ROOT

LOAD = Load(eps=4_000, event_bytes=300, request_events=100, outage_s=10.0)
ONE = Deployment(servers=1, partitions=1, workers=1, shards=1, shard_cores=1, batch_events=1000)
SLOW = msgspec.structs.replace(Costs(), answer_ms=200.0)
"""A store that is far away: then its answers decide, two batches of a worker at a time."""

RUN = Measured(
    document_bytes=362.0,
    request_events=100,
    frame_events=100.0,
    batch_events=500.0,
    cpu_us={"serve": 20.0, "log": 5.0, "work": 12.0, "store": 40.0},
    append_ms=3.0,
    log_trip_ms=0.5,
    write_ms=90.0,
)


def simulated(costs: Costs, load: Load, deployment: Deployment) -> Outage:
    """Return what an outage does."""
    return Simulation(costs, load, deployment).run()


@pytest.mark.parametrize("eps", [100, 20_000, 300_000])
@pytest.mark.parametrize("request_events", [1, 100])
def test_no_part_is_busier_than_planned(eps: float, request_events: int) -> None:
    """All parts take the load with room to spare; with one worker less they would not."""
    load = Load(eps, 300, request_events, 10.0)
    found = planned(Costs(), load, 0.6, shard_cores=4, batch_events=8_000)
    assert min(capacity_eps(Costs(), load, found).values()) >= eps / 0.6 * 0.999
    fewer = msgspec.structs.replace(found, workers=found.workers - 1)
    assert capacity_eps(Costs(), load, fewer)["work"] < eps / 0.6


@pytest.mark.parametrize("workers", [1, 3])
def test_outage_is_what_can_be_worked_out(workers: int) -> None:
    """As much waits as came in; it drains at what the slowest part takes more than comes in."""
    deployment = msgspec.structs.replace(ONE, workers=workers)
    slowest_eps = min(capacity_eps(SLOW, LOAD, deployment).values())
    found = simulated(SLOW, LOAD, deployment)
    assert found.backlog_events_max == pytest.approx(LOAD.eps * LOAD.outage_s, rel=0.1)
    assert found.drain_s is not None
    drained = found.backlog_events_max - LOAD.eps
    assert found.drain_s == pytest.approx(drained / (slowest_eps - LOAD.eps), rel=0.1, abs=1.0)
    assert LOAD.outage_s < found.oldest_s < LOAD.outage_s + found.drain_s
    assert found.refused_events == 0


def test_what_is_old_drains_more_slowly() -> None:
    """After a long outage each batch takes one write more, since its buckets are closed."""
    short = simulated(SLOW, LOAD, ONE)
    long = simulated(SLOW, msgspec.structs.replace(LOAD, outage_s=100.0), ONE)
    assert long.backlog_events_max == pytest.approx(10 * short.backlog_events_max, rel=0.1)
    assert short.drained_per_s is not None
    assert long.drained_per_s is not None
    assert 0.7 < long.drained_per_s / short.drained_per_s < 0.95


def test_more_than_it_takes_never_drains() -> None:
    """Where more comes in than is stored, no time is told."""
    load = msgspec.structs.replace(LOAD, eps=50_000, outage_s=2.0)
    assert simulated(SLOW, load, ONE).drain_s is None


def test_log_that_fills_up_refuses() -> None:
    """No more waits than the log's mark has room for, and what else came is refused."""
    bounded = msgspec.structs.replace(ONE, log_memory_bytes=16 * MIB)
    found = simulated(SLOW, LOAD, bounded)
    most = 16 * MIB * MEMORY_MARK_SHARE / LOAD.event_bytes
    assert 0.5 * most < found.backlog_events_max < most
    assert found.refused_events > 0
    assert found.drain_s is not None


def test_same_outage_same_answer() -> None:
    """The waits between attempts are drawn, but always the same ones."""
    assert simulated(SLOW, LOAD, ONE) == simulated(SLOW, LOAD, ONE)


def test_calibrated_costs_are_those_of_the_run() -> None:
    """Costs that were taken from a run say of that run what was measured."""
    costs = calibrated(Costs(), RUN)
    load = Load(1_000, round(RUN.event_bytes), RUN.request_events, 10.0)
    assert event_us(costs, load, 1) == pytest.approx(RUN.cpu_us)
    busy_ms = RUN.batch_events * (RUN.cpu_us["work"] + RUN.cpu_us["store"]) / 1000
    assert costs.answer_ms == pytest.approx(RUN.write_ms - busy_ms - 3 * costs.sync_ms)


def test_costs_are_those_of_the_benchmarks() -> None:
    """The defaults are within a third of what docs/BENCHMARKS.md has of batches of 100."""
    text = (ROOT / "docs" / "BENCHMARKS.md").read_text(encoding="utf-8")
    section = text.partition("| bytes of payload, batches of 100 |")[2]
    rows = re.findall(r"^\| ([\d,]+) \| .* \| ([\d.]+(?: \+ [\d.]+){3}) = ", section, re.MULTILINE)
    measured = {int(size.replace(",", "")): costs.split(" + ") for size, costs in rows[:3]}
    assert set(measured) == {100, 1_000, 10_000}
    for payload_bytes, (serve, work, log, store) in measured.items():
        load = Load(50_000, payload_bytes + 128, 100, 1.0)
        lone = msgspec.structs.replace(Costs(), append_ms=20.0)  # Frames of a full load.
        found = event_us(lone, load, 1)
        wanted = {"serve": serve, "work": work, "log": log, "store": store}
        for role, us in wanted.items():
            assert found[role] == pytest.approx(float(us), rel=0.34, abs=0.5), (payload_bytes, role)


def test_plan_as_a_whole() -> None:
    """A plan tells sizes that follow from the backlog at its peak."""
    plan = plan_of(SLOW, LOAD, ONE)
    waiting_bytes = plan.outage.backlog_events_max * plan.sizes.document_bytes
    assert plan.sizes.backlog_bytes == pytest.approx(waiting_bytes, rel=0.02)
    assert plan.sizes.log_memory_bytes * MEMORY_MARK_SHARE > waiting_bytes
    assert plan.sizes.connections_a_shard == 2
    assert plan.busy_share["work"] == pytest.approx(LOAD.eps / plan.capacity_eps["work"])


def test_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The command prints a plan that fits 80 columns, or JSON, also for a measured run."""
    main(20_000, outage="10s")
    told = capsys.readouterr().out
    assert "drained after the store is back" in told
    assert max(map(len, told.splitlines())) <= 80
    file = tmp_path / "run.json"
    file.write_bytes(msgspec.json.encode(RUN))
    main(2_000, outage="5s", calibrate=file, json=True)
    assert msgspec.json.decode(capsys.readouterr().out)["cost_us"]["store"] > 20


def test_wrong_use(tmp_path: Path) -> None:
    """What makes no sense is told by name."""
    with pytest.raises(UsageError, match="--outage"):
        main(1_000, outage="soon")
    with pytest.raises(UsageError, match="can't read"):
        main(1_000, calibrate=tmp_path / "nowhere.json")
    file = tmp_path / "run.json"
    file.write_text("{}")
    with pytest.raises(UsageError, match="no measured run"):
        main(1_000, calibrate=file)
    file.write_bytes(msgspec.json.encode(msgspec.structs.replace(RUN, cpu_us={"serve": 1.0})))
    with pytest.raises(UsageError, match="log, store, work"):
        main(1_000, calibrate=file)
    with pytest.raises(UsageError, match="simulated"):
        main(1_000_000, request_events=1)
