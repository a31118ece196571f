"""What a worker tells the store about itself, every few seconds and at its end."""

from __future__ import annotations

import asyncio
import os
import socket

import msgspec

from evp.clock import monotonic_s
from evp.errors import StoreUnavailable
from evp.limits import GIVE_BACK_S_MAX, HEARTBEAT_S
from evp.logs import get
from evp.storage.client import Database
from evp.storage.ledger import record_worker
from evp.worker.journal import Journal, rss_bytes

_log = get("evp.worker")


class Heartbeat:
    """Keeps the record of one worker. What can't be told now is told the next time."""

    def __init__(self, db: Database, group: str, name: str, journal: Journal) -> None:
        self._db = db
        self._group = group
        self._name = name
        self._journal = journal

    async def run(self) -> None:
        """Record rates and totals until cancelled."""
        stored, beat_at_s = 0, monotonic_s()
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            total, now_s = self._journal.totals.stored, monotonic_s()
            await self._record((total - stored) / (now_s - beat_at_s), HEARTBEAT_S)
            stored, beat_at_s = total, now_s

    async def end(self) -> None:
        """Record what was done in the end."""
        await self._record(0.0, GIVE_BACK_S_MAX / 2)

    async def _record(self, stored_per_s: float, within_s: float) -> None:
        facts = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "rss_bytes": await rss_bytes(),
            "stored_per_s": stored_per_s,
            "totals": msgspec.structs.asdict(self._journal.totals),
        }
        try:
            await record_worker(self._db, self._group, self._name, facts, within_s=within_s)
        except StoreUnavailable as error:
            _log.debug("heartbeat not recorded", reason=str(error))
