"""Letters of frames that were judged without their events: never the last copy is removed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from bson import Binary, ObjectId
from bson.raw_bson import RawBSONDocument

from evp.dlq import actions
from evp.dlq.actions import Account
from evp.documents import Admission
from evp.errors import CorruptFrame, InvalidEntry, StoreUnavailable
from evp.frame import Frame
from evp.limits import DEAD_LETTER_PART_BYTES
from evp.plain import payload_of
from evp.storage import replay, schema
from evp.storage.client import Database
from evp.storage.dead_letters import keep, letter_of
from evp.storage.dlq import (
    DEAD,
    DELIVERED,
    PROVISIONAL,
    PURGED,
    STATES,
    Filters,
    Letter,
    purge,
    walk,
)
from evp.storage.failures import Failure
from evp.storage.presence import standing
from evp.storage.purge import give_up
from evp.storage.replay import Delivered, Replayer
from evp.storage.sweep import judge_again
from evp.storage.writer import Writer
from tests.integration.test_dead_letters import ORIGIN, conflict, listed, purged, replayed
from tests.integration.test_sweep import (
    account,
    mend,
    outcome_of,
    write_header,
    write_refused,
)
from tests.support.frames import document, frame_of_documents
from tests.support.make import ADMISSION, SRV, event, frame_of, open_frame
from tests.support.stores import MAY_LEAVE_SOCKETS, WRITE_MS, documents, the_one
from tests.support.sums import sweep_all

pytestmark = MAY_LEAVE_SOCKETS

REFUSED = Failure("document_validation", "a rule of that time", "code 121")


@pytest.fixture
def writer(db: Database) -> Writer:
    """A writer into the test's database."""
    return Writer(db, WRITE_MS, ORIGIN)


async def end(*_args: Any) -> None:
    """End in the place of what would come next, as a command that is killed there."""
    raise StoreUnavailable("ends here")


async def hang_and_bury(db: Database, frame: Frame, index: int) -> None:
    """Write a dead letter as a worker that hung for long, and dies right after it."""
    await keep(db, [letter_of(ORIGIN, frame, index, REFUSED)])


async def the_letter(db: Database) -> Letter:
    """Return the only letter there is, whatever its state."""
    [letter] = (await listed(db, *STATES)).letters
    return letter


async def lost_frame(db: Database, *events: dict[str, Any]) -> Frame:
    """Return a frame of which nothing but the header was written, and that the log has lost."""
    frame = frame_of(*events)
    await write_header(db, frame)
    await sweep_all(db)
    assert (await outcome_of(db, frame))["provisional"] is True
    return frame


async def lost_after_its_letter(db: Database) -> Frame:
    """Return a frame of which the store lost an event; a letter that counts for nothing has it."""
    frame = await write_refused(db)
    await mend(db)
    await db[schema.EVENTS].insert_one(frame.documents[1])
    await judge_again(db, [frame.frame_id])
    await db[schema.EVENTS].delete_one({"_id": Binary(frame.ids[1], 4)})
    assert (await the_letter(db)).state == DELIVERED
    return frame


async def test_letter_of_what_is_missing_is_not_purged(db: Database) -> None:
    """A letter that came after its frame was judged holds the only copy of a missing event."""
    frame = await lost_frame(db, event(0))
    await hang_and_bury(db, frame, 0)
    assert (await the_letter(db)).state == PROVISIONAL
    assert (await purged(db)).selected == 0
    assert "event" in await the_one(db, schema.DEAD_LETTERS)


async def test_letter_of_what_is_missing_can_be_replayed(db: Database) -> None:
    """Replayed, it is stored and counted, and the letter goes."""
    frame = await lost_frame(db, event(0), event(1))
    await hang_and_bury(db, frame, 0)
    done = await replayed(db, Replayer(db, ADMISSION, WRITE_MS))
    assert (done.selected, done.done, done.refused) == (1, 1, {})
    assert account(await outcome_of(db, frame)) == (1, 0, [], [1])
    assert await documents(db, schema.DEAD_LETTERS) == []
    assert len(await documents(db, schema.EVENTS)) == 1


async def test_letter_of_what_is_missing_counts_once_it_is_judged(db: Database) -> None:
    """The next sweep takes the letter into account; then it is a dead letter like any other."""
    frame = await lost_frame(db, event(0))
    await hang_and_bury(db, frame, 0)
    await sweep_all(db)
    assert account(await outcome_of(db, frame)) == (0, 0, [0], [])
    assert (await the_letter(db)).state == DEAD
    assert (await purged(db)).done == 1
    assert "event" not in await the_one(db, schema.DEAD_LETTERS)


async def test_letter_of_a_duplicate_that_nobody_compared(db: Database, writer: Writer) -> None:
    """Another event has the id: judged by ids alone it was a duplicate, its letter says more."""
    await writer.write([frame_of(event(0))])
    frame = await lost_frame(db, event(0, data="another"))
    assert account(await outcome_of(db, frame)) == (0, 1, [], [])
    await hang_and_bury(db, frame, 0)
    done = await purged(db)
    assert (done.selected, done.done, done.refused) == (1, 0, {"not_stored": 1})
    assert "event" in await the_one(db, schema.DEAD_LETTERS)
    await judge_again(db, [frame.frame_id])
    assert account(await outcome_of(db, frame)) == (0, 0, [0], [])
    assert (await the_letter(db)).state == DEAD


async def test_purge_looks_whether_the_event_is_there(db: Database) -> None:
    """What a settled frame counts as stored, and the store has lost, is kept."""
    frame = await lost_after_its_letter(db)
    done = await purged(db)
    assert (done.done, done.refused) == (0, {"not_stored": 1})
    assert done.examples[0].id == f"{frame.frame_id}:1"
    assert "event" in await the_one(db, schema.DEAD_LETTERS)


async def test_letter_that_changes_while_it_is_purged(db: Database, writer: Writer) -> None:
    """Between question and purge the frame is judged anew: what was thought stored is kept."""
    await writer.write([frame_of(event(0))])
    frame = await lost_frame(db, event(0, data="another"))
    await hang_and_bury(db, frame, 0)
    done = Account()
    letters = walk(db, Filters(), actions.TO_PURGE)
    page = await anext(letters)
    assert [one.state for one in page] == [DELIVERED]
    await judge_again(db, [frame.frame_id])
    done.refuse(await give_up(db, page))
    assert done.refused == {"not_stored": 1}
    assert "event" in await the_one(db, schema.DEAD_LETTERS)


async def test_dead_event_that_was_stored_before_its_purge(db: Database) -> None:
    """It is counted as stored, and its letter goes whole, as if the sweep had come first."""
    frame = await write_refused(db)
    await mend(db)
    await db[schema.EVENTS].insert_one(frame.documents[1])
    done = await purged(db)
    assert (done.done, done.refused) == (1, {})
    assert account(await outcome_of(db, frame)) == (3, 0, [], [])
    assert await documents(db, schema.DEAD_LETTERS) == []


async def test_purge_of_a_letter_that_settles_anew(db: Database, writer: Writer) -> None:
    """A frame that is opened between question and purge keeps its letters as they are."""
    frame = await conflict(writer)
    [letter] = (await listed(db)).letters
    opened = {"$set": {"open": True}}
    await db[schema.OUTCOMES].update_one({"_id": frame.frame_id}, opened)
    [refused] = await give_up(db, [letter])
    assert refused.reason == "reopened"
    assert "event" in await the_one(db, schema.DEAD_LETTERS)


async def test_replay_brings_back_what_the_store_lost(db: Database) -> None:
    """What a settled frame counts as stored, and a letter still has, is stored again."""
    frame = await lost_after_its_letter(db)
    done = await replayed(db, Replayer(db, ADMISSION, WRITE_MS))
    assert (done.done, done.stored, done.refused) == (1, 1, {})
    assert await db[schema.EVENTS].find_one({"_id": Binary(frame.ids[1], 4)}) is not None
    assert await documents(db, schema.DEAD_LETTERS) == []


async def test_replay_keeps_what_the_store_refuses(db: Database) -> None:
    """A letter that counts for nothing stays if its event is neither there nor taken."""
    frame = await lost_after_its_letter(db)
    await db[schema.EVENTS].create_index("partitionkey", unique=True, sparse=True)
    for attempts in (2, 3):
        done = await replayed(db, Replayer(db, ADMISSION, WRITE_MS))
        assert (done.done, done.duplicate, done.refused) == (0, 0, {"unique_conflict": 1})
        assert (await the_letter(db)).attempts == attempts
    assert "event" in await the_one(db, schema.DEAD_LETTERS)
    await mend(db)
    assert (await replayed(db, Replayer(db, ADMISSION, WRITE_MS))).stored == 1
    assert account(await outcome_of(db, frame)) == (3, 0, [], [])


async def test_replay_keeps_what_another_event_stands_for(db: Database) -> None:
    """An id that another event has is told as that, and the letter stays."""
    frame = await lost_after_its_letter(db)
    other = frame_of(event(2, data="another")).documents[0]
    await db[schema.EVENTS].insert_one(other)
    assert bytes(other["_id"]) == frame.ids[1]
    done = await replayed(db, Replayer(db, ADMISSION, WRITE_MS))
    assert (done.done, done.duplicate, done.refused) == (0, 0, {"id_conflict": 1})
    assert "event" in await the_one(db, schema.DEAD_LETTERS)


async def test_replay_of_what_is_there(db: Database) -> None:
    """The very event is in the store, put there by somebody else: a duplicate, the letter goes."""
    frame = await lost_after_its_letter(db)
    await db[schema.EVENTS].insert_one(frame.documents[1])
    done = await replayed(db, Replayer(db, ADMISSION, WRITE_MS))
    assert (done.done, done.stored, done.duplicate, done.refused) == (1, 0, 1, {})
    assert await documents(db, schema.DEAD_LETTERS) == []


async def test_event_is_stored_whose_frame_lacks_another(db: Database) -> None:
    """It is told as that, at every replay; the letter stays as it is, and goes with the others."""
    frame = await write_refused(db)
    await mend(db)
    before = await the_one(db, schema.DEAD_LETTERS)
    await db[schema.EVENTS].delete_one({"_id": Binary(frame.ids[0], 4)})
    for stored in (1, 0):
        done = await replayed(db, Replayer(db, ADMISSION, WRITE_MS))
        assert (done.done, done.stored, done.refused) == (0, stored, {"incomplete": 1})
        assert await the_one(db, schema.DEAD_LETTERS) == before
    assert account(await outcome_of(db, frame)) == (2, 0, [1], [])
    await db[schema.EVENTS].insert_one(frame.documents[0])
    done = await replayed(db, Replayer(db, ADMISSION, WRITE_MS))
    assert (done.done, done.duplicate, done.refused) == (1, 1, {})
    assert account(await outcome_of(db, frame)) == (3, 0, [], [])


async def lost_its_parts(db: Database) -> Frame:
    """Return a frame whose stored event has a letter that somebody died removing, half way."""
    frame_id = ObjectId()
    frame = frame_of_documents(frame_id, document(0, frame_id, data="x" * DEAD_LETTER_PART_BYTES))
    await db[schema.EVENTS].create_index("source", unique=True)
    writer = Writer(db, WRITE_MS, ORIGIN)
    await writer.write([frame_of(event(1))])
    await writer.write([frame])
    await mend(db)
    await db[schema.EVENTS].insert_one(frame.documents[0])
    await judge_again(db, [frame.frame_id])
    first = {"_id": f"{frame.frame_id}:0/0"}
    assert (await db[schema.DEAD_LETTER_PARTS].delete_one(first)).deleted_count == 1
    letter = await the_letter(db)
    assert (letter.state, letter.parts) == (DELIVERED, 2)
    return frame


@pytest.mark.parametrize("how", ["replay", "purge"])
async def test_letter_that_was_half_removed(db: Database, how: str) -> None:
    """Its event is in the store byte for byte, as it was in the letter: the rest goes as well."""
    await lost_its_parts(db)
    replayer = Replayer(db, ADMISSION, WRITE_MS)
    done = await (replayed(db, replayer) if how == "replay" else purged(db))
    assert (done.done, done.duplicate, done.refused) == (1, 1 if how == "replay" else 0, {})
    assert await documents(db, schema.DEAD_LETTERS) == []
    assert await documents(db, schema.DEAD_LETTER_PARTS) == []
    assert len(await documents(db, schema.EVENTS)) == 2


@pytest.mark.parametrize("there", ["nothing", "another"])
async def test_letter_in_pieces_may_be_all_there_is(db: Database, there: str) -> None:
    """Its event is gone from the store, or is not that one: what is left of it stays."""
    frame = await lost_its_parts(db)
    await db[schema.EVENTS].delete_one({"_id": Binary(frame.ids[0], 4)})
    if there == "another":
        other = document(0, frame.frame_id, data="another")
        await db[schema.EVENTS].insert_one(RawBSONDocument(other))
    done = await replayed(db, Replayer(db, ADMISSION, WRITE_MS))
    assert (done.done, done.duplicate, done.refused) == (0, 0, {"unique_conflict": 1})
    assert "not all of it was kept" in done.examples[0].detail
    assert (await purged(db)).refused == {"not_stored": 1}
    assert len(await documents(db, schema.DEAD_LETTER_PARTS)) == 1


@pytest.mark.parametrize("by_whom", ["this", "another"])
async def test_letter_that_is_purged_once_its_event_is_stored(
    db: Database, monkeypatch: pytest.MonkeyPatch, by_whom: str
) -> None:
    """Its event is stored, and counted so: nothing is refused; the purged letter stays."""
    frame = await write_refused(db)
    await mend(db)
    letter = await the_letter(db)
    if by_whom == "another":
        await db[schema.EVENTS].insert_one(frame.documents[1])

    async def purge_and_judge(db: Database, frame_ids: list[ObjectId]) -> set[ObjectId]:
        await purge(db, [letter])
        return await judge_again(db, frame_ids)

    monkeypatch.setattr(replay, "judge_again", purge_and_judge)
    done = await Replayer(db, ADMISSION, WRITE_MS).deliver([letter])
    assert done == (Delivered(stored=1) if by_whom == "this" else Delivered(duplicate=1))
    assert account(await outcome_of(db, frame)) == (3, 0, [], [])
    assert (await the_letter(db)).state == PURGED


@pytest.mark.parametrize("is_whole", [True, False])
async def test_letter_that_is_written_anew_is_not_removed(
    db: Database, monkeypatch: pytest.MonkeyPatch, *, is_whole: bool
) -> None:
    """What another replay removed is not removed again: a worker may write it anew meanwhile."""
    await write_refused(db)
    letter = await the_letter(db)
    if not is_whole:
        await db[schema.DEAD_LETTERS].update_one({}, {"$unset": {"event": ""}})

    async def gone(*_args: Any) -> dict[str, str]:
        return {}

    monkeypatch.setattr(replay, "look_again", gone)
    done = await Replayer(db, ADMISSION, WRITE_MS).deliver([letter])
    assert (done.duplicate, done.refused) == (1, [])
    assert (await the_letter(db)).state == DEAD


async def test_entry_whose_events_the_store_lost(
    db: Database, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of an entry whose frame is settled are stored again, or the entry stays."""
    fields = open_frame(event(0), event(1, partitionkey="taken")).fields(SRV, 1)
    await writer.bury("s", [("1-0", payload_of(fields), CorruptFrame("an older evp"))])
    replayer = Replayer(db, ADMISSION, WRITE_MS)
    with monkeypatch.context() as patch:
        patch.setattr(replay, "remove", end)
        with pytest.raises(StoreUnavailable):
            await replayed(db, replayer)
    await db[schema.EVENTS].delete_many({})
    await db[schema.EVENTS].create_index("partitionkey", unique=True, sparse=True)
    await writer.write([frame_of(event(2, partitionkey="taken"))])
    done = await replayed(db, replayer)
    assert (done.done, done.stored, done.refused) == (0, 1, {"unique_conflict": 1})
    assert "payload" in await the_one(db, schema.DEAD_LETTERS)
    await mend(db)
    done = await replayed(db, replayer)
    assert (done.done, done.stored, done.duplicate, done.refused) == (1, 1, 1, {})
    assert len(await documents(db, schema.EVENTS)) == 3
    assert await documents(db, schema.DEAD_LETTERS) == []


async def test_entry_that_two_replays_restore(
    db: Database, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both miss the same events of a settled frame, one is quicker: neither is refused."""
    fields = open_frame(event(0), event(1)).fields(SRV, 1)
    await writer.bury("s", [("1-0", payload_of(fields), CorruptFrame("an older evp"))])
    letter = await the_letter(db)
    with monkeypatch.context() as patch:
        patch.setattr(replay, "remove", end)
        with pytest.raises(StoreUnavailable):
            await replayed(db, Replayer(db, ADMISSION, WRITE_MS))
    await db[schema.EVENTS].delete_many({})
    both, asked = asyncio.Barrier(2), 0

    async def standing_to_both(*args: Any) -> set[int]:
        nonlocal asked
        there = await standing(*args)
        asked += 1
        if asked <= both.parties:
            await both.wait()
        return there

    monkeypatch.setattr(replay, "standing", standing_to_both)
    one, other = await asyncio.gather(
        *(Replayer(db, ADMISSION, WRITE_MS).deliver([letter]) for _ in range(both.parties))
    )
    assert (one.refused, other.refused) == ([], [])
    assert (one.stored + other.stored, one.duplicate + other.duplicate) == (2, 2)
    assert len(await documents(db, schema.EVENTS)) == 2
    assert await documents(db, schema.DEAD_LETTERS) == []


async def test_entry_that_has_another_id_by_now(
    db: Database, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its event is looked for under the id it had, and is never stored under another one."""
    fields = {b"type": b"t", b"id": b"p", b"data": b"[1]"}
    await writer.bury("s", [("2-0", payload_of(fields), InvalidEntry("an older evp"))])
    later = Replayer(db, Admission("elsewhere", time_in_id=False), WRITE_MS)
    with monkeypatch.context() as patch:
        patch.setattr(replay, "remove", end)
        with pytest.raises(StoreUnavailable):
            await replayed(db, Replayer(db, ADMISSION, WRITE_MS))
        with pytest.raises(StoreUnavailable):
            await replayed(db, later)
    stored = await the_one(db, schema.EVENTS)
    await db[schema.EVENTS].delete_many({})
    done = await replayed(db, later)
    assert (done.done, done.refused) == (0, {"invalid_entry": 1})
    assert "another id" in done.examples[0].detail
    assert await documents(db, schema.EVENTS) == []
    done = await replayed(db, Replayer(db, ADMISSION, WRITE_MS))
    assert (done.done, done.refused) == (1, {})
    assert await the_one(db, schema.EVENTS) == stored
