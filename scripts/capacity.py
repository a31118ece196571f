"""The plan for a rate, a payload and an outage: how much of what, and how it would go.

    python scripts/capacity.py --eps 20000 --event-bytes 300 --outage 60s

docs/CAPACITY.md has the formulas, where the costs come from, and what this was checked with.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from msgspec import Struct
from msgspec.structs import replace
from rich.console import Group, RenderableType
from rich.table import Table

from capacity_model import (
    Costs,
    Deployment,
    Load,
    Measured,
    Sizes,
    calibrated,
    capacity_eps,
    event_us,
    planned,
    sizes,
    store_us,
    worker_us,
)
from capacity_simulation import Outage, Simulation
from evp.cli.moments import span_s_of
from evp.cli.output import Output
from evp.errors import EvpError, UsageError
from evp.limits import BATCH_EVENTS_MAX, EVENT_BYTES_MAX, LOADTEST_EPS_MAX, MIB
from evp.settings import ROWS
from evp.views.facts import fact_table
from evp.views.units import count, rate, seconds, size

EVENT_BYTES = 300
OUTAGE_S_MAX = 24 * 3600
PROCESSES_MAX = 10_000
LOOPS_MAX = 20_000
"""Loops of workers that are simulated: one for each partition."""


class Plan(Struct, frozen=True):
    """What `--json` prints. Shares are of the time that a part is busy before the outage."""

    load: Load
    deployment: Deployment
    cost_us: dict[str, float]
    worker_us: float
    store_us: float
    capacity_eps: dict[str, float]
    busy_share: dict[str, float]
    sizes: Sizes
    outage: Outage
    costs: Costs


def plan_of(costs: Costs, load: Load, deployment: Deployment) -> Plan:
    """Return the plan for a deployment; simulates its outage."""
    default = {row.name: row.default for row in ROWS}
    outage = Simulation(costs, load, deployment).run()
    capacity = capacity_eps(costs, load, deployment)
    retention_s = float(default["log_retention_s"])
    retention_bytes = float(default["log_retention_bytes"])
    return Plan(
        load=load,
        deployment=deployment,
        cost_us=event_us(costs, load, deployment.lanes),
        worker_us=worker_us(costs, load, deployment),
        store_us=store_us(costs, load, deployment),
        capacity_eps=capacity,
        busy_share={role: load.eps / eps for role, eps in capacity.items()},
        sizes=sizes(
            costs, load, deployment, outage.backlog_events_max, retention_s, retention_bytes
        ),
        outage=outage,
        costs=costs,
    )


def render(plan: Plan) -> RenderableType:
    """Return a plan for people."""
    load, sized, outage = plan.load, plan.sizes, plan.outage
    title = (
        f"{load.eps:,.0f} events/s of {load.event_bytes:,} bytes in requests of "
        f"{load.request_events:,}; the store away for {seconds(load.outage_s)}"
    )
    drained = "never: more comes in than it takes"
    if outage.drain_s is not None and outage.drained_per_s is not None:
        drained = f"{seconds(outage.drain_s)} at {rate(outage.drained_per_s)}"
    rows = [
        ("most that waits in the log", f"{count(outage.backlog_events_max)} events", None),
        ("drained after the store is back", drained, None if outage.drain_s else "red"),
        ("the oldest waits for", seconds(outage.oldest_s), None),
        ("refused, the log was full", count(outage.refused_events), None),
        ("", "", None),
        ("maxmemory of each log server", size(sized.log_memory_bytes), None),
        ("disk of each, with rewrites", size(sized.aof_bytes), None),
        ("written to the log's disks", f"{size(sized.aof_bytes_per_s)}/s", None),
        ("appends, each synced", rate(sized.appends_per_s), None),
        ("stored a day, not compressed", size(sized.store_bytes_per_day), None),
        ("writes under way at the store", str(sized.connections_a_shard), None),
    ]
    return Group(title, "", _parts(plan), "", fact_table(rows))


def _parts(plan: Plan) -> Table:
    """Return how many of each part, and how busy they are."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for heading in ("part", "how many", "busy", "an event", "all take"):
        table.add_column(heading, justify="left" if heading == "part" else "right", no_wrap=True)
    had = plan.deployment
    cores = "core" if had.shard_cores == 1 else "cores"
    for name, role, number, us in (
        ("evp serve, processes", "serve", had.servers, plan.cost_us["serve"]),
        ("log servers (partitions)", "log", had.partitions, plan.cost_us["log"]),
        ("evp work, processes", "work", had.workers, plan.worker_us),
        (f"shards of {had.shard_cores} {cores}", "store", had.shards, plan.store_us),
    ):
        share = plan.busy_share[role]
        cells = (str(number), f"{share:.0%}", f"{us:.1f} µs", rate(plan.capacity_eps[role]))
        table.add_row(name, *cells, style="red" if share >= 1 else None)
    return table


def _measured(file: Path) -> Measured:
    """Return a measured run. Raises UsageError."""
    try:
        run = msgspec.json.decode(file.read_bytes(), type=Measured)
    except OSError as error:
        raise UsageError(f"can't read {file}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise UsageError(f"{file} is no measured run: {error}") from error
    if missing := {"serve", "log", "work", "store"} - set(run.cpu_us):
        raise UsageError(f"{file} does not tell the processor time of {', '.join(sorted(missing))}")
    return run


_Many = Annotated[int | None, typer.Option(min=1, max=PROCESSES_MAX, help="Instead of planned.")]


def main(
    eps: Annotated[float, typer.Option(min=1, max=LOADTEST_EPS_MAX, help="Events a second.")],
    event_bytes: Annotated[
        int | None,
        typer.Option(min=50, max=EVENT_BYTES_MAX, help="Bytes of an event as JSON (300)."),
    ] = None,
    request_events: Annotated[
        int, typer.Option(min=1, max=BATCH_EVENTS_MAX, help="Events in a request.")
    ] = 100,
    outage: Annotated[str, typer.Option(help="How long the store is away: 60s, 10m, 2h.")] = "60s",
    busy: Annotated[
        float, typer.Option(min=0.05, max=0.95, help="Plan so that no part is busier than this.")
    ] = 0.6,
    shard_cores: Annotated[
        int, typer.Option(min=1, max=128, help="Cores that write on a shard's primary.")
    ] = 1,
    answer_ms: Annotated[
        float | None,
        typer.Option(min=0, max=60_000, help="How far away the store is: a batch waits for it."),
    ] = None,
    batch_events: Annotated[
        int, typer.Option(min=1, max=100_000, help="WORKER_BATCH_SIZE.")
    ] = 1000,
    servers: _Many = None,
    workers: _Many = None,
    partitions: _Many = None,
    shards: _Many = None,
    log_memory_mib: Annotated[
        int | None, typer.Option(min=1, help="maxmemory of each log server: what is refused?")
    ] = None,
    calibrate: Annotated[
        Path | None, typer.Option(help="A measured run: scripts/bench/outage.py --write FILE.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Print the plan for a rate, a payload and an outage of the store.

    What is given by --servers, --workers, --partitions and --shards is taken as it is, so it
    tells what becomes of a deployment that is there.

    Examples: scripts/capacity.py --eps 20000 --event-bytes 300 --outage 60s;
    scripts/capacity.py --eps 5000 --workers 2 --log-memory-mib 512 --outage 10m
    """
    outage_s = span_s_of(outage)
    if outage_s is None or not 1 <= outage_s <= OUTAGE_S_MAX:
        raise UsageError(f"--outage {outage!r}: wanted a span from 1s to 24h, such as 60s or 10m")
    run = None if calibrate is None else _measured(calibrate)
    costs = Costs() if run is None else calibrated(Costs(), run)
    if answer_ms is not None:
        costs = replace(costs, answer_ms=answer_ms)
    usual_bytes = EVENT_BYTES if run is None else round(run.event_bytes)
    load = Load(eps, event_bytes or usual_bytes, request_events, outage_s)
    wanted = planned(costs, load, busy, shard_cores, batch_events)
    deployment = replace(
        wanted,
        servers=servers or wanted.servers,
        workers=workers or wanted.workers,
        partitions=partitions or wanted.partitions,
        shards=shards or wanted.shards,
        log_memory_bytes=None if log_memory_mib is None else log_memory_mib * MIB,
    )
    if deployment.workers * deployment.partitions > LOOPS_MAX:
        raise UsageError(
            f"{deployment.workers:,} workers of {deployment.partitions:,} partitions each are more "
            "than can be simulated: give more events a request, or fewer of both"
        )
    plan = plan_of(costs, load, deployment)
    output = Output(highlight=False)
    if json:
        output.say_json(plan)
    else:
        output.print(render(plan))


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(main)
    try:
        app(prog_name="scripts/capacity.py")
    except EvpError as error:
        print(f"capacity: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
