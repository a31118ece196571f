"""Cells by the minute, kept at hand by the hour of acceptance in which they came.

An hour has some 700 cells in the store, and a day of minutes would be read anew for
every question. An hour that is summed up has a version, which changes whenever anything
finer in it does: as long as it is the same, so are the cells.
"""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from evp.batch.tally import Cell, Tally
from evp.clock import to_ms
from evp.limits import MINUTES_NAMES_MAX
from evp.storage.buckets import FINEST, HOURLY
from evp.storage.client import Database
from evp.storage.schema import ROLLUPS
from evp.storage.tail import rows_of, span


class _Hour(Struct):
    version: int
    cells: dict[int, Cell]
    names: int


class Minutes:
    """The cells of hours that were asked for last, up to so many names in all."""

    def __init__(self, names_max: int = MINUTES_NAMES_MAX) -> None:
        self._names_max = names_max
        self._names = 0
        self._hours: dict[datetime, _Hour] = {}

    async def of(self, db: Database, hour: datetime, version: int) -> dict[int, Cell]:
        """Return the cells, by start, ms, of an hour whose version was read before.

        They are not to be changed. Raises PyMongoError.
        """
        kept = self._hours.get(hour)
        if kept is None or kept.version != version:
            tally = Tally()
            query = {"level": FINEST.name, "bucket": span(HOURLY, hour)}
            async for cell in rows_of(db, ROLLUPS, query):
                tally.add_cell(to_ms(cell["at"]), cell["types"], cell.get("sources", ()))
            names = sum(len(cell.types) + len(cell.sources) for cell in tally.cells.values())
            kept = _Hour(version, tally.cells, names)
        self._keep(hour, kept)
        return kept.cells

    def _keep(self, hour: datetime, kept: _Hour) -> None:
        """Put an hour behind all others, and let go of the first ones where there are too many."""
        before = self._hours.pop(hour, None)
        self._names += kept.names - (before.names if before else 0)
        self._hours[hour] = kept
        while self._names > self._names_max:
            self._names -= self._hours.pop(next(iter(self._hours))).names
