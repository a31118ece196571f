"""Letters of frames that were judged without their events: never the last copy is removed."""

from __future__ import annotations

from typing import Any

import pytest
from bson import Binary

from evp import dlq
from evp.dlq import Account
from evp.frame import Frame
from evp.storage import schema
from evp.storage.client import Database
from evp.storage.dead_letters import keep, letter_of
from evp.storage.dlq import DEAD, DELIVERED, PROVISIONAL, STATES, Filters, Letter, walk
from evp.storage.failures import Failure
from evp.storage.purge import give_up
from evp.storage.replay import Replayer
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
from tests.support.make import ADMISSION, event, frame_of
from tests.support.stores import MAY_LEAVE_SOCKETS, WRITE_MS, documents, the_one
from tests.support.sums import sweep_all

pytestmark = MAY_LEAVE_SOCKETS

REFUSED = Failure("document_validation", "a rule of that time", "code 121")


@pytest.fixture
def writer(db: Database) -> Writer:
    """A writer into the test's database."""
    return Writer(db, WRITE_MS, ORIGIN)


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
    frame = await write_refused(db)
    await mend(db)
    await db[schema.EVENTS].insert_one(frame.documents[1])
    await judge_again(db, [frame.frame_id])
    await db[schema.EVENTS].delete_one({"_id": Binary(frame.ids[1], 4)})
    assert (await the_letter(db)).state == DELIVERED
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
    letters = walk(db, Filters(), dlq.TO_PURGE)
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
