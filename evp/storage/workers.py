"""What each worker told about itself last: rates, the size and time of its writes, memory."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct, field

from evp.clock import now
from evp.limits import WORKER_MISSED_S, WORKER_SILENT_S
from evp.storage.client import Database, Document
from evp.storage.ledger import live_workers


class WorkerRow(Struct):
    """A worker that was heard of `seen_s` seconds ago, by the clocks of both.

    One that is `silent` did not end as it should: it hangs, was killed, or can't reach the
    store; what it told last is old. Rates, `batch_events` and `write_ms` (means of a write)
    are those between its last two words; zero where it did nothing. `took` is how long events
    took from the log to the store meanwhile: events by the ends, ms, of the slots of
    `evp.batch.tally`.
    """

    name: str
    group: str
    host: str
    pid: int
    seen_s: float
    stored_per_s: float
    duplicate_per_s: float
    dead_per_s: float
    batch_events: float
    write_ms: float
    rss_bytes: int
    took: list[Sequence[int]] = field(default_factory=list)
    silent: bool = False


def heard(rows: Sequence[WorkerRow]) -> list[WorkerRow]:
    """Return those that are not silent: what they told last is so now."""
    return [one for one in rows if not one.silent]


async def worker_rows(db: Database) -> list[WorkerRow]:
    """Return the workers that run, and those that are missed, by group and name.

    Raises StoreUnavailable.
    """
    at = now()
    told = await live_workers(db, WORKER_MISSED_S)
    rows = [_row(one, at) for one in told if not one.get("ended")]
    return sorted(rows, key=lambda row: (row.group, row.name))


def _row(told: Document, at: datetime) -> WorkerRow:
    """Return a row of what a worker told; one of an older evp tells less."""
    seen_s = max(0.0, (at - told["seen_at"]).total_seconds())
    return WorkerRow(
        name=told["name"],
        group=told["group"],
        host=told.get("host", ""),
        pid=told.get("pid", 0),
        seen_s=seen_s,
        stored_per_s=told.get("stored_per_s", 0.0),
        duplicate_per_s=told.get("duplicate_per_s", 0.0),
        dead_per_s=told.get("dead_per_s", 0.0),
        batch_events=told.get("batch_events", 0.0),
        write_ms=told.get("write_ms", 0.0),
        rss_bytes=told.get("rss_bytes", 0),
        took=told.get("took", []),
        silent=seen_s > WORKER_SILENT_S,
    )
