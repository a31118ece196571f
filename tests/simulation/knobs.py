"""Settings and limits of a simulated deployment: the same rules, closer together in time.

So that in ten simulated seconds leases end, buckets close and outcomes are judged again,
which otherwise takes minutes; how the limits relate to each other stays as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from random import Random
from typing import Any

import evp.server.backpressure
import evp.server.ledger
import evp.storage.buckets
import evp.storage.isolation
import evp.storage.rollups
import evp.storage.settle
import evp.stream.slots
import evp.verify.run
import evp.worker.following
import evp.worker.heartbeat
from evp.settings import ROWS, Settings

STREAM = "s"
GROUP = "workers"

_LIMITS: tuple[tuple[Any, str, float], ...] = (
    (evp.server.backpressure, "BACKLOG_LOOK_S", 3.0),
    (evp.server.ledger, "LEDGER_RECORD_S", 0.3),
    (evp.server.ledger, "LEDGER_CARRY_S", 3.0),
    (evp.storage.rollups, "BUCKET_CLOSE_MS", 2_000),
    (evp.storage.rollups, "FOLD_MARKED_MS", 500),
    (evp.storage.rollups, "FOLD_WAIT_MS", 500),
    (evp.storage.buckets, "FOLD_MARKED_MS", 500),
    (evp.storage.settle, "JUDGE_AGAIN_MS_MIN", 1_000),
    (evp.storage.isolation, "KILLED_CONFIRM_S", 1.2),
    (evp.stream.slots, "SLOT_LEASE_MS", 3_000),
    (evp.stream.slots, "SLOT_RENEW_MS", 1_000),
    (evp.verify.run, "VERIFY_AGAIN_S", 3.0),
    (evp.worker.following, "PARTITIONS_LOOK_S", 6.0),
    (evp.worker.heartbeat, "HEARTBEAT_S", 6.0),
)


@contextlib.contextmanager
def limits() -> Iterator[None]:
    """Set the limits for a while."""
    before = [(module, name, getattr(module, name)) for module, name, _ in _LIMITS]
    for module, name, value in _LIMITS:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def settings(chance: Random) -> Settings:
    """Return the settings of one deployment, some of them drawn."""
    values = {row.name: row.parse(row.default) if row.default else row.empty for row in ROWS}
    values |= {
        "stream": STREAM,
        "consumer_group": GROUP,
        "consumer_name": "w",
        "partitions": chance.choice((1, 1, 1, 1, 2)),
        "log_retention_s": chance.choice((0, 0, 0, 600)),
        "worker_batch_size": chance.choice((1, 4, 1000)),
        "read_block_ms": 1_500,
        "write_timeout_ms": 250,
        "claim_idle_ms": 900,
        "max_deliveries": chance.choice((1, 1, 3)),
        "rss_log_events": 10**9,
    }
    return Settings(**values)
