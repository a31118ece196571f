"""Clients that send events steadily, each request again and again until it is accepted."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Sequence

from evp.settings import Settings
from evp.storage import schema
from evp.storage.client import Database
from evp.stream.client import Link
from evp.stream.info import log_facts
from evp.stream.keys import Keys
from tests.support.make import event, ndjson
from tests.support.server import NDJSON, InProcess, request
from tests.support.verifying import clean
from tests.support.wait import until

EACH = 5
ACCEPTED_S_MAX = 40.0
_PAUSE_S = 0.01
_AGAIN_S = 0.1


class Steady:
    """Events under way: their ids are e0, e1, … without a gap, and all are accepted in the end."""

    def __init__(self, servers: Sequence[InProcess]) -> None:
        self.accepted = 0
        self.refusals: Counter[str] = Counter()
        """How often which code was answered; each of these requests was sent again."""
        self._servers = itertools.cycle(servers)
        self._lanes = 0
        self._numbers = itertools.count()
        self._ending = False

    async def lane(self) -> None:
        """Send one request after the other."""
        self._lanes += 1
        while not self._ending:
            body = ndjson(*(event(next(self._numbers)) for _ in range(EACH)))
            sent = request(body, path="/events/batch", headers=NDJSON)
            await self._until_accepted(sent)
            self.accepted += EACH
            await asyncio.sleep(_PAUSE_S)
        self._lanes -= 1

    async def _until_accepted(self, sent: bytes) -> None:
        """Send a request again and again; a log that hangs may leave one without an answer."""
        while True:
            try:
                reply = await next(self._servers).ask(sent)
            except TimeoutError:
                self.refusals["no answer"] += 1
                continue
            if reply.status == 202:
                return
            assert reply.status == 503, reply
            self.refusals[reply.code] += 1
            await asyncio.sleep(_AGAIN_S)

    async def more(self, count: int) -> None:
        """Wait until so many more are accepted."""
        wanted = self.accepted + count
        what = f"{count} more events are accepted; {dict(self.refusals)} came"
        await until(lambda: self.accepted >= wanted, what=what, within_s=ACCEPTED_S_MAX)

    def go_to(self, *servers: InProcess) -> None:
        """Send to these servers from now on."""
        self._servers = itertools.cycle(servers)

    def end(self) -> None:
        """Begin no further request."""
        self._ending = True

    async def ended(self) -> None:
        """Wait until all that was begun is accepted."""
        what = "all is accepted"
        await until(lambda: self._lanes == 0, what=what, within_s=ACCEPTED_S_MAX)


@contextlib.asynccontextmanager
async def sending(*servers: InProcess, lanes: int = 4) -> AsyncIterator[Steady]:
    """Send events to servers that take turns; at the end what was begun is accepted."""
    steady = Steady(servers)
    async with asyncio.timeout(2 * ACCEPTED_S_MAX), asyncio.TaskGroup() as group:
        for _ in range(lanes):
            group.create_task(steady.lane())
        await steady.more(EACH)
        yield steady
        steady.end()


async def stored(db: Database) -> Counter[str]:
    """Return how often each event stands in the store."""
    return Counter(one["id"] for one in await db[schema.EVENTS].find({}, {"id": 1}).to_list())


async def each_once(
    settings: Settings, db: Database, steady: Steady, *, partitions: int = 1
) -> None:
    """Wait until all is stored: each event once, with nothing that `evp verify` finds."""

    async def is_drained() -> bool:
        for number in range(partitions):
            keys = Keys(settings.stream, number)
            async with Link.opened(settings.redis_url, keys) as link:
                groups = (await log_facts(link, keys)).groups
            if not groups or any(one.pending or one.lag_events for one in groups):
                return False
        return True

    await until(is_drained, what="everything is acked", within_s=ACCEPTED_S_MAX)
    assert await stored(db) == Counter(f"e{number}" for number in range(steady.accepted))
    await clean(settings)
