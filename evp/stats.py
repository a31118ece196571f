"""Where everything stands: log, groups, workers and engines, what became of events, and the rates.

One look is a snapshot; `evp stats` and the dashboard show the same one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from msgspec import Struct, field

from evp import balance
from evp.balance import Balance
from evp.batch.tally import quantiles_ms
from evp.clock import monotonic_s
from evp.errors import LogUnavailable, StoreUnavailable
from evp.limits import TOTALS_COST_FACTOR
from evp.logs import get
from evp.looks import LogLook, LogLooks, PartitionRow, ServerRow
from evp.settings import Settings
from evp.signals import end
from evp.state import LogState, StoreState, store_state
from evp.storage.account import Totals
from evp.storage.client import close, connect, database, reach
from evp.storage.partitions import known_partitions
from evp.storage.workers import WorkerRow, heard, worker_rows
from evp.stream.everywhere import Everywhere
from evp.stream.info import GroupFacts, LogFacts

#: The store has this long to answer a look, seconds; the log's side is told without it.
STORE_LOOK_S_MAX = 5.0
#: It looks for a store that seems to be away for so long, seconds.
STORE_REACH_S_MAX = 1.0
#: Who looks on and on waits for it this long, seconds: what it tells late is told by the next look.
STORE_WAIT_S = 0.5
#: Summing what became of all events is given up after this, seconds; the sums of before are told.
SUM_S_MAX = 30.0

_log = get("evp.stats")


class Rates(Struct):
    """Events a second: accepted since the look before, the others as the workers told last."""

    accepted_per_s: float
    stored_per_s: float = 0.0
    duplicate_per_s: float = 0.0
    dead_per_s: float = 0.0


class Latency(Struct):
    """From the append to the log until an event was stored, milliseconds, within the last seconds.

    Each is too large by a fifth at most, and never too small.
    """

    p50: int
    p90: int
    p99: int


class Summed(Struct):
    """What the log counted when totals and balance were summed, `age_s` seconds ago.

    So these belong together: `accepted` in all, and `waiting` for the group that is set.
    """

    age_s: float
    accepted: int
    waiting: int


class Stats(Struct):
    """One look. `store_error` tells why what the store knows is missing or old.

    `totals` and `balance` are those of the last sum, which is made now and then. `log` is all
    partitions together; each by itself is in `partitions`, which is empty if there is one.
    `log_state` is the server of the log that needs attention first, not durable or fullest;
    each by itself is in `log_servers`, which is empty if there is one.
    """

    stream: str
    group: str
    log: LogFacts
    rates: Rates
    log_state: LogState = field(default_factory=LogState)
    store_state: StoreState | None = None
    workers: list[WorkerRow] = field(default_factory=list)
    latency_ms: Latency | None = None
    totals: Totals | None = None
    store_error: str | None = None
    balance: Balance | None = None
    summed: Summed | None = None
    partitions: list[PartitionRow] = []
    log_servers: list[ServerRow] = []

    @property
    def own_group(self) -> GroupFacts | None:
        """The group that is set, None if there is none yet."""
        return next((one for one in self.log.groups if one.name == self.group), None)

    @property
    def working(self) -> list[WorkerRow]:
        """The workers whose rates count: those that are not silent."""
        return heard(self.workers)


class Collector:
    """Looks at log and store again and again, and asks no more of them than needed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # One of them for the sums, which may take long.
        self._client = connect(settings, connections_max=2)
        self._db = database(self._client, settings.mongo_db)
        self._log = LogLooks(settings)
        self._summed_log = Everywhere(settings)
        self._asking: asyncio.Task[None] | None = None
        self._summing: asyncio.Task[None] | None = None
        self._store_state: StoreState | None = None
        self._store_error: str | None = None
        self._workers: list[WorkerRow] = []
        self._totals: Totals | None = None
        self._balance: Balance | None = None
        self._summed: Summed | None = None
        self._summed_at_s = 0.0
        self._sum_again_at_s = 0.0

    async def look(self, store_wait_s: float | None = None) -> Stats:
        """Return how things stand now. Raises LogUnavailable if nothing of the log is there.

        What the store does not tell within `store_wait_s`, STORE_LOOK_S_MAX unless it is given,
        is told as it was before, and the question goes on: a later look has the answer.
        """
        log = await self._look_at_log()
        stats = Stats(
            stream=self._settings.stream,
            group=self._settings.consumer_group,
            log=log.facts,
            rates=Rates(log.accepted_per_s),
            log_state=log.state,
            partitions=log.partitions,
            log_servers=log.servers,
        )
        await self._ask_store(stats, store_wait_s)
        self._add_what_the_store_told(stats)
        return stats

    async def close(self) -> None:
        """Close the connections."""
        await end(*filter(None, (self._asking, self._summing)))
        await self._log.close()
        await self._summed_log.close()
        await close(self._client)

    async def _look_at_log(self) -> LogLook:
        try:
            return await self._log.look()
        except LogUnavailable:
            if self._log.partitions > 1 or not await self._finds_more():
                raise
        return await self._log.look()

    async def _finds_more(self) -> bool:
        """Return whether there are more partitions than the first, which would tell; it is away."""
        try:
            async with asyncio.timeout(STORE_REACH_S_MAX):
                await reach(self._db, STORE_REACH_S_MAX)
                self._log.grow(await known_partitions(self._db))
        except (StoreUnavailable, TimeoutError):
            return False
        return self._log.partitions > 1

    async def _ask_store(self, stats: Stats, wait_s: float | None) -> None:
        """Begin what is not under way, and wait for it, but not for long."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._look_at_store(), name="look at the store")
        if self._summing is None or self._summing.done():
            self._summing = asyncio.create_task(self._sum(stats), name="sum")
        both = {self._asking, self._summing}
        await asyncio.wait(both, timeout=STORE_LOOK_S_MAX if wait_s is None else wait_s)
        if wait_s is None:
            # It ends about now, and says why there is no answer.
            await asyncio.wait({self._asking})

    def _add_what_the_store_told(self, stats: Stats) -> None:
        stats.store_state, stats.store_error = self._store_state, self._store_error
        if stats.store_state is None and stats.store_error is None:
            stats.store_error = "the store has not answered yet"
        stats.workers = self._workers
        rates, working = stats.rates, stats.working
        rates.stored_per_s = sum(one.stored_per_s for one in working)
        rates.duplicate_per_s = sum(one.duplicate_per_s for one in working)
        rates.dead_per_s = sum(one.dead_per_s for one in working)
        stats.latency_ms = _latency(working)
        stats.totals, stats.balance, stats.summed = self._totals, self._balance, self._summed
        if stats.summed is not None:
            stats.summed.age_s = monotonic_s() - self._summed_at_s

    async def _look_at_store(self) -> None:
        """Ask the store what it knows, and keep that, or why it can't be known."""
        version = self._store_state.version if self._store_state else ""
        try:
            async with asyncio.timeout(STORE_LOOK_S_MAX):
                await reach(self._db, STORE_REACH_S_MAX)
                self._store_state = await store_state(self._db, version)
                self._workers = await worker_rows(self._db)
                self._log.grow(await known_partitions(self._db))
            self._store_error = None
        except StoreUnavailable as error:
            self._store_error = str(error)
        except TimeoutError:
            self._store_error = f"the store did not answer within {STORE_LOOK_S_MAX:g} s"

    async def _sum(self, stats: Stats) -> None:
        """Sum the outcomes, unless that was done a short while ago for what it costs."""
        started_at_s = monotonic_s()
        if started_at_s < self._sum_again_at_s:
            return
        group = self._settings.consumer_group
        try:
            async with asyncio.timeout(SUM_S_MAX):
                found = await balance.look(self._summed_log, self._db, group)
            self._balance, self._totals = found
            own = stats.own_group
            waiting = own.waiting_events if own is not None else stats.log.events_accepted
            self._summed = Summed(0.0, stats.log.events_accepted, waiting)
            self._summed_at_s = started_at_s
        except (LogUnavailable, StoreUnavailable, TimeoutError) as error:
            # The look at either engine says what is wrong with it.
            _log.debug("no sums now", reason=str(error))
        finally:
            # Also where it was given up: the next look would take as long.
            took_s = monotonic_s() - started_at_s
            self._sum_again_at_s = monotonic_s() + TOTALS_COST_FACTOR * took_s


async def look_once(settings: Settings, window_s: float) -> Stats:
    """Return how things stand, with rates over `window_s`. Raises LogUnavailable."""
    collector = Collector(settings)
    try:
        await collector.look()
        await asyncio.sleep(window_s)
        return await collector.look()
    finally:
        await collector.close()


def _latency(workers: Sequence[WorkerRow]) -> Latency | None:
    """Return how long events took lately; None if none was stored."""
    took: Counter[int] = Counter()
    for worker in workers:
        for end_ms, events in worker.took:
            took[end_ms] += events
    found = quantiles_ms(took, (0.5, 0.9, 0.99))
    return Latency(*found) if found else None
