"""The sweep: frames that no worker judges any more get their account, and never a wrong one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from bson import Binary, ObjectId
from bson.raw_bson import RawBSONDocument

from evp.batch.outcome import Held, Outcome, judge_by_ids
from evp.clock import from_ms, now_ms
from evp.errors import LogUnavailable
from evp.frame import Frame
from evp.limits import JUDGE_AGAIN_AGE_MS_MAX, JUDGE_AGAIN_MS_MIN, SWEEP_FRAMES_MAX
from evp.settings import Settings
from evp.storage import buckets, schema, settle
from evp.storage import sweep as sweep_module
from evp.storage.client import Database
from evp.storage.failures import Failure
from evp.storage.lookup import stored_events
from evp.storage.rollups import fold
from evp.storage.settle import replace
from evp.storage.sweep import Sought, judge_again, sweep
from evp.storage.writer import Writer
from tests.integration.test_settle import cut_off
from tests.support.frames import frame_of_requests
from tests.support.make import event, frame_of
from tests.support.stores import MAY_LEAVE_SOCKETS, WRITE_MS, Listener, documents, store, the_one
from tests.support.sums import check_sums, erase, fold_all, sweep_all

pytestmark = MAY_LEAVE_SOCKETS

#: More commands than a sweep of the frames below needs.
CUTS = 40


class Stopped(Exception):
    """Raised where a worker of a test ends."""


class Dying(Writer):
    """A worker that ends once the events are in the store, before the outcome."""

    async def _judge(self, frame: Frame, failures: dict[int, Failure]) -> Outcome:
        raise Stopped


@pytest.fixture
def writer(db: Database) -> Writer:
    """A writer into the test's database."""
    return Writer(db, WRITE_MS)


async def write_half(db: Database, *frames: Frame) -> None:
    """Write frames as a worker that ends before it settles them."""
    with pytest.raises(Stopped):
        await Dying(db, WRITE_MS).write(frames)


async def write_header(db: Database, *frames: Frame) -> None:
    """Write nothing but the headers of frames."""
    await Writer(db, WRITE_MS)._write_headers(frames)


async def outcome_of(db: Database, frame: Frame) -> dict[str, Any]:
    """Return a frame's outcome as it stands in the store."""
    found = await db[schema.OUTCOMES].find_one({"_id": frame.frame_id})
    assert found is not None
    return found


def account(outcome: dict[str, Any]) -> tuple[int, int, list[int], list[int]]:
    """Return stored, duplicate, dead, missing."""
    missing = outcome.get("missing", [])
    return outcome["stored"], outcome["duplicate"], outcome["dead"], missing


async def write_refused(db: Database) -> Frame:
    """Write a frame of three of which the store refuses the second, for now; return it."""
    await db[schema.EVENTS].create_index("partitionkey", unique=True, sparse=True)
    writer = Writer(db, WRITE_MS)
    await writer.write([frame_of(event(0, partitionkey="taken"))])
    frame = frame_of(event(1), event(2, partitionkey="taken"), event(3))
    await writer.write([frame])
    assert account(await outcome_of(db, frame)) == (2, 0, [1], [])
    return frame


async def mend(db: Database) -> None:
    """Let the store take what it refused."""
    await db[schema.EVENTS].drop_indexes()


async def test_lost_frame_is_named_by_what_is_missing(db: Database, writer: Writer) -> None:
    """A frame that the log lost gets an outcome by ids: what is stored, and what is nowhere."""
    await writer.write([frame_of(event(0))])
    frame = frame_of(event(0), event(1), event(2), event(3))
    await write_header(db, frame)
    await writer._insert(list(frame.documents[1:3]))
    swept = await sweep_all(db)
    assert sum(one.changed for one in swept) == 1
    outcome = await outcome_of(db, frame)
    assert outcome["provisional"] is True
    assert account(outcome) == (2, 1, [], [3])
    assert dict(outcome["sources"]) == {"test": 2}
    await fold_all(db)
    assert (await check_sums(db)).accepted.missing == 1


async def test_worker_that_ends_amid_the_events(db: Database) -> None:
    """Once events of a frame may be there, the store knows of it: it gets its account."""

    class Ending(Writer):
        """A worker that ends when half of the events are in the store."""

        async def _insert(self, documents: list[RawBSONDocument]) -> dict[int, Failure]:
            await super()._insert(documents[:2])
            raise Stopped

    frame = frame_of(*(event(number) for number in range(4)))
    with pytest.raises(Stopped):
        await Ending(db, WRITE_MS).write([frame])
    await sweep_all(db)
    found = await documents(db, schema.OUTCOMES)
    assert [account(one) for one in found] == [(2, 0, [], [2, 3])]


async def test_frame_in_the_log_is_left_to_workers(db: Database, writer: Writer) -> None:
    """Nothing is settled by ids while the log still has the events."""
    frame, other = frame_of(event(0)), frame_of(event(1))
    await write_half(db, frame, other)
    await sweep_all(db, in_log=[frame.frame_id.binary])
    assert [one["_id"] for one in await documents(db, schema.OUTCOMES)] == [other.frame_id]
    await sweep_all(db)
    assert len(await documents(db, schema.OUTCOMES)) == 2


async def test_log_that_is_away_ends_a_sweep(db: Database) -> None:
    """Without the log no frame is taken as lost."""

    async def away(_sought: Sequence[Sought]) -> set[bytes]:
        raise LogUnavailable("away")

    await write_half(db, frame_of(event(0)))
    await fold(db, now_ms())
    with pytest.raises(LogUnavailable):
        await sweep(db, away)
    assert await documents(db, schema.OUTCOMES) == []


async def test_worker_replaces_a_provisional_outcome(db: Database, writer: Writer) -> None:
    """A frame that was taken as lost and comes after all gets its real account, also in sums."""
    frame = frame_of(event(0), event(1))
    await write_header(db, frame)
    await sweep_all(db)
    await fold_all(db)
    assert account(await outcome_of(db, frame)) == (0, 0, [], [0, 1])
    [written] = await writer.write([frame])
    assert written.outcome is not None
    outcome = await outcome_of(db, frame)
    assert account(outcome) == (2, 0, [], [])
    assert not outcome.keys() & {"provisional", "missing", "open", "judge_at"}
    await check_sums(db)
    await fold_all(db)
    await check_sums(db)


async def test_provisional_outcome_is_judged_again(db: Database, writer: Writer) -> None:
    """A worker that hung stores an event after the sweep and dies: the next sweep counts it."""
    frame = frame_of(event(0), event(1))
    await write_header(db, frame)
    await sweep_all(db)
    await fold_all(db)
    await write_half(db, frame)
    await sweep_all(db)
    outcome = await outcome_of(db, frame)
    assert account(outcome) == (2, 0, [], [])
    assert outcome["provisional"] is True
    await fold_all(db)
    await check_sums(db)


async def test_what_does_not_change_is_judged_less_and_less(db: Database) -> None:
    """A provisional outcome that stays as it is waits longer from time to time."""
    frame = frame_of(event(0))
    await write_header(db, frame)
    await sweep_all(db)
    assert (await outcome_of(db, frame))["judge_at"] > from_ms(now_ms())
    hour_ago = from_ms(now_ms() - 3_600_000)
    await db[schema.OUTCOMES].update_one({}, {"$set": {"settled_at": hour_ago}})
    [swept] = await sweep_all(db)
    assert (swept.judged, swept.changed) == (1, 0)
    assert (await outcome_of(db, frame))["judge_at"] > from_ms(now_ms() + 1_700_000)


@pytest.mark.parametrize("kind", ["dead", "provisional"])
async def test_what_never_changes_is_left_at_last(db: Database, kind: str) -> None:
    """An outcome that has been the same for long is not judged any more, unless asked for."""
    if kind == "dead":
        frame = await write_refused(db)
    else:
        frame = frame_of(event(0), event(1))
        await write_header(db, frame)
        await sweep_all(db)
    before = await outcome_of(db, frame)
    for age_ms, is_left in (
        (JUDGE_AGAIN_AGE_MS_MAX - 60_000, False),
        (JUDGE_AGAIN_AGE_MS_MAX, True),
    ):
        settled_at = {"settled_at": from_ms(now_ms() - age_ms)}
        await db[schema.OUTCOMES].update_many({"dead": before["dead"]}, {"$set": settled_at})
        [swept] = await sweep_all(db)
        assert (swept.judged, swept.changed) == (1, 0)
        assert ("judge_at" not in await outcome_of(db, frame)) is is_left
    [swept] = await sweep_all(db)
    assert swept.judged == 0
    assert account(await outcome_of(db, frame)) == account(before)
    await mend(db)
    await db[schema.EVENTS].insert_one(frame.documents[1])
    assert await judge_again(db, [frame.frame_id]) == {frame.frame_id}


async def test_change_begins_a_new_term(db: Database, writer: Writer) -> None:
    """An old outcome that changed after all, and has dead letters still, is judged on."""
    await db[schema.EVENTS].create_index("partitionkey", unique=True, sparse=True)
    await writer.write([frame_of(event(0, partitionkey="taken"))])
    frame = frame_of(*(event(number, partitionkey="taken") for number in (1, 2)))
    await writer.write([frame])
    long_ago = {"settled_at": from_ms(now_ms() - 2 * JUDGE_AGAIN_AGE_MS_MAX)}
    await db[schema.OUTCOMES].update_many({}, {"$set": long_ago})
    await mend(db)
    await db[schema.EVENTS].insert_one(frame.documents[0])
    await sweep_all(db)
    outcome = await outcome_of(db, frame)
    assert account(outcome) == (1, 0, [1], [])
    await sweep_all(db)
    assert "judge_at" in await outcome_of(db, frame)


async def test_dead_event_that_was_stored_after_all(db: Database) -> None:
    """A slower worker stores what another one saw refused: the sweep takes it out of the dead."""
    frame = await write_refused(db)
    await fold_all(db)
    await sweep_all(db)
    assert account(await outcome_of(db, frame)) == (2, 0, [1], [])
    await mend(db)
    await db[schema.EVENTS].insert_one(frame.documents[1])
    await sweep_all(db)
    outcome = await outcome_of(db, frame)
    assert account(outcome) == (3, 0, [], [])
    assert not outcome.keys() & {"provisional", "missing", "open", "judge_at"}
    await check_sums(db)
    await fold_all(db)
    await check_sums(db)


async def test_judging_keeps_when_a_frame_was_stored(db: Database) -> None:
    """An outcome that is mended long after does not count as stored slowly."""
    frame = await write_refused(db)
    before = await outcome_of(db, frame)
    await mend(db)
    await db[schema.EVENTS].insert_one(frame.documents[1])
    assert await judge_again(db, [frame.frame_id, ObjectId()]) == {frame.frame_id}
    after = await outcome_of(db, frame)
    assert after["settled_at"] == before["settled_at"]
    assert after["judged_at"] > before["settled_at"]
    assert await judge_again(db, [frame.frame_id]) == set()


async def test_conflict_stays_dead(db: Database, writer: Writer) -> None:
    """An event whose id another one has is dead however often it is judged."""
    await writer.write([frame_of(event(0))])
    frame = frame_of(event(0, data="another"), event(1))
    await writer.write([frame])
    await sweep_all(db)
    assert account(await outcome_of(db, frame)) == (1, 0, [0], [])
    await db[schema.DEAD_LETTERS].delete_many({})
    await sweep_all(db)
    assert account(await outcome_of(db, frame)) == (1, 0, [0], [])


async def test_conflict_within_a_frame_stays_dead(db: Database, writer: Writer) -> None:
    """Of two events of a frame with one id, the one that is stored does not revive the other."""
    frame = frame_of_requests([event(0), event(1)], [event(0, data="another")])
    await writer.write([frame])
    await sweep_all(db)
    assert account(await outcome_of(db, frame)) == (2, 0, [2], [])


async def test_letters_of_a_lost_frame_count(db: Database, writer: Writer) -> None:
    """A worker wrote its dead letters and died; the log lost the frame: the letters still count."""
    await writer.write([frame_of(event(0))])
    frame = frame_of(event(0, data="another"), event(1), event(2))
    await writer.write([frame])
    await db[schema.OUTCOMES].delete_one({"_id": frame.frame_id})
    await db[schema.EVENTS].delete_one({"_id": Binary(frame.ids[2], 4)})
    await sweep_all(db)
    assert account(await outcome_of(db, frame)) == (1, 0, [0], [2])


async def test_letter_counts_only_where_the_outcome_lists_it(db: Database, writer: Writer) -> None:
    """A letter left behind by a worker that knew less makes no event dead."""
    frame = await write_refused(db)
    await mend(db)
    [letter] = await documents(db, schema.DEAD_LETTERS)
    await db[schema.DEAD_LETTERS].insert_one(
        letter | {"_id": f"{frame.frame_id}:0", "index": 0, "event": {"type": "other"}}
    )
    other = Binary(frame.ids[0], 4)
    await db[schema.EVENTS].update_one({"_id": other}, {"$set": {"frame_id": ObjectId()}})
    await db[schema.EVENTS].insert_one(frame.documents[1])
    await judge_again(db, [frame.frame_id])
    assert account(await outcome_of(db, frame)) == (2, 1, [], [])


async def test_opened_outcome_is_settled_although_the_log_has_it(db: Database) -> None:
    """An entry that was acked may still be there: nobody will read it, so the sweep settles."""
    frame = await write_refused(db)
    await fold_all(db)
    await mend(db)
    await db[schema.EVENTS].insert_one(frame.documents[1])
    # What a worker leaves that dies between opening and marking.
    at = from_ms(now_ms() + JUDGE_AGAIN_MS_MIN)
    opened = {"open": True, "judge_at": at}
    await db[schema.OUTCOMES].update_one({"_id": frame.frame_id}, {"$set": opened})
    await sweep_all(db, in_log=[frame.frame_id.binary])
    outcome = await outcome_of(db, frame)
    assert account(outcome) == (3, 0, [], [])
    assert not outcome.keys() & {"provisional", "open"}
    await fold_all(db)
    await check_sums(db)


async def test_outcome_opened_by_another_is_marked(db: Database, writer: Writer) -> None:
    """Who replaces an open outcome marks the bucket, for its opener may have died before it did."""
    frame = await write_refused(db)
    await fold_all(db)
    await mend(db)
    opened = {"$set": {"open": True}}
    await db[schema.OUTCOMES].update_one({"_id": frame.frame_id}, opened)
    [there] = await db[schema.OUTCOMES].find({"_id": frame.frame_id}).to_list()
    await writer._insert([frame.documents[1]])
    outcome = judge_by_ids(
        Held(frame.frame_id, frame.ids, frame.accepted_ms),
        await stored_events(db, frame.ids),
        {},
        set(),
    )
    assert await replace(db, there, outcome)
    await fold_all(db)
    assert (await check_sums(db)).stored == 4


async def test_outcome_is_opened_before_its_bucket_is_marked(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fold at any moment of a replacement leaves no old sums behind."""
    frame = await write_refused(db)
    await fold_all(db)
    await mend(db)
    await db[schema.EVENTS].insert_one(frame.documents[1])
    mark = buckets.mark

    async def between(*arguments: Any) -> None:
        await fold(db, now_ms() + 60_000)
        await mark(*arguments)
        await fold(db, now_ms() + 120_000)

    monkeypatch.setattr(settle, "mark", between)
    assert await judge_again(db, [frame.frame_id]) == {frame.frame_id}
    await fold_all(db)
    assert (await check_sums(db)).stored == 4


@pytest.mark.parametrize("others", [1, 3])
async def test_two_that_judge_one_frame_at_once(
    db: Database, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    """Whoever meets an outcome that another one has just opened settles it for good."""
    frame = await write_refused(db)
    await mend(db)
    await db[schema.EVENTS].insert_one(frame.documents[1])
    mark = buckets.mark

    async def overtaken(*arguments: Any) -> None:
        monkeypatch.setattr(settle, "mark", mark)
        assert (await outcome_of(db, frame))["open"] is True
        await asyncio.gather(*(judge_again(db, [frame.frame_id]) for _ in range(others)))
        await mark(*arguments)

    monkeypatch.setattr(settle, "mark", overtaken)
    await judge_again(db, [frame.frame_id])
    outcome = await outcome_of(db, frame)
    assert account(outcome) == (3, 0, [], [])
    assert not outcome.keys() & {"provisional", "missing", "open", "judge_at"}
    await fold_all(db)
    assert (await check_sums(db)).stored == 4


async def test_opened_outcome_of_which_something_is_missing(db: Database) -> None:
    """What a worker settled and another one opened stays in doubt while an event is nowhere."""
    frame = await write_refused(db)
    await db[schema.EVENTS].delete_one({"_id": Binary(frame.ids[0], 4)})
    opened = {"open": True, "judge_at": from_ms(now_ms())}
    await db[schema.OUTCOMES].update_one({"_id": frame.frame_id}, {"$set": opened})
    await sweep_all(db)
    outcome = await outcome_of(db, frame)
    assert account(outcome) == (1, 0, [1], [0])
    assert outcome["provisional"] is True


async def test_first_outcome_marks_its_bucket(db: Database, writer: Writer) -> None:
    """A header that nobody marked, for its writer died, is in the sums once it was judged."""
    await writer.write([frame_of(event(0))])
    await fold_all(db)
    frame = frame_of(event(1), event(2))
    await write_header(db, frame)
    await writer._insert([frame.documents[0]])
    assert await judge_again(db, [frame.frame_id]) == {frame.frame_id}
    await fold_all(db)
    assert (await check_sums(db)).stored == 2


async def test_sweep_never_overwrites_a_worker(
    db: Database, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that settles while a sweep judges has the last word."""
    frame = frame_of(event(0), event(1))
    await write_header(db, frame)
    judge = sweep_module._judge

    async def overtaken(*arguments: Any) -> Outcome:
        outcome = await judge(*arguments)
        await writer.write([frame])
        return outcome

    monkeypatch.setattr(sweep_module, "_judge", overtaken)
    assert await judge_again(db, [frame.frame_id]) == set()
    outcome = await outcome_of(db, frame)
    assert account(outcome) == (2, 0, [], [])
    assert "provisional" not in outcome


async def test_final_outcome_never_loses_what_it_counted(db: Database) -> None:
    """Documents that somebody deleted later change nothing in a final account."""
    frame = await write_refused(db)
    await db[schema.EVENTS].delete_one({"_id": Binary(frame.ids[0], 4)})
    await mend(db)
    await db[schema.EVENTS].insert_one(frame.documents[1])
    assert await judge_again(db, [frame.frame_id]) == set()
    assert account(await outcome_of(db, frame)) == (2, 0, [1], [])


async def test_erased_event_does_not_come_back(db: Database, writer: Writer) -> None:
    """What is left of an erased event is the same as any content: a duplicate, never stored."""
    first = frame_of(event(0), event(1))
    await writer.write([first])
    await fold_all(db)
    await erase(db, Binary(first.ids[0], 4))
    again = frame_of(event(0, data="another"), event(2))
    [written] = await writer.write([again])
    assert written.outcome is not None
    assert (written.outcome.stored, written.outcome.duplicate, written.outcome.dead) == (1, 1, [])
    assert await documents(db, schema.DEAD_LETTERS) == []
    left = await db[schema.EVENTS].find_one({"_id": Binary(first.ids[0], 4)})
    assert left is not None
    assert "data" not in left
    await fold_all(db)
    await check_sums(db)


async def test_erased_event_of_a_lost_frame(db: Database, writer: Writer) -> None:
    """A dead letter whose event was stored and erased counts as stored."""
    frame = await write_refused(db)
    await mend(db)
    await db[schema.EVENTS].insert_one(frame.documents[1])
    await erase(db, Binary(frame.ids[1], 4))
    await sweep_all(db)
    assert account(await outcome_of(db, frame)) == (3, 0, [], [])
    await check_sums(db)


async def test_one_sweep_is_bounded(db: Database) -> None:
    """A sweep judges a part of what is due, says that there is more, and gets to the end."""
    frames = [frame_of(event(number)) for number in range(SWEEP_FRAMES_MAX + 3)]
    await write_half(db, *frames)
    swept = await sweep_all(db)
    assert swept[0].judged == SWEEP_FRAMES_MAX
    assert sum(one.changed for one in swept) == len(frames)
    swept = await sweep_all(db)
    assert [one.judged for one in swept] == [SWEEP_FRAMES_MAX, 3]


async def test_sweeps_and_workers_at_once(db: Database, writer: Writer) -> None:
    """Many sweeps beside workers leave each frame with one account, the worker's."""
    await writer.write([frame_of(event(0))])
    frames = [frame_of(event(0), event(number), event(number + 50)) for number in range(1, 9)]
    await write_half(db, *frames)
    await asyncio.gather(
        *(judge_again(db, [frame.frame_id for frame in frames]) for _ in range(3)),
        *(Writer(db, WRITE_MS).write(frames) for _ in range(2)),
    )
    for frame in frames:
        outcome = await outcome_of(db, frame)
        assert account(outcome) == (2, 1, [], [])
        assert not outcome.keys() & {"provisional", "open"}
    await fold_all(db)
    await check_sums(db)


@pytest.mark.slow
async def test_sweep_cut_anywhere(db: Database, settings: Settings, writer: Writer) -> None:
    """A sweep or a fold may end at any command: the next ones complete what it began."""
    listener = Listener()
    cuts = 0
    async with store(settings.mongo_url, settings.mongo_db, listener) as heard:
        for after in range(1, CUTS):
            source = f"s{after}"
            lost = frame_of(event(0, source=source), event(1, source=source))
            settled = frame_of(event(2, source=source), event(3, source=source))
            await write_half(db, settled)
            await writer.write([settled])
            await write_header(db, lost)
            await writer._insert([lost.documents[0]])
            await db[schema.OUTCOMES].update_one(
                {"_id": settled.frame_id},
                {"$set": {"stored": 1, "dead": [1], "judge_at": from_ms(0)}},
            )

            async def cut(after: int = after) -> None:
                with cut_off(listener, after):
                    await sweep_all(heard)
                    await fold(heard, now_ms())

            sweeping = asyncio.create_task(cut())
            await asyncio.wait([sweeping])
            cuts += sweeping.cancelled()
            await sweep_all(db)
            assert account(await outcome_of(db, settled)) == (2, 0, [], [])
            assert account(await outcome_of(db, lost)) == (1, 0, [], [1])
    await fold_all(db)
    await check_sums(db)
    assert cuts > 10


async def test_frame_that_nobody_knows_is_left_alone(db: Database) -> None:
    """Without a header there is nothing to judge."""
    assert await judge_again(db, [ObjectId()]) == set()
    assert await documents(db, schema.OUTCOMES) == []
    frame = await write_refused(db)
    await db[schema.FRAMES].delete_many({})
    assert await judge_again(db, [frame.frame_id]) == set()
    assert (await the_one(db, schema.DEAD_LETTERS))["frame_id"] == frame.frame_id
