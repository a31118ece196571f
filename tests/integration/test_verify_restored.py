"""`verify` after a restore: what a log or a store that is older than the other one has lost.

A copy of the log is that of its files, of the store that of all its collections.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from evp.balance import look_once
from evp.clock import from_ms
from evp.errors import LogUnavailable
from evp.frame import entry_ms
from evp.settings import Settings
from evp.storage.client import Database
from evp.stream.client import Link
from evp.verify.report import Kind, Report, Scope
from tests.support.backup import copy_log, copy_store, put_log_back, put_store_back
from tests.support.make import event
from tests.support.servers import ProcessServer, program_log
from tests.support.stores import MAY_LEAVE_SOCKETS, documents
from tests.support.streams import consumer
from tests.support.verifying import Accepting, accepting, clean, look, the_finding
from tests.support.workers import carrier_of, changed, drain

pytestmark = [MAY_LEAVE_SOCKETS, pytest.mark.usefixtures("verify_at_once")]

REPAIR = Scope(repair=True)
Span = tuple[Kind, int | None, int | None, int | None]


class Site:
    """A log of a test's own, the store, and one server process: frames n, n + 1, … of known size.

    `sizes` are the events of each frame, by its number.
    """

    def __init__(self, settings: Settings, db: Database, log: ProcessServer, home: Path) -> None:
        self.settings = changed(settings, redis_url=log.url)
        self.db = db
        self.sizes: dict[int, int] = {}
        self.entries: dict[int, str] = {}
        self._log = log
        self._home = home
        self._server: Accepting | None = None

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Run its server process."""
        async with accepting(self.settings) as self._server:
            yield

    async def accept(self, *sizes: int) -> None:
        """Accept a frame of each size, and record how far that is in the store."""
        assert self._server is not None
        for size in sizes:
            seq = len(self.sizes) + 1
            first = sum(self.sizes.values())
            events = [event(number) for number in range(first, first + size)]
            [self.entries[seq]] = await self._server.frames(events)
            self.sizes[seq] = size
        await self.record()

    async def record(self) -> None:
        """Record in log and store how far the server got, as it does every two seconds."""
        assert self._server is not None
        await self._server.record_in_log()
        await self._server.record_in_store(self.db)

    async def store(self) -> None:
        """Have all that waits stored."""
        await drain(self.settings)

    def copy_log(self, to: Path) -> Path:
        """Copy the log."""
        copy_log(self._home, to)
        return to

    async def put_log_back(self, copy: Path) -> None:
        """Put a copy of the log back; the server, which was idle, goes on with it."""
        await put_log_back(self._log, self._home, copy)
        assert self._server is not None
        with contextlib.suppress(LogUnavailable):
            await self._server.reconnect()
        await self._server.reconnect()

    async def check(self, *numbers: int) -> None:
        """Check that of these frames each event is stored, once, and of others nothing is."""
        stored = Counter(one["id"] for one in await documents(self.db, "events"))
        ends = {seq: sum(self.sizes[one] for one in range(1, seq + 1)) for seq in self.sizes}
        ids = (n for seq in numbers for n in range(ends[seq] - self.sizes[seq], ends[seq]))
        assert stored == Counter(f"e{number}" for number in ids)
        outcomes = await documents(self.db, "outcomes")
        accounts = sorted((one["stored"], one["duplicate"], one["dead"]) for one in outcomes)
        assert accounts == sorted((self.sizes[seq], 0, []) for seq in numbers)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where the log has its files."""
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def site_log(home: Path) -> Iterator[ProcessServer]:
    """A log whose files are at hand."""
    log = program_log(home)
    log.start()
    yield log
    log.kill()


@pytest.fixture
async def site(
    settings: Settings, db: Database, site_log: ProcessServer, home: Path
) -> AsyncIterator[Site]:
    """All of it."""
    made = Site(settings, db, site_log, home)
    async with made.serving():
        yield made


def spans(report: Report) -> list[Span]:
    """Return kind, first and last number, and events of what was found."""
    return [(one.kind, one.first_seq, one.last_seq, one.events) for one in report.findings]


def in_log(report: Report) -> tuple[int, int]:
    """Return the frames and events that the log alone has."""
    return report.counts.in_log_frames, report.counts.in_log_events


async def test_log_is_put_back(site: Site, tmp_path: Path) -> None:
    """What came after the copy and was not stored is named; all else is there, and counts, once."""
    await site.accept(2, 1)
    await site.store()
    await site.accept(3)
    copy = site.copy_log(tmp_path)
    await site.accept(1)
    await site.store()
    await site.accept(4, 2)
    assert in_log(await clean(site.settings)) == (2, 6)
    await site.put_log_back(copy)
    report = await look(site.settings)
    assert spans(report) == [(Kind.HOLE, 5, 6, 6)]
    # The log has number 3 once more as one that waits, and the store has it.
    assert (report.counts.lost_events, in_log(report)) == (6, (0, 0))
    assert (report.counts.recorded_events, report.counts.events) == (13, 7)
    await site.store()
    await site.accept(5)
    report = await look(site.settings)
    assert spans(report) == [(Kind.HOLE, 5, 6, 6)]
    # Number 4 is older than 7, and the log does not have it.
    assert in_log(report) == (1, 5)
    await site.store()
    hole = await the_finding(site.settings)
    assert hole.after == from_ms(entry_ms(site.entries[4]))
    assert hole.before == from_ms(entry_ms(site.entries[7]))
    await site.check(1, 2, 3, 4, 7)
    assert "send them again" in hole.meaning
    assert "--acknowledge" in hole.meaning
    assert (await look_once(site.settings, site.db)).unaccounted == 6


async def test_log_is_put_back_amid_a_batch(site: Site, tmp_path: Path) -> None:
    """Of frames stored here and there each gap is named; of one stored in half the events are."""
    await site.accept(1)
    await site.store()
    copy = site.copy_log(tmp_path)
    await site.accept(2, 3, 4, 5, 6)
    reader, stop = consumer(site.settings), asyncio.Event()
    read = await reader.read(10)
    carrier = carrier_of(site.settings, reader, site.db)
    assert await carrier.carry([read[1], read[3]], stop)
    await reader.close()
    # A worker that dies just then: of number 5 all is there but its outcome and two events.
    [frame] = await site.db["frames"].find({"seq": 5}).to_list()
    await site.db["outcomes"].delete_one({"_id": frame["_id"]})
    for number in (11, 13):
        await site.db["events"].delete_one({"id": f"e{number}"})
    await site.put_log_back(copy)
    report = await look(site.settings)
    assert spans(report) == [
        (Kind.HOLE, 2, 2, None),
        (Kind.HOLE, 4, 4, None),
        (Kind.HOLE, 6, 6, None),
        (Kind.ENTRY_LOST, 5, 5, 2),
    ]
    assert [one.events_together for one in report.findings] == [12, 12, 12, None]
    assert len(report.findings[3].event_ids) == 2
    assert report.counts.lost_events == 14


@pytest.mark.parametrize("trimmed", [0, 2], ids=["all in the log", "two trimmed"])
async def test_store_is_put_back(site: Site, trimmed: int) -> None:
    """What the log still has is written again by --repair, once; what it let go of is named."""
    await site.accept(2)
    await site.store()
    copy = await copy_store(site.db)
    await site.accept(3, 1, 4, 2)
    await site.store()
    first = 2 + trimmed
    async with Link.opened(site.settings.redis_url) as link:
        await link.call("XTRIM", site.settings.stream, "MINID", site.entries[first])
    await put_store_back(site.db, copy)
    lost = [(Kind.HOLE, 2, 3, 4)] if trimmed else []
    acked = (Kind.ACKED_NOT_STORED, first, 5, 6 if trimmed else 10)
    report = await look(site.settings)
    assert spans(report) == [*lost, acked]
    assert report.counts.lost_events == (4 if trimmed else 0)
    assert in_log(report) == (6 - first, acked[3])
    assert "evp verify --repair" in report.findings[-1].meaning
    report = await look(site.settings, REPAIR)
    assert report.counts.redelivered_frames == 6 - first
    await site.store()
    report = await look(site.settings)
    assert spans(report) == lost
    assert report.clean is (trimmed == 0)
    await site.check(1, *range(first, 6))


async def test_store_is_put_back_to_the_middle_of_a_frame(site: Site) -> None:
    """A frame whose events were copied, and its outcome was not, is settled again by --repair."""
    await site.accept(2, 3)
    await site.store()
    await clean(site.settings, REPAIR)
    copy = await copy_store(site.db)
    [frame] = [one for one in copy["frames"] if one["seq"] == 2]
    copy["outcomes"] = [one for one in copy["outcomes"] if one["_id"] != frame["_id"]]
    await put_store_back(site.db, copy)
    assert (await look_once(site.settings, site.db)).unaccounted == 3
    assert (await clean(site.settings, REPAIR)).counts.redelivered_frames == 1
    await site.store()
    await site.check(1, 2)
    assert (await look_once(site.settings, site.db)).unaccounted == 0
    assert (await clean(site.settings, REPAIR)).counts.redelivered_frames == 0


@pytest.mark.slow
@pytest.mark.parametrize("older", ["log", "store"])
async def test_both_are_put_back(site: Site, tmp_path: Path, older: str) -> None:
    """Of two moments: what one copy knows of and neither has is named; then what a server knows."""
    # Frames 1 to 5 have as many events.
    await site.accept(1)
    await site.store()
    logs, stores = [site.copy_log(tmp_path / "0")], [await copy_store(site.db)]
    await site.accept(2)
    await site.store()
    await site.accept(3)
    logs.append(site.copy_log(tmp_path / "1"))
    stores.append(await copy_store(site.db))
    await site.store()
    await site.accept(4)
    await site.store()
    await site.accept(5)
    await put_store_back(site.db, stores[older == "log"])
    await site.put_log_back(logs[older == "store"])
    await site.store()
    acked = (Kind.ACKED_NOT_STORED, 2, 2, 2)
    known, there = ([(Kind.HOLE, 3, 3, 3)], (1, 2)) if older == "log" else ([acked], (1, 2, 3))
    assert spans(await look(site.settings)) == known
    # The server that was there all the time knows what it has accepted.
    await site.record()
    known = [(Kind.HOLE, 3, 5, 12)] if older == "log" else [acked, (Kind.HOLE, 4, 5, 9)]
    assert spans(await look(site.settings, REPAIR)) == known
    await site.store()
    report = await look(site.settings)
    assert spans(report) == [one for one in known if one != acked]
    assert report.counts.lost_events == (12 if older == "log" else 9)
    await site.check(*there)
