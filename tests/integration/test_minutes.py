"""Minutes that are kept at hand: read once, anew when their hour has changed, and bounded."""

from __future__ import annotations

import pytest

from evp.clock import from_ms, now_ms
from evp.frame import MINUTE_MS
from evp.storage.buckets import BUCKET_MS
from evp.storage.client import Database
from evp.storage.metrics import Kept, metrics_with
from evp.storage.minutes import Minutes
from evp.storage.tail import TailReader
from evp.storage.writer import Writer
from tests.support.make import event, frame_of
from tests.support.stores import MAY_LEAVE_SOCKETS, WRITE_MS, Listener, store
from tests.support.sums import fold_all

pytestmark = MAY_LEAVE_SOCKETS

START_MS = 1_767_323_040_000
HOUR_MS = 60 * MINUTE_MS


async def counted(db: Database, minutes: Minutes) -> dict[int, int]:
    """Return how many events there are by the minute, with what is kept."""
    kept = Kept(await TailReader(db).read(), minutes)
    found = await metrics_with(db, kept, 0, now_ms(), MINUTE_MS)
    return {point.start_ms - START_MS: point.stored for point in found.series}


@pytest.mark.parametrize("names_max", [1, 1_000])
async def test_minutes_are_read_once(store_url: str, db: Database, names_max: int) -> None:
    """What is kept is right whatever happens to the store, and is read only if it has to be."""
    writer, minutes, listener = Writer(db, WRITE_MS), Minutes(names_max), Listener()

    async def write(number: int, hour: int) -> None:
        at_ms = START_MS + hour * HOUR_MS
        made = event(number, time=from_ms(at_ms).isoformat())
        await writer.write([frame_of(made, entry_id=f"{at_ms + number * BUCKET_MS}-0")])

    async with store(store_url, db.name, listener) as heard:
        await write(0, 0)
        await write(1, 5)
        await fold_all(db)
        assert await counted(heard, minutes) == {0: 1, 5 * HOUR_MS: 1}
        listener.commands.clear()
        assert await counted(heard, minutes) == {0: 1, 5 * HOUR_MS: 1}
        asked = [one["filter"] for name, one in listener.commands if name == "find rollups"]
        of_minutes = [one for one in asked if one["level"] == "10s"]
        # The hour that has not ended is always read.
        assert len(of_minutes) == 1 + (0 if names_max > 1 else 2)
        await write(2, 0)
        assert await counted(heard, minutes) == {0: 2, 5 * HOUR_MS: 1}
        await fold_all(db)
        assert await counted(heard, minutes) == {0: 2, 5 * HOUR_MS: 1}
