"""What whoever watches is told: one look a second for all of them, encoded once.

A viewer is given the newest snapshot when it can take one, never a queue of old ones.
Nobody watches, nobody looks: that ends a short while after the last viewer has left.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Iterator, Mapping

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from evp.clock import monotonic_s, now_ms
from evp.errors import LogUnavailable, Refusal
from evp.frame import SOURCE_OTHER as TYPE_OTHER
from evp.logs import get
from evp.server.limits import (
    LIVE_BUSY_RETRY_S,
    LIVE_GROUPS_MAX,
    LIVE_HEARTBEAT_S,
    LIVE_HISTORY_S,
    LIVE_KEPT_S,
    LIVE_LOOK_S,
    LIVE_PARTITIONS_MAX,
    LIVE_TYPES_MAX,
    LIVE_TYPES_MINUTES,
    LIVE_TYPES_S,
    LIVE_VIEWERS_MAX,
    LIVE_WORKERS_MAX,
)
from evp.server.reading import Reading
from evp.settings import Settings
from evp.signals import end
from evp.stats import STORE_WAIT_S, Collector, Stats

HEARTBEAT = b": still here\n\n"
_MINUTE_MS = 60_000
_log = get("evp.server")


class Point(Struct, array_like=True, frozen=True):
    """One second of the history: rates in events a second, what waits, times in ms.

    Null is what nobody knows, as what waits for a group that does not exist. On the wire it is an
    array, in this order.
    """

    at_ms: int
    accepted_per_s: float
    stored_per_s: float
    waiting_events: int | None
    oldest_s: float | None
    p50_ms: int | None
    p99_ms: int | None


class TypeCounts(Struct):
    """Events of the last minutes by type, by their own time: a number for each of `starts_ms`.

    The most frequent types have their names; the rest is "other".
    """

    starts_ms: list[int]
    events: dict[str, list[int]]


class Snapshot(Struct):
    """How everything stands at `at_ms`.

    Without a log there are no `stats`, and `log_error` says why. `types` is null until it is known;
    `workers_more`, `groups_more` and `partitions_more` count those beyond what `stats` tells of.
    Consumers are only counted, by group: there may be any number.
    """

    at_ms: int
    stats: Stats | None = None
    log_error: str | None = None
    types: TypeCounts | None = None
    workers_more: int = 0
    groups_more: int = 0
    partitions_more: int = 0
    consumers: dict[str, int] = {}


class Viewer:
    """One who watches. `next` gives what is new; what was missed meanwhile is gone.

    `over` is set once there is nothing more to come.
    """

    def __init__(self, live: Live) -> None:
        self._live = live
        self._seen = 0
        self._woken = asyncio.Event()
        self.over = asyncio.Event()

    async def next(self) -> bytes | None:
        """Return a piece of an event stream: the newest snapshot, or a sign of life; None: over."""
        while not self.over.is_set():
            if self._seen != self._live.number:
                self._seen = self._live.number
                return self._live.newest
            self._woken.clear()
            try:
                async with asyncio.timeout(LIVE_HEARTBEAT_S):
                    await self._woken.wait()
            except TimeoutError:
                return HEARTBEAT
        return None

    def wake(self) -> None:
        """Tell that there is something new."""
        self._woken.set()

    def end(self) -> None:
        """Tell that it is over."""
        self.over.set()
        self._woken.set()


class Live:
    """The looks of one server process, and those who watch them.

    `number` counts snapshots, `newest` is the last one as a piece of an event stream.
    """

    def __init__(self, settings: Settings, reading: Reading, draining: asyncio.Event) -> None:
        self.number = 0
        self.newest = HEARTBEAT
        self._settings = settings
        self._reading = reading
        self._draining = draining
        self._viewers: set[Viewer] = set()
        self._history: deque[Point] = deque(maxlen=LIVE_HISTORY_S)
        self._snapshot: Snapshot | None = None
        self._types: TypeCounts | None = None
        self._kept_until_s = 0.0
        self._runs = False
        self._closed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._encode = msgspec.json.Encoder().encode

    @contextlib.contextmanager
    def viewer(self) -> Iterator[Viewer]:
        """Give a viewer, and have the looks go on while there is one.

        Raises Refusal `server_busy` if there are LIVE_VIEWERS_MAX, `shutting_down` at the end.
        """
        if self._draining.is_set():
            raise Refusal("shutting_down", "this server is stopping")
        if len(self._viewers) >= LIVE_VIEWERS_MAX:
            detail = f"{LIVE_VIEWERS_MAX} watch already; close another page, or come back later"
            raise Refusal("server_busy", detail, retry_after_s=LIVE_BUSY_RETRY_S)
        viewer = Viewer(self)
        self._viewers.add(viewer)
        if not self._runs:
            self._begin()
        try:
            yield viewer
        finally:
            self._viewers.discard(viewer)
            self._kept_until_s = monotonic_s() + LIVE_KEPT_S

    async def once(self) -> Snapshot:
        """Return a snapshot of now; raises as `viewer`, also where a look has failed."""
        with self.viewer() as viewer:
            while await viewer.next() is not None:
                if self._snapshot is not None:
                    return self._snapshot
        if self._draining.is_set() or self._closed.is_set():
            raise Refusal("shutting_down", "this server is stopping")
        raise Refusal("server_busy", "this look came to nothing; ask again", retry_after_s=1)

    def history(self) -> bytes:
        """Return the last minutes, oldest first, as a piece of an event stream."""
        oldest_ms = now_ms() - 1000 * LIVE_HISTORY_S
        return _piece(
            "history", self._encode([one for one in self._history if one.at_ms > oldest_ms])
        )

    async def close(self) -> None:
        """End the looks, and tell all who watch that it is over."""
        self._closed.set()
        # Not cancelled: it has connections to close.
        await asyncio.gather(*self._tasks)

    def _begin(self) -> None:
        self._runs = True
        # What is old would pass for new until the first look.
        self._snapshot, self.newest = None, HEARTBEAT
        task = asyncio.create_task(self._run(), name="live")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self) -> None:
        """Look until nobody watches, or the server is about to stop."""
        collector = Collector(self._settings)
        works = (
            self._look_on(collector),
            self._count_types(),
            _set(self._draining),
            _set(self._closed),
        )
        tasks = [asyncio.create_task(one, name="live") for one in works]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if task.exception() is not None:
                _log.error("unexpected error", exc_info=task.exception())
        # Whoever still watches has to come again, and starts anew.
        self._runs = False
        for viewer in self._viewers:
            viewer.end()
        await end(*tasks)
        await collector.close()

    async def _look_on(self, collector: Collector) -> None:
        """Look once a second for as long as somebody watches, and for a short while after."""
        try:
            await collector.look(STORE_WAIT_S)  # Rates need two, and some time between them.
            await asyncio.sleep(LIVE_LOOK_S)
        except LogUnavailable as error:
            _log.debug("the log can't be looked at", reason=str(error))
        while self._viewers or monotonic_s() < self._kept_until_s:
            started_at_s = monotonic_s()
            self._tell(await self._look(collector))
            await asyncio.sleep(max(0.0, started_at_s + LIVE_LOOK_S - monotonic_s()))

    async def _look(self, collector: Collector) -> Snapshot:
        snapshot = Snapshot(now_ms(), types=self._types)
        try:
            snapshot.stats = await collector.look(STORE_WAIT_S)
        except LogUnavailable as error:
            snapshot.log_error = str(error)
        else:
            _cut(snapshot, snapshot.stats)
        return snapshot

    def _tell(self, snapshot: Snapshot) -> None:
        """Keep a snapshot, encode it, and wake all who watch."""
        self._snapshot = snapshot
        if snapshot.stats is not None:
            self._history.append(_point(snapshot.at_ms, snapshot.stats))
        self.newest = _piece("snapshot", self._encode(snapshot))
        self.number += 1
        for viewer in self._viewers:
            viewer.wake()

    async def _count_types(self) -> None:
        while True:
            started_at_s = monotonic_s()
            end_ms = (now_ms() // _MINUTE_MS + 1) * _MINUTE_MS
            first_ms = end_ms - LIVE_TYPES_MINUTES * _MINUTE_MS
            try:
                found = await self._reading.metrics(first_ms, end_ms, _MINUTE_MS, "type")
            except Refusal as refusal:
                _log.debug("types can't be counted now", reason=refusal.detail)
            else:
                by_minute = {point.start_ms: point.types for point in found.series}
                minutes = range(first_ms, end_ms, _MINUTE_MS)
                self._types = type_counts({one: by_minute.get(one, Counter()) for one in minutes})
            await asyncio.sleep(max(0.0, started_at_s + LIVE_TYPES_S - monotonic_s()))


def type_counts(by_start: Mapping[int, Counter[str]]) -> TypeCounts:
    """Return counts by type for each start, the most frequent ones by name."""
    total: Counter[str] = Counter()
    for counts in by_start.values():
        total.update(counts)
    names = [name for name, _ in total.most_common(LIVE_TYPES_MAX) if name != TYPE_OTHER]
    events = {name: [counts[name] for counts in by_start.values()] for name in names}
    rest = [counts.total() - sum(counts[name] for name in names) for counts in by_start.values()]
    if any(rest):
        events[TYPE_OTHER] = rest
    return TypeCounts(list(by_start), events)


def _cut(snapshot: Snapshot, stats: Stats) -> None:
    """Leave of a look what a viewer needs, so that no snapshot is large; the own group stays."""
    workers = stats.workers[:LIVE_WORKERS_MAX]
    snapshot.workers_more = len(stats.workers) - len(workers)
    # `took` is what the latency was made of.
    stats.workers = [replace(one, took=[]) for one in workers]
    own_first = sorted(stats.log.groups, key=lambda one: one.name != stats.group)
    groups = own_first[:LIVE_GROUPS_MAX]
    snapshot.groups_more = len(own_first) - len(groups)
    snapshot.consumers = {one.name: len(one.consumers) for one in groups}
    # Not the group itself: the collector compares looks.
    stats.log = replace(stats.log, groups=[replace(one, consumers=[]) for one in groups])
    # Those that are away stay, then the first ones.
    away_first = sorted(stats.partitions, key=lambda one: one.away is None)
    stats.partitions = sorted(away_first[:LIVE_PARTITIONS_MAX], key=lambda one: one.partition)
    snapshot.partitions_more = len(away_first) - len(stats.partitions)


async def _set(event: asyncio.Event) -> None:
    await event.wait()


def _point(at_ms: int, stats: Stats) -> Point:
    own, latency = stats.own_group, stats.latency_ms
    return Point(
        at_ms=at_ms,
        accepted_per_s=round(stats.rates.accepted_per_s, 1),
        stored_per_s=round(stats.rates.stored_per_s, 1),
        waiting_events=None if own is None else own.waiting_events,
        oldest_s=None if own is None else own.lag_s,
        p50_ms=None if latency is None else latency.p50,
        p99_ms=None if latency is None else latency.p99,
    )


def _piece(event: str, data: bytes) -> bytes:
    """Return an event of an event stream; JSON has no line breaks of its own."""
    return b"event: %b\ndata: %b\n\n" % (event.encode(), data)
