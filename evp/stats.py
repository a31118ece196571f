"""Where everything stands: the log, its groups, what the store has, and the rates."""

from __future__ import annotations

import asyncio

from msgspec import Struct

from evp import balance
from evp.balance import Balance
from evp.clock import monotonic_s
from evp.errors import StoreUnavailable
from evp.limits import TOTALS_COST_FACTOR
from evp.settings import Settings
from evp.storage.account import Totals, stored_per_s
from evp.storage.client import close, connect, database
from evp.stream.client import KeptLink, Link
from evp.stream.info import LogFacts, log_facts
from evp.stream.keys import Keys

#: A look waits this long for the store, seconds; the log's side is told without it.
STORE_LOOK_S_MAX = 5.0


class Rates(Struct):
    """Events a second: accepted since the look before, stored as the workers tell."""

    accepted_per_s: float
    stored_per_s: float


class Stats(Struct):
    """One look. `store_error` tells why totals and balance are missing or old."""

    stream: str
    group: str
    log: LogFacts
    rates: Rates
    totals: Totals | None = None
    store_error: str | None = None
    balance: Balance | None = None


class Collector:
    """Looks at log and store again and again, and asks no more of them than needed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keys = Keys(settings.stream)
        self._client = connect(settings, connections_max=1)
        self._db = database(self._client, settings.mongo_db)
        self._link = KeptLink(settings.redis_url)
        self._before: LogFacts | None = None
        self._totals: Totals | None = None
        self._balance: Balance | None = None
        self._sum_again_at_s = 0.0

    async def look(self) -> Stats:
        """Return how things stand now. Raises LogUnavailable."""
        link = await self._link.get()
        facts = await log_facts(link, self._keys)
        stats = Stats(
            stream=self._settings.stream,
            group=self._settings.consumer_group,
            log=facts,
            rates=Rates(self._accepted_per_s(facts), 0.0),
        )
        try:
            async with asyncio.timeout(STORE_LOOK_S_MAX):
                stats.rates.stored_per_s = await stored_per_s(self._db)
                await self._sum(link)
        except StoreUnavailable as error:
            stats.store_error = str(error)
        except TimeoutError:
            stats.store_error = f"the store did not answer within {STORE_LOOK_S_MAX:g} s"
        stats.totals, stats.balance = self._totals, self._balance
        return stats

    async def close(self) -> None:
        """Close the connections."""
        await self._link.close()
        await close(self._client)

    async def _sum(self, link: Link) -> None:
        """Sum the outcomes, unless that was done a short while ago for what it costs."""
        started_at_s = monotonic_s()
        if started_at_s < self._sum_again_at_s:
            return
        group = self._settings.consumer_group
        try:
            self._balance, self._totals = await balance.look(link, self._db, self._keys, group)
        finally:
            # Also where it was given up: the next look would take as long.
            took_s = monotonic_s() - started_at_s
            self._sum_again_at_s = monotonic_s() + TOTALS_COST_FACTOR * took_s

    def _accepted_per_s(self, facts: LogFacts) -> float:
        before, self._before = self._before, facts
        if before is None or facts.at_ms <= before.at_ms:
            return 0.0
        fresh = max(0, facts.events_accepted - before.events_accepted)
        return fresh / (facts.at_ms - before.at_ms) * 1000


async def look_once(settings: Settings, window_s: float) -> Stats:
    """Return how things stand, with rates over `window_s`. Raises LogUnavailable."""
    collector = Collector(settings)
    try:
        await collector.look()
        await asyncio.sleep(window_s)
        return await collector.look()
    finally:
        await collector.close()
