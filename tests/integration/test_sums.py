"""Whatever happens to frames in whatever order: sums and accounts are those of the store."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from evp.batch.outcome import Outcome
from evp.clock import from_ms, now_ms
from evp.frame import MINUTE_MS, Frame
from evp.storage import schema
from evp.storage.account import Totals, totals
from evp.storage.buckets import BUCKET_MS, bucket_of, mark
from evp.storage.client import Database
from evp.storage.failures import Failure
from evp.storage.metrics import Kept, metrics_with
from evp.storage.minutes import Minutes
from evp.storage.rollups import fold
from evp.storage.tail import TailReader
from evp.storage.writer import Writer
from tests.support.make import event, frame_of
from tests.support.stores import MAY_LEAVE_SOCKETS, WRITE_MS, documents
from tests.support.sums import check_sums, erase, fold_all, prune_all, sweep_all

pytestmark = MAY_LEAVE_SOCKETS

_START_MS = 1_767_323_040_000
_REFUSED = 9

number = st.integers(0, 30)
steps = st.one_of(
    st.tuples(
        st.sampled_from(["write", "both", "half", "header", "marked"]),
        st.lists(st.integers(0, 11), min_size=1, max_size=4, unique=True),
        st.integers(0, 3),
    ),
    st.tuples(st.sampled_from(["again", "half again", "open", "lose", "erase"]), number),
    st.tuples(st.sampled_from(["fold", "fold all", "ask", "ask", "sweep", "mend", "prune"])),
)


class Stopped(Exception):
    """Raised where a worker of this test ends."""


class Dying(Writer):
    """A worker that ends once the events are in the store, before the outcome."""

    async def _judge(self, frame: Frame, failures: dict[int, Failure]) -> Outcome:
        raise Stopped


class Story:
    """A store with what happens to it. Of events, number 9 is refused until it is mended."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._writer = Writer(db, WRITE_MS)
        self._frames: list[Frame] = []
        self._lost: set[int] = set()
        self._kept: set[int] = set()
        self._pruned = False
        self._minutes = Minutes(names_max=12)

    async def begin(self) -> None:
        """Empty the store, and let an event be there that keeps another one out."""
        await self._db.client.drop_database(self._db.name)
        await schema.ensure(self._db)
        await self._db[schema.EVENTS].create_index("partitionkey", unique=True, sparse=True)
        await self._write(self._frame([100], 0))

    async def happen(self, what: str, *how: Any) -> None:
        """Let one thing happen."""
        if what in {"fold", "fold all", "ask", "sweep", "mend", "prune"}:
            await getattr(self, f"_{what.replace(' ', '_')}")()
        elif len(how) == 2:
            frame = self._frame(*how)
            if what == "both":
                await asyncio.gather(self._write(frame), self._write(frame))
            elif what in {"header", "marked"}:
                await self._writer._write_headers([frame])
                if what == "marked":
                    await mark(self._db, [bucket_of(frame.accepted_ms)])
                else:
                    # A header that nobody marked is found when its entry comes again.
                    self._kept.add(len(self._frames) - 1)
            else:
                await (self._write if what == "write" else self._write_half)(frame)
        elif what == "erase":
            found = await documents(self._db, schema.EVENTS)
            await erase(self._db, found[how[0] % len(found)]["_id"])
        else:
            await self._happen_to(what, how[0] % len(self._frames))

    async def end(self) -> None:
        """Bring to an end what was left lying: entries come again, unless the log lost them."""
        kept = [one for place, one in enumerate(self._frames) if place not in self._lost]
        if kept:
            await self._writer.write(kept)
        await sweep_all(self._db)

    async def check(self) -> None:
        """Check every account and all sums."""
        outcomes = await documents(self._db, schema.OUTCOMES)
        by_frame = {one["_id"]: one for one in outcomes}
        assert len(outcomes) == len(self._frames)
        wanted = Totals(frames=len(outcomes))
        for place, frame in enumerate(self._frames):
            one = by_frame[frame.frame_id]
            missing = one.get("missing", [])
            assert place in self._lost or not missing
            assert "open" not in one
            assert one["stored"] + one["duplicate"] + len(one["dead"] + missing) == frame.count
            wanted.stored += one["stored"]
            wanted.duplicate += one["duplicate"]
            wanted.dead += len(one["dead"])
            wanted.missing += len(missing)
        await check_sums(self._db, minutes=not self._pruned, kept=self._minutes)
        assert await totals(self._db) == wanted
        assert wanted.stored == len(await documents(self._db, schema.EVENTS))

    def _frame(self, numbers: list[int], bucket: int) -> Frame:
        events = []
        for one in numbers:
            time = from_ms(_START_MS - one % 3 * 50 * MINUTE_MS).isoformat()
            refused = {"partitionkey": "taken"} if one in {_REFUSED, 100} else {}
            made = event(one, time=time, type=f"t{one % 2}", source=f"s{one % 4}", **refused)
            # Another content under the same id, now and then.
            events.append(made | {"data": len(self._frames) % 2} if one == 5 else made)
        entry_ms = _START_MS + bucket * 180 * BUCKET_MS
        self._frames.append(frame_of(*events, entry_id=f"{entry_ms}-{len(self._frames)}"))
        return self._frames[-1]

    async def _happen_to(self, what: str, place: int) -> None:
        frame = self._frames[place]
        if what == "lose":
            self._lost |= {place} - self._kept
        elif what == "again" and place not in self._lost:
            await self._write(frame)
        elif what == "half again":
            # A worker that hung: it has the frame although the log lost it.
            await self._write_half(frame)
        elif what == "open":
            opened = {"open": True, "judge_at": from_ms(now_ms())}
            settled = {"_id": frame.frame_id}
            await self._db[schema.OUTCOMES].update_one(settled, {"$set": opened})

    async def _write(self, frame: Frame) -> None:
        await Writer(self._db, WRITE_MS).write([frame])

    async def _write_half(self, frame: Frame) -> None:
        with contextlib.suppress(Stopped):
            await Dying(self._db, WRITE_MS).write([frame])

    async def _fold(self) -> None:
        await fold(self._db, now_ms() + 3600_000)

    async def _fold_all(self) -> None:
        """Fold, so that hours are summed up; a frame that nobody settles keeps its own open."""
        for hours in range(5):
            await fold(self._db, now_ms() + hours * 3600_000)

    async def _ask(self) -> None:
        """Let somebody ask, who keeps what may be out of date by the next time."""
        kept = Kept(await TailReader(self._db).read(), self._minutes)
        await metrics_with(self._db, kept, 0, now_ms(), MINUTE_MS)

    async def _sweep(self) -> None:
        await sweep_all(
            self._db,
            in_log=[
                one.frame_id.binary
                for place, one in enumerate(self._frames)
                if place not in self._lost
            ],
        )

    async def _prune(self) -> None:
        self._pruned = True
        await prune_all(self._db)

    async def _mend(self) -> None:
        await self._db[schema.EVENTS].drop_indexes()
        # Somebody replays what was refused.
        for letter in await documents(self._db, schema.DEAD_LETTERS):
            there = {"_id": letter["event_id"]}
            if letter["reason"] == "unique_conflict":
                insert = {"$setOnInsert": letter["event"]}
                await self._db[schema.EVENTS].update_one(there, insert, upsert=True)


@pytest.mark.slow
@hypothesis.settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(happenings=st.lists(steps, min_size=3, max_size=16))
async def test_sums_are_what_stands_in_the_store(
    db: Database, happenings: list[tuple[Any, ...]]
) -> None:
    """After crashes, redelivery, losses, repairs and erasure every count is exact."""
    story = Story(db)
    await story.begin()
    for what, *how in happenings:
        await story.happen(what, *how)
    await story.end()
    await story.check()
    await fold_all(db)
    await story.check()
