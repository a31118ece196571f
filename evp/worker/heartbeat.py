"""What a worker tells the store about itself, every few seconds and at its end.

Each partition's loop has a consumer of its own, and so a record of its own.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping

import msgspec

from evp.clock import monotonic_s
from evp.errors import StoreUnavailable
from evp.limits import GIVE_BACK_S_MAX, HEARTBEAT_S
from evp.logs import get
from evp.storage.client import Database
from evp.storage.ledger import record_worker
from evp.worker.journal import Journal, rss_bytes

_RATES = ("stored_per_s", "duplicate_per_s", "dead_per_s", "batch_events", "write_ms")
_log = get("evp.worker")


class Heartbeat:
    """Keeps the record of one worker. What can't be told now is told the next time."""

    def __init__(
        self, db: Database, group: str, name: str, partition: int, journal: Journal
    ) -> None:
        self._db = db
        self._group = group
        self._name = name
        self._partition = partition
        self._journal = journal
        self._pace = _Pace(journal)

    async def run(self) -> None:
        """Record rates and totals until cancelled."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            pace = self._pace.since_last(self._journal)
            await self._record({**pace, "ended": False}, HEARTBEAT_S)

    async def end(self) -> None:
        """Record what was done in the end."""
        # Its record counts for a few seconds more, and it does nothing any longer.
        nothing = dict.fromkeys(_RATES, 0.0)
        await self._record({**nothing, "ended": True}, GIVE_BACK_S_MAX / 2)

    async def _record(self, pace: Mapping[str, object], within_s: float) -> None:
        facts = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "rss_bytes": await rss_bytes(),
            **self._journal.where,
            **pace,
            "totals": msgspec.structs.asdict(self._journal.totals),
        }
        try:
            await record_worker(
                self._db,
                self._group,
                self._name,
                facts,
                within_s=within_s,
                partition=self._partition,
            )
        except StoreUnavailable as error:
            _log.debug("heartbeat not recorded", reason=str(error))


class _Pace:
    """What a worker did between two heartbeats."""

    def __init__(self, journal: Journal) -> None:
        self._at_s = monotonic_s()
        self._before = self._counted(journal)

    def since_last(self, journal: Journal) -> dict[str, object]:
        """Return rates, the means of a write, and how long events took, since this was asked."""
        now_s, counted = monotonic_s(), self._counted(journal)
        before, self._before = self._before, counted
        stored, duplicate, dead, writes, events, write_s = (
            one - other for one, other in zip(counted, before, strict=True)
        )
        elapsed_s = max(now_s - self._at_s, 1e-3)
        self._at_s = now_s
        rates = (stored / elapsed_s, duplicate / elapsed_s, dead / elapsed_s)
        means = (events / writes, 1000 * write_s / writes) if writes else (0.0, 0.0)
        took = [list(pair) for pair in journal.take_took().items()]
        return {**dict(zip(_RATES, (*rates, *means), strict=True)), "took": took}

    @staticmethod
    def _counted(journal: Journal) -> tuple[float, ...]:
        totals, seconds = journal.totals, journal.counts.batch_seconds
        writes, events = sum(seconds.counts), journal.counts.batch_events.total
        return totals.stored, totals.duplicate, totals.dead, writes, events, seconds.total
