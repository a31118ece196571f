"""What an event costs in each part of evp, and what a rate therefore needs.

The formulas of docs/CAPACITY.md. Costs are microseconds of a processor; the defaults are
fitted to docs/BENCHMARKS.md, and `calibrated` fits them to a measured run instead.
"""

from __future__ import annotations

import math

from msgspec import Struct
from msgspec.structs import replace

from evp.limits import (
    DONE_SHARE_OF_MARK,
    FRAME_BYTES_CLOSE,
    FRAME_EVENTS_CLOSE,
    KIB,
    MEMORY_MARK_SHARE,
    MIB,
)

IN_FLIGHT = 2
"""Batches that a worker has under way in each partition while it is behind."""

#: Partitions there may be (PARTITIONS), and shards that are planned.
PARTS_MAX = 256
#: A batch asks the log how much fits, reads it, and acks it.
LOG_TRIPS = 3
#: Headers, events and outcomes are written one after the other.
STORE_WRITES = 3
DAY_S = 86_400.0
US = 1e-6
#: What evp adds to an event's JSON in its document, and to the documents of a frame, about.
DOCUMENT_MORE_BYTES = 62
FRAME_MORE_BYTES = 230
#: Header and outcome in the store: for each frame, and in it for each event.
ACCOUNT_FRAME_BYTES = 700
ACCOUNT_EVENT_BYTES = 16
#: Memory that the log takes for a byte of an entry.
MEMORY_FACTOR = 1.25
#: An append-only file grows to twice what it holds before it is rewritten, beside the new one.
AOF_FACTOR = 3.0


class Cost(Struct, frozen=True):
    """Microseconds of a processor: for each request or frame, each event in it, each KiB."""

    each_us: float
    event_us: float
    kib_us: float

    def us(self, events: float, event_bytes: float) -> float:
        """Return what an event costs where `events` of `event_bytes` come together."""
        return self.each_us / events + self.event_us + self.kib_us * event_bytes / KIB

    def scaled(self, factor: float) -> Cost:
        """Return the same, so many times as much."""
        return Cost(self.each_us * factor, self.event_us * factor, self.kib_us * factor)


class Costs(Struct, frozen=True):
    """Costs of an event by role, and what takes time besides processors.

    `append_ms` is an append to the log with its fsync, `log_trip_ms` any other question to it.
    The store takes `sync_ms` for each write of a batch, one write at a time on a core;
    `answer_ms` is what a worker waits for a batch beyond that: network and replicas.
    """

    serve: Cost = Cost(29.0, 6.1, 2.6)
    log: Cost = Cost(170.0, 0.6, 3.2)
    work: Cost = Cost(140.0, 2.6, 2.5)
    store: Cost = Cost(100.0, 14.5, 7.6)
    append_ms: float = 1.5
    log_trip_ms: float = 0.3
    sync_ms: float = 1.0
    answer_ms: float = 1.0

    @property
    def waiting_ms(self) -> float:
        """What a batch waits for log and store, besides their processors."""
        return LOG_TRIPS * self.log_trip_ms + self.answer_ms


class Load(Struct, frozen=True):
    """What comes in. `event_bytes` is an event as JSON, `request_events` how many a POST has."""

    eps: float
    event_bytes: int
    request_events: int
    outage_s: float


class Deployment(Struct, frozen=True):
    """What runs. `shard_cores` write on each shard at once; `batch_events` is WORKER_BATCH_SIZE.

    `log_memory_bytes` is `maxmemory` of each log server; None is as much as it takes.
    """

    servers: int
    partitions: int
    workers: int
    shards: int
    shard_cores: int
    batch_events: int
    log_memory_bytes: int | None = None

    @property
    def lanes(self) -> int:
        """From how many queues frames are appended."""
        return self.servers * self.partitions


class Measured(Struct, frozen=True):
    """The steady part of a run, as `scripts/bench/outage.py` writes it.

    `document_bytes` are those of an event's document in the log. `cpu_us` is processor time of
    an event by role, `write_ms` how long a worker took to write a batch of `batch_events`.
    Frames had `frame_events`.
    """

    document_bytes: float
    request_events: int
    frame_events: float
    batch_events: float
    cpu_us: dict[str, float]
    append_ms: float
    log_trip_ms: float
    write_ms: float

    @property
    def event_bytes(self) -> float:
        """Bytes of an event as JSON."""
        return self.document_bytes - DOCUMENT_MORE_BYTES


def calibrated(costs: Costs, run: Measured) -> Costs:
    """Return costs by which the measured run costs what it did.

    Each role's are scaled as a whole. The store's disk is taken to be like the log's; what a
    write took beyond that and processor time is `answer_ms`.
    """

    def fitted(cost: Cost, role: str, events: float) -> Cost:
        return cost.scaled(run.cpu_us[role] / cost.us(events, run.event_bytes))

    work, store = (
        fitted(cost, role, run.frame_events)
        for cost, role in ((costs.work, "work"), (costs.store, "store"))
    )
    sync_ms = max(0.0, run.append_ms - run.log_trip_ms)
    busy_us = sum(cost.us(run.frame_events, run.event_bytes) for cost in (work, store))
    return replace(
        costs,
        serve=fitted(costs.serve, "serve", run.request_events),
        log=fitted(costs.log, "log", run.frame_events),
        work=work,
        store=store,
        append_ms=run.append_ms,
        log_trip_ms=run.log_trip_ms,
        sync_ms=sync_ms,
        answer_ms=max(
            0.0, run.write_ms - STORE_WRITES * sync_ms - run.batch_events * busy_us / 1000
        ),
    )


def frame_events(costs: Costs, load: Load, lanes: int) -> float:
    """Return how many events make a frame: whole requests that come while one is appended.

    Each server has a lane to each partition, and requests take turns.
    """
    requests = load.eps / lanes / load.request_events * costs.append_ms / 1000
    most = min(FRAME_EVENTS_CLOSE, FRAME_BYTES_CLOSE / document_bytes(load))
    return max(load.request_events, min(requests * load.request_events, most))


def document_bytes(load: Load) -> float:
    """Return the bytes of an event's document: in the log, and again in the store."""
    return load.event_bytes + DOCUMENT_MORE_BYTES


def event_us(costs: Costs, load: Load, lanes: int) -> dict[str, float]:
    """Return what an event costs each role, in microseconds."""
    events = frame_events(costs, load, lanes)
    by_role = {"log": costs.log, "work": costs.work, "store": costs.store}
    return {"serve": costs.serve.us(load.request_events, load.event_bytes)} | {
        role: cost.us(events, load.event_bytes) for role, cost in by_role.items()
    }


def store_us(costs: Costs, load: Load, deployment: Deployment) -> float:
    """Return the time that a core of a shard is taken by an event, in microseconds."""
    batch = max(deployment.batch_events, frame_events(costs, load, deployment.lanes))
    syncs_us = STORE_WRITES * costs.sync_ms * 1000 / batch
    return event_us(costs, load, deployment.lanes)["store"] + syncs_us * deployment.shards


def worker_us(costs: Costs, load: Load, deployment: Deployment) -> float:
    """Return the time of a worker that an event takes, in microseconds.

    Its own processor, or a share of the time in which its batches are under way: whichever
    is more.
    """
    us = event_us(costs, load, deployment.lanes)
    batch = max(deployment.batch_events, frame_events(costs, load, deployment.lanes))
    writing_us = costs.waiting_ms * 1000 / batch
    writing_us += store_us(costs, load, deployment) / deployment.shards
    return max(us["work"], (us["work"] + writing_us) / (IN_FLIGHT * deployment.partitions))


def capacity_eps(costs: Costs, load: Load, deployment: Deployment) -> dict[str, float]:
    """Return the events a second that each part takes when it has nothing else to do."""
    us = event_us(costs, load, deployment.lanes)
    return {
        "serve": deployment.servers / US / us["serve"],
        "log": deployment.partitions / US / us["log"],
        "work": deployment.workers / US / worker_us(costs, load, deployment),
        "store": deployment.shards
        * deployment.shard_cores
        / US
        / store_us(costs, load, deployment),
    }


def planned(
    costs: Costs, load: Load, busy_share: float, shard_cores: int, batch_events: int
) -> Deployment:
    """Return what the load needs so that no part is busy for more than `busy_share` of its time.

    Of partitions and shards there are PARTS_MAX at most: more of them make frames smaller, and
    every batch goes to every shard. Where that does not do, larger requests and batches will.
    """
    wanted_eps = load.eps / busy_share

    def needed(us: float) -> int:
        return max(1, math.ceil(wanted_eps * us * US - 1e-9))

    servers = needed(costs.serve.us(load.request_events, load.event_bytes))
    found = Deployment(servers, 1, 1, 1, shard_cores, batch_events)
    while capacity_eps(costs, load, found)["log"] < wanted_eps and found.partitions < PARTS_MAX:
        found = replace(found, partitions=found.partitions + 1)
    while capacity_eps(costs, load, found)["store"] < wanted_eps and found.shards < PARTS_MAX:
        found = replace(found, shards=found.shards + 1)
    return replace(found, workers=needed(worker_us(costs, load, found)))


class Sizes(Struct, frozen=True):
    """Bytes, and what else follows from a deployment without time passing.

    `log_memory_bytes` and `aof_bytes` are what each log server needs; `done_bytes` of its
    memory is what workers are done with and the log keeps (LOG_RETENTION_S and _BYTES).
    """

    document_bytes: float
    frame_events: float
    appends_per_s: float
    aof_bytes_per_s: float
    backlog_bytes: float
    done_bytes: float
    log_memory_bytes: float
    aof_bytes: float
    store_bytes_per_day: float
    connections_a_worker: int
    connections_a_shard: int


def sizes(
    costs: Costs,
    load: Load,
    deployment: Deployment,
    backlog_events: float,
    retention_s: float,
    retention_bytes: float,
) -> Sizes:
    """Return the sizes for a backlog at its peak."""
    frame, document = frame_events(costs, load, deployment.lanes), document_bytes(load)
    entry = document + FRAME_MORE_BYTES / frame
    each = 1 / deployment.partitions
    backlog = backlog_events * entry * each
    done = min(load.eps * retention_s * entry * each, retention_bytes)
    # What is done gives way, but may take its share of the mark in quiet times.
    memory = MEMORY_FACTOR * max(backlog, done / DONE_SHARE_OF_MARK) / MEMORY_MARK_SHARE
    account = ACCOUNT_EVENT_BYTES + ACCOUNT_FRAME_BYTES / frame
    under_way = deployment.partitions * IN_FLIGHT
    return Sizes(
        document_bytes=document,
        frame_events=frame,
        appends_per_s=load.eps / frame,
        aof_bytes_per_s=load.eps * entry,
        backlog_bytes=backlog,
        done_bytes=done,
        log_memory_bytes=max(memory, 64 * MIB),
        aof_bytes=AOF_FACTOR * max(backlog, done),
        store_bytes_per_day=load.eps * DAY_S * (document + account),
        connections_a_worker=under_way,
        connections_a_shard=deployment.workers * under_way,
    )
