"""A few thousand made events through the front door, and the account of what became of them.

Nothing is taken on trust: the ids of this run are known, so lost and doubled
events are counted by looking them up in the store.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable, Iterator
from itertools import chain, islice

import msgspec
from msgspec import Struct

from evp.clock import from_ms, monotonic_s, now_ms
from evp.errors import ServerUnavailable
from evp.http import HttpConnection
from evp.identity import event_id
from evp.limits import DEMO_STORED_S_MAX
from evp.signals import end
from evp.storage.account import doubled, present
from evp.storage.client import Database

BATCH_EVENTS = 100
CONNECTIONS = 4
_AHEAD_BATCHES = 100
_LOOK_S = 0.05
_TYPES = ("page_view", "click", "signup", "purchase")
_STATUS_ACCEPTED = 202


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


class _Accepted(Struct, frozen=True):
    ids: list[bytes]
    at_s: float


class Demo:
    """One run of `count` events against a server and its store."""

    def __init__(
        self, url: str, key: str, db: Database, count: int, *, time_in_id: bool = True
    ) -> None:
        self._url = url
        self._headers = {"content-type": "application/json", "x-api-key": key}
        self._db = db
        self._count = count
        self._time_in_id = time_in_id
        self._source = f"evp-demo-{secrets.token_hex(4)}"
        self._accepted: asyncio.Queue[_Accepted | None] = asyncio.Queue()
        self._accept_ms: list[float] = []
        self._stored_ms: list[float] = []
        self._progress: Callable[[int], None] = lambda _count: None

    async def run(self, progress: Callable[[int], None]) -> DemoAccount:
        """Send, wait until stored, count. Raises ServerUnavailable and StoreUnavailable."""
        self._progress = progress
        first_ms = now_ms()
        made = self._batches()
        # What is made before the clock runs does not count as evp's time.
        batches = chain(list(islice(made, _AHEAD_BATCHES)), made)
        started_at_s = monotonic_s()
        watching = asyncio.create_task(self._watch())
        senders = [asyncio.create_task(self._send(batches)) for _ in range(CONNECTIONS)]
        try:
            accepted = sum(await asyncio.gather(*senders))
            self._accepted.put_nowait(None)
            stored = await watching
        finally:
            await end(*senders, watching)
        seconds = monotonic_s() - started_at_s
        twice = await doubled(self._db, self._source, self._id_ms(first_ms), self._id_ms(now_ms()))
        return DemoAccount(
            sent=self._count,
            accepted=accepted,
            stored=stored,
            lost=accepted - stored,
            doubled=len(twice),
            seconds=seconds,
            events_per_s=stored / seconds,
            accept_ms_p50=_quantile(self._accept_ms, 0.5),
            accept_ms_p99=_quantile(self._accept_ms, 0.99),
            stored_ms_p50=_quantile(self._stored_ms, 0.5),
            stored_ms_p99=_quantile(self._stored_ms, 0.99),
        )

    def _batches(self) -> Iterator[tuple[list[bytes], bytes]]:
        """Make the events, a request at a time; return their ids and the body."""
        for start in range(0, self._count, BATCH_EVENTS):
            ids, events = [], []
            for number in range(start, min(start + BATCH_EVENTS, self._count)):
                time_ms = now_ms()
                ids.append(event_id(self._source, f"{number}", self._id_ms(time_ms)))
                events.append(_made(self._source, number, time_ms))
            yield ids, msgspec.json.encode(events)

    def _id_ms(self, time_ms: int) -> int:
        return time_ms if self._time_in_id else 0

    async def _send(self, batches: Iterator[tuple[list[bytes], bytes]]) -> int:
        """Send as many batches as this connection gets; return how many events were accepted."""
        accepted = 0
        async with HttpConnection(self._url) as connection:
            for ids, body in batches:
                sent_at_s = monotonic_s()
                reply = await connection.request("POST", "/events/batch", body, self._headers)
                if reply.status != _STATUS_ACCEPTED:
                    raise ServerUnavailable(f"evp answered {reply.status} {reply.code}")
                at_s = monotonic_s()
                self._accept_ms.append((at_s - sent_at_s) * 1000)
                accepted += len(ids)
                self._accepted.put_nowait(_Accepted(ids, at_s))
        return accepted

    async def _watch(self) -> int:
        """Wait for each accepted batch to be in the store; return how many events were found."""
        stored = 0
        gives_up_at_s = monotonic_s() + DEMO_STORED_S_MAX
        while (batch := await self._accepted.get()) is not None:
            missing = set(batch.ids)
            while missing:
                found = await present(self._db, list(missing))
                missing -= found
                if found:
                    # The store may be slow, as long as it goes on.
                    gives_up_at_s = monotonic_s() + DEMO_STORED_S_MAX
                elif monotonic_s() > gives_up_at_s:
                    break
                if missing:
                    await asyncio.sleep(_LOOK_S)
            if not missing:
                self._stored_ms.append((monotonic_s() - batch.at_s) * 1000)
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
