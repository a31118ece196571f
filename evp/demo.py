"""A few thousand made events through the front door, and the account of what became of them.

Nothing is taken on trust: the ids of this run are known, so lost and doubled
events are counted by looking them up in the store.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable

import msgspec
from msgspec import Struct

from evp.clock import from_ms, monotonic_s, now_ms
from evp.errors import ServerUnavailable
from evp.http import HttpConnection
from evp.identity import event_id
from evp.limits import DEMO_STORED_S_MAX
from evp.storage.account import doubled, present
from evp.storage.client import Database

BATCH_EVENTS = 100
CONNECTIONS = 4
_LOOK_S = 0.05
_TYPES = ("page_view", "click", "signup", "purchase")
_ACCEPTED = 202


class DemoAccount(Struct):
    """What a demo run found out; latencies are quantiles in milliseconds."""

    sent: int
    accepted: int
    stored: int
    lost: int
    doubled: int
    seconds: float
    events_per_s: float
    accept_ms_p50: float
    accept_ms_p99: float
    stored_ms_p50: float
    stored_ms_p99: float

    @property
    def ok(self) -> bool:
        """True if every event sent is stored exactly once."""
        return self.stored == self.accepted == self.sent and not self.lost and not self.doubled


class _Batch(Struct):
    ids: list[bytes]
    body: bytes
    accepted_at_s: float = 0.0
    accept_ms: float = 0.0
    stored_ms: float = 0.0


class Demo:
    """One run of `count` events against a server and its store."""

    def __init__(self, url: str, key: str, db: Database, count: int) -> None:
        self._url = url
        self._headers = {"content-type": "application/json", "x-api-key": key}
        self._db = db
        self._count = count
        self._source = f"evp-demo-{secrets.token_hex(4)}"
        self._accepted: asyncio.Queue[_Batch | None] = asyncio.Queue()
        self._progress: Callable[[int], None] = lambda _count: None

    async def run(self, progress: Callable[[int], None]) -> DemoAccount:
        """Send, wait until stored, count. Raises ServerUnavailable and StoreUnavailable."""
        self._progress = progress
        first_ms = now_ms()
        batches = [
            self._batch(start, min(BATCH_EVENTS, self._count - start))
            for start in range(0, self._count, BATCH_EVENTS)
        ]
        last_ms = now_ms()
        started_at_s = monotonic_s()
        watching = asyncio.create_task(self._watch())
        senders = [self._send(batches[lane::CONNECTIONS]) for lane in range(CONNECTIONS)]
        try:
            accepted = sum(await asyncio.gather(*senders))
            self._accepted.put_nowait(None)
            stored = await watching
        finally:
            watching.cancel()
        seconds = monotonic_s() - started_at_s
        twice = await doubled(self._db, self._source, first_ms, last_ms)
        done = [batch for batch in batches if batch.stored_ms]
        return DemoAccount(
            sent=self._count,
            accepted=accepted,
            stored=stored,
            lost=accepted - stored,
            doubled=len(twice),
            seconds=seconds,
            events_per_s=stored / seconds,
            accept_ms_p50=_quantile([batch.accept_ms for batch in done], 0.5),
            accept_ms_p99=_quantile([batch.accept_ms for batch in done], 0.99),
            stored_ms_p50=_quantile([batch.stored_ms for batch in done], 0.5),
            stored_ms_p99=_quantile([batch.stored_ms for batch in done], 0.99),
        )

    def _batch(self, start: int, size: int) -> _Batch:
        ids, events = [], []
        for number in range(start, start + size):
            time_ms = now_ms()
            ids.append(event_id(self._source, f"{number}", time_ms))
            events.append(_made(self._source, number, time_ms))
        return _Batch(ids, msgspec.json.encode(events))

    async def _send(self, batches: list[_Batch]) -> int:
        accepted = 0
        async with HttpConnection(self._url) as connection:
            for batch in batches:
                sent_at_s = monotonic_s()
                reply = await connection.request("POST", "/events/batch", batch.body, self._headers)
                if reply.status != _ACCEPTED:
                    raise ServerUnavailable(f"evp answered {reply.status} {reply.code}")
                batch.accepted_at_s = monotonic_s()
                batch.accept_ms = (batch.accepted_at_s - sent_at_s) * 1000
                accepted += len(batch.ids)
                self._accepted.put_nowait(batch)
        return accepted

    async def _watch(self) -> int:
        """Wait for each accepted batch to be in the store; return how many events were found."""
        stored = 0
        ends_at_s = monotonic_s() + DEMO_STORED_S_MAX
        while (batch := await self._accepted.get()) is not None:
            missing = set(batch.ids)
            while missing:
                missing -= await present(self._db, list(missing))
                if missing and monotonic_s() > ends_at_s:
                    break
                if missing:
                    await asyncio.sleep(_LOOK_S)
            batch.stored_ms = (monotonic_s() - batch.accepted_at_s) * 1000
            stored += len(batch.ids) - len(missing)
            self._progress(stored)
        return stored


def _made(source: str, number: int, time_ms: int) -> dict[str, object]:
    chance = random.Random(number)  # noqa: S311 - made events, the same in each run
    return {
        "id": f"{number}",
        "type": chance.choice(_TYPES),
        "source": source,
        "subject": f"user_{chance.randrange(1000)}",
        "time": from_ms(time_ms),
        "data": {"path": f"/p/{chance.randrange(50)}", "n": number, "ok": True, "ref": "demo"},
    }


def _quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
