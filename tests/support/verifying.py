"""Frames that are accepted and recorded as servers do it, and a look at what verify says."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from copy import copy
from typing import Any

from evp.frame import OpenFrame
from evp.server.ledger import Ledger
from evp.settings import Settings
from evp.storage.client import Database
from evp.storage.ledger import record_servers
from evp.stream.client import Link
from evp.stream.keys import Keys
from evp.stream.ledger import record_epochs, record_of
from evp.stream.producer import Producer
from evp.verify.report import Finding, Report, Scope
from evp.verify.run import verify
from tests.support.make import event, join, open_frame
from tests.support.streams import connected

EVERYTHING = Scope(every_document=True)


class Accepting:
    """One server process: it appends frames, and records how far it got where it is told to.

    What it appends to is one partition.
    """

    def __init__(self, settings: Settings, producer: Producer, partition: int) -> None:
        self._settings = settings
        self._partition = partition
        self._producer = producer

    @property
    def srv(self) -> str:
        """Its open epoch."""
        return self._producer._epoch.srv.hex()

    async def frames(self, *frames: list[dict[str, Any]], is_told: bool = True) -> list[str]:
        """Append one frame for each list of events; return their entry ids.

        With `is_told` False the log has it, and the server could not learn that.
        """
        entries = []
        for events in frames:
            epoch = copy(self._producer._epoch)
            entries.append(await self._producer.append(open_frame(*events), 1))
            if not is_told:
                self._producer._epoch = epoch
                self._producer._close_epoch(unknown=len(events))
        return entries

    async def singles(self, count: int, *, first: int = 0) -> list[str]:
        """Append frames of one event each."""
        return await self.frames(*([event(number)] for number in range(first, first + count)))

    async def requests(self, *requests: list[dict[str, Any]]) -> str:
        """Append one frame that holds several requests; return its entry id."""
        frame = OpenFrame()
        for events in requests:
            join(frame, events)
        return await self._producer.append(frame, len(requests))

    async def record_in_log(self) -> None:
        """Record in the log how far it got."""
        keys = Keys(self._settings.stream, self._partition)
        link = await Link.open(self._settings.redis_url, keys)
        try:
            await record_epochs(link, keys, map(record_of, self._all()))
        finally:
            await link.close()

    async def record_in_store(self, db: Database) -> None:
        """Record in the store how far it got."""
        rows = [(one.srv, one.acknowledged_seq, one.events, one.unknown) for one in self._all()]
        await record_servers(db, rows, self._partition)

    async def end_well(self, db: Database) -> None:
        """Record for good how far it got, as a server that ends does."""
        await Ledger(self._settings, db, self._producer).close()

    async def reconnect(self) -> None:
        """Look at the log, and dial it again if need be, as a server does now and then."""
        await self._producer.connect()

    def end_epoch(self) -> None:
        """Begin a new epoch, as after an append of unknown outcome."""
        self._producer._close_epoch(unknown=0)

    def _all(self) -> list[Any]:
        closed, open_ = self._producer.epochs()
        return closed + open_


@contextlib.asynccontextmanager
async def accepting(settings: Settings, partition: int = 0) -> AsyncIterator[Accepting]:
    """Give a server process's way into the log."""
    async with connected(settings, partition=partition) as producer:
        yield Accepting(settings, producer, partition)


async def look(settings: Settings, scope: Scope = EVERYTHING) -> Report:
    """Verify."""
    return await verify(settings, scope, lambda _what, _done, _expected: None)


async def clean(settings: Settings, scope: Scope = EVERYTHING) -> Report:
    """Verify; fail if anything differs."""
    report = await look(settings, scope)
    assert report.findings == []
    assert (report.clean, report.exit_code, report.undecided_frames) == (True, 0, 0)
    return report


async def the_finding(settings: Settings, scope: Scope = EVERYTHING) -> Finding:
    """Verify; return the only difference."""
    report = await look(settings, scope)
    assert (report.clean, report.exit_code, report.findings_total) == (False, 1, 1), report.findings
    [finding] = report.findings
    assert finding.meaning
    return finding
