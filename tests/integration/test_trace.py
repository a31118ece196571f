"""The story of one event: what log and store tell of it, and what when one of them is away."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from bson import Binary

from evp.clock import now
from evp.errors import UsageError
from evp.identity import canonical, event_id
from evp.limits import WORKER_SILENT_S
from evp.receipt import Receipt
from evp.settings import Settings
from evp.storage import ledger, schema
from evp.storage.client import Database
from evp.storage.dlq import letters_of
from evp.storage.replay import Replayer
from evp.storage.writer import Writer
from evp.stream.client import Link
from evp.stream.groups import ensure_group
from evp.stream.keys import Keys
from evp.trace import run
from evp.trace.run import trace
from evp.trace.story import Arrival, Fate, Story
from evp.trace.tell import Asked
from tests.integration.test_retention import OLD_MS, expire_all, taken_at
from tests.support.make import ADMISSION, SRV, event, open_frame
from tests.support.stores import MAY_LEAVE_SOCKETS, WRITE_MS, documents, the_one
from tests.support.streams import append, consumer
from tests.support.sums import erase, fold_all
from tests.support.workers import changed, drain

pytestmark = MAY_LEAVE_SOCKETS

TIME_MS = 1_767_323_045_678
GROUP = "evp-workers-group"
NOWHERE = {"log": "redis://127.0.0.1:1", "store": "mongodb://127.0.0.1:1/?connectTimeoutMS=100"}


def id_of(number: int) -> bytes:
    """Return the `_id` of a test's event."""
    return event_id("test", f"e{number}", TIME_MS)


async def told(settings: Settings, **asked: Any) -> Story:
    """Return the story of an event."""
    return await trace(settings, Asked(**asked), lambda _done, _total: None)


async def traced(settings: Settings, number: int, **asked: Any) -> Story:
    """Return the story of a test's event, asked for by its id."""
    return await told(settings, event_id=id_of(number), **asked)


def the_arrival(story: Story) -> Arrival:
    """Return the only frame that holds the event."""
    [arrival] = story.arrivals
    return arrival


async def test_an_event_that_is_stored(settings: Settings, link: Link, db: Database) -> None:
    """Its entry, frame and number, who stored it and when, and that its group has acked it."""
    [entry] = await append(settings, [event(0), event(1)])
    await drain(settings)
    story = await traced(settings, 1)
    assert (story.event_id, story.fate) == (canonical(id_of(1)), Fate.STORED)
    assert story.event is not None
    assert (story.event["id"], "data" in story.event) == ("e1", False)
    arrival = the_arrival(story)
    outcome = await the_one(db, schema.OUTCOMES)
    assert (arrival.entry, arrival.fate, arrival.frame_id) == (entry, "stored", str(outcome["_id"]))
    assert (arrival.index, arrival.events, arrival.seq) == (1, 2, 1)
    assert arrival.size_bytes
    assert (arrival.worker, arrival.settled_at) == ("worker-1", outcome["settled_at"])
    assert [(one.group, one.progress) for one in arrival.places] == [(GROUP, "acked")]
    assert story.searched is None
    by_receipt = await told(settings, receipt=Receipt(entry, 0), nth=1)
    assert by_receipt.arrivals == story.arrivals


async def test_an_event_that_waits(settings: Settings, link: Link, db: Database) -> None:
    """It is found in the log, first undelivered, then with the consumer that has it."""
    [_, second] = await append(settings, [event(0), event(1)], [event(2)])
    story = await traced(settings, 2)
    assert story.fate == Fate.PENDING
    assert story.searched is not None
    assert (story.searched.events, story.searched.whole) == (3, True)
    waiting = the_arrival(story)
    assert (waiting.entry, waiting.places, waiting.events_ahead) == (second, [], 2)
    reader = consumer(settings, "c-7")
    await reader.ensure_group()
    await reader.read(10)
    [place] = the_arrival(await told(settings, receipt=Receipt(second, 0))).places
    assert (place.progress, place.consumer, place.deliveries) == ("pending", "c-7", 1)
    assert place.idle_s is not None
    assert place.idle_s < 10
    await reader.close()


async def test_the_pace_is_that_of_workers_that_speak(
    settings: Settings, link: Link, db: Database
) -> None:
    """How fast it goes is told by workers that were heard of: a silent one stores nothing."""
    for name, rate in (("works", 10.5), ("hangs", 40.0)):
        await ledger.record_worker(db, "g", name, {"stored_per_s": rate}, within_s=5)
    silent = now() - timedelta(seconds=WORKER_SILENT_S + 1)
    await db[schema.WORKERS].update_one({"name": "hangs"}, {"$set": {"seen_at": silent}})
    assert (await traced(settings, 1)).stored_per_s == 10.5


async def test_an_event_that_is_being_written(settings: Settings, link: Link, db: Database) -> None:
    """Once a worker has begun with its frame it is being written."""
    [entry] = await append(settings, [event(0)])
    await drain(settings)
    await db[schema.OUTCOMES].delete_many({})
    await db[schema.EVENTS].delete_many({})
    story = await told(settings, receipt=Receipt(entry, 0))
    assert (story.fate, the_arrival(story).fate) == (Fate.WRITING, Fate.WRITING)
    assert the_arrival(story).begun_at is not None


async def test_an_event_that_was_sent_again(settings: Settings, link: Link, db: Database) -> None:
    """Each time it came in is told: stored once, a duplicate of that, and a conflict with it."""
    await append(settings, [event(0)], [event(0)], [event(0, data="another")])
    # One batch at a time: of two under way at once the later one may be stored first.
    await drain(settings, in_flight=1)
    assert len((await traced(settings, 0)).arrivals) == 2
    story = await traced(settings, 0, search=True)
    assert story.fate == Fate.STORED
    first, second, third = story.arrivals
    assert [one.fate for one in story.arrivals] == ["stored", "duplicate", "dead_letter"]
    assert second.same_as == first.frame_id
    [letter] = story.dead_letters
    assert (letter.id, letter.reason) == (f"{third.frame_id}:0", "id_conflict")
    assert "mend the sender" in letter.mend


async def test_a_dead_letter_that_was_replayed(
    settings: Settings, link: Link, db: Database
) -> None:
    """Once its letter is delivered it is stored; its frame keeps its worker, and is judged anew."""
    await append(settings, [event(0)], [event(0, data="another")])
    await drain(settings)
    await db[schema.EVENTS].delete_many({})
    story = await traced(settings, 0)
    assert story.fate == Fate.DEAD_LETTER
    replayer = Replayer(db, ADMISSION, WRITE_MS)
    await replayer.deliver(await letters_of(db, id_of(0), 1))
    story = await traced(settings, 0)
    assert (story.fate, story.dead_letters) == (Fate.STORED, [])
    arrival = the_arrival(story)
    assert (arrival.fate, arrival.worker) == (Fate.STORED, "worker-1")
    assert arrival.settled_at is not None
    assert arrival.judged_at is not None
    assert arrival.judged_at > arrival.settled_at


async def test_what_is_missing(settings: Settings, link: Link, db: Database) -> None:
    """An event that was settled and is not there is missing; by its id alone it is unknown."""
    [entry] = await append(settings, [event(0)])
    await drain(settings)
    await db[schema.EVENTS].delete_many({})
    story = await told(settings, receipt=Receipt(entry, 0))
    assert (story.fate, the_arrival(story).fate) == (Fate.MISSING, Fate.MISSING)
    # The log still has it, so it is found there as well.
    assert (await traced(settings, 0)).fate == Fate.MISSING
    for name in (schema.FRAMES, schema.OUTCOMES):
        await db[name].delete_many({})
    assert (await traced(settings, 0)).fate == Fate.MISSING
    await link.call("DEL", settings.stream)
    assert (await traced(settings, 0)).fate == Fate.UNKNOWN
    assert (await told(settings, receipt=Receipt(entry, 0))).fate == Fate.UNKNOWN


async def test_what_was_erased_or_has_expired(settings: Settings, link: Link, db: Database) -> None:
    """An erased event is told as such; of one whose time is over its frame is left."""
    writer = Writer(db, WRITE_MS)
    frame = taken_at(OLD_MS, 0, 1)
    await writer.write([frame])
    await erase(db, Binary(frame.ids[0], 4))
    story = await told(settings, event_id=frame.ids[0])
    assert (story.fate, the_arrival(story).fate) == (Fate.ERASED, Fate.STORED)
    assert the_arrival(story).in_log is False
    await fold_all(db)
    await expire_all(db)
    story = await told(settings, receipt=Receipt(frame.entry_id, 1))
    assert (story.fate, the_arrival(story).events) == (Fate.EXPIRED, 2)


async def test_an_entry_of_another_program(settings: Settings, link: Link, db: Database) -> None:
    """It is found in the log by what it holds, before and after it is stored."""
    add = ("XADD", settings.stream, "*")
    entry = await link.call(
        *add, "type", "t", "id", "x", "source", "other", "time", "2026-01-02T03:04:05.678Z"
    )
    asked = {"event_id": event_id("other", "x", TIME_MS)}
    waiting = the_arrival(await told(settings, **asked))
    assert (waiting.fate, waiting.external, waiting.srv) == (Fate.PENDING, True, None)
    await drain(settings)
    stored = the_arrival(await told(settings, **asked))
    assert (stored.entry, stored.fate, stored.external) == (entry.decode(), Fate.STORED, True)


async def test_an_entry_that_can_not_be_read(settings: Settings, link: Link, db: Database) -> None:
    """A damaged entry is told by its receipt: that it waits, then the letter that holds it."""
    frame = open_frame(event(0))
    fields = frame.fields(SRV, 1) | {b"crc": b"1"}
    items = [item for pair in fields.items() for item in pair]
    entry = (await link.call("XADD", settings.stream, "*", *items)).decode()
    story = await told(settings, receipt=Receipt(entry, 0))
    assert (story.fate, story.event_id) == (Fate.UNREADABLE, None)
    assert "its CRC is" in (the_arrival(story).error or "")
    await drain(settings)
    story = await told(settings, receipt=Receipt(entry, 0))
    assert (story.fate, the_arrival(story).fate) == (Fate.DEAD_LETTER, Fate.DEAD_LETTER)
    assert [one.reason for one in story.dead_letters] == ["corrupt_frame"]
    # Streams that are written to one database may have the same entry id.
    await db[schema.DEAD_LETTERS].update_one({}, {"$set": {"stream": "another"}})
    story = await told(settings, receipt=Receipt(entry, 0))
    assert (story.fate, story.dead_letters) == (Fate.UNREADABLE, [])


async def test_a_receipt_of_fewer_events(settings: Settings, link: Link, db: Database) -> None:
    """To ask for an event behind the last one of its frame makes no sense."""
    [entry] = await append(settings, [event(0), event(1)])
    with pytest.raises(UsageError, match="holds 2, and number 3 is asked for"):
        await told(settings, receipt=Receipt(entry, 1), nth=1)


async def test_other_groups_are_told(
    settings: Settings, keys: Keys, link: Link, db: Database
) -> None:
    """Each group stands somewhere with an entry, the writing one first."""
    await append(settings, [event(0)])
    await drain(settings)
    await ensure_group(link, keys, "analytics")
    places = the_arrival(await traced(settings, 0)).places
    assert [(one.group, one.progress) for one in places] == [
        (GROUP, "acked"),
        ("analytics", "undelivered"),
    ]


async def test_names_of_any_bytes(settings: Settings, keys: Keys, link: Link, db: Database) -> None:
    """Groups and consumers whose names are no UTF-8 are told as escapes."""
    await append(settings, [event(0)])
    await link.call("XGROUP", "CREATE", keys.stream, b"g\xff", "0")
    read = ("XREADGROUP", "GROUP", b"g\xff", b"\xc3", "STREAMS", keys.stream, ">")
    await link.call(*read)
    [place] = the_arrival(await traced(settings, 0)).places
    assert (place.group, place.progress, place.consumer) == ("g\\xff", "pending", "\\xc3")


async def test_without_the_store(
    settings: Settings, link: Link, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log alone tells where an event waits, and that it was acked; not what became of it."""
    monkeypatch.setattr(run, "TRACE_STORE_REACH_S_MAX", 0.2)
    [entry] = await append(settings, [event(0)])
    away = changed(settings, mongo_url=NOWHERE["store"])
    story = await told(away, receipt=Receipt(entry, 0))
    assert (story.fate, story.event_id) == (Fate.PENDING, canonical(id_of(0)))
    assert story.store_error is not None
    assert story.event is not None
    await drain(settings)
    story = await told(away, receipt=Receipt(entry, 0))
    assert (story.fate, the_arrival(story).fate) == (None, None)
    assert [one.progress for one in the_arrival(story).places] == ["acked"]


async def test_without_the_log(settings: Settings, link: Link, db: Database) -> None:
    """The store alone tells what is stored, and of what it lacks nothing is said."""
    [entry] = await append(settings, [event(0)])
    away = changed(settings, redis_url=NOWHERE["log"])
    story = await told(away, receipt=Receipt(entry, 0))
    assert (story.fate, story.log_error is None) == (None, False)
    await drain(settings)
    story = await traced(away, 0)
    assert (story.fate, the_arrival(story).in_log) == (Fate.STORED, None)
    assert await documents(db, schema.DEAD_LETTERS) == []
