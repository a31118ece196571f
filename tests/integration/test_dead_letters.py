"""Dead letters: only what will never fit becomes one, and each can be delivered after all."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from typing import Any

import bson
import msgspec
import pytest
from bson import Binary, ObjectId
from pymongo import AsyncMongoClient

from evp.clock import monotonic_s, now
from evp.dlq import actions
from evp.dlq.actions import Account, Listing
from evp.errors import CorruptFrame, InvalidEntry, NoSuchLetter, StoreUnavailable
from evp.frame import Frame, read_frame
from evp.limits import DEAD_LETTER_PART_BYTES, DEAD_LETTERS_PAGE_MAX, EVENT_BYTES_MAX
from evp.plain import payload_of
from evp.settings import Settings
from evp.storage import replay, schema
from evp.storage.client import Database, database
from evp.storage.dead_letters import Origin
from evp.storage.dlq import DEAD, DELIVERED, PURGED, REOPENED, SETTLING, STATES, Filters
from evp.storage.replay import Delivered, Replayer
from evp.storage.sweep import judge_again
from evp.storage.writer import Writer
from tests.support.frames import document, frame_of_documents, with_crc
from tests.support.make import ADMISSION, SRV, event, frame_of, open_frame
from tests.support.stores import (
    MAY_LEAVE_SOCKETS,
    WRITE_MS,
    documents,
    fail,
    the_one,
)

pytestmark = MAY_LEAVE_SOCKETS

ORIGIN = Origin("s", "g")

#: What a store says while it is away, busy, set wrongly, or for reasons that nobody knows.
TRANSIENT = {
    "not primary": (10107, 13435, 11602, 13436, 189, 10058),
    "network": (6, 7, 89, 9001, 202, 384),
    "ends": (11600, 91, 11601),
    "too late": (50, 262, 24),
    "write concern": (64, 100, 79),
    "busy": (46, 112, 117, 134, 365, 371, 402, 462),
    "moved": (13388, 150, 249, 61),
    "not allowed": (13, 18, 26, 73, 166),
    "broken": (1, 8, 96, 301, 14031, 777),
    # These speak of a document only where the store names it, not of a whole call.
    "doubtful": (2, 9, 14, 121, 52),
}


@pytest.fixture
def writer(db: Database) -> Writer:
    """A writer into the test's database."""
    return Writer(db, WRITE_MS, ORIGIN)


@pytest.fixture
def replayer(db: Database) -> Replayer:
    """A replayer of the test's database."""
    return Replayer(db, ADMISSION, WRITE_MS)


async def account_of(db: Database, frame: Frame) -> tuple[int, int, list[int]]:
    """Return stored, duplicate, dead of a settled frame."""
    found = await db[schema.OUTCOMES].find_one({"_id": frame.frame_id})
    assert found is not None
    assert not found.keys() & {"open", "provisional"}
    return found["stored"], found["duplicate"], found["dead"]


async def listed(db: Database, *states: str, **filters: Any) -> Listing:
    """Return all letters in these states, by default those that count."""
    return await actions.look(db, Filters(**filters), 1_000, states=states or (DEAD,))


async def replayed(db: Database, replayer: Replayer, **filters: Any) -> Account:
    """Replay letters to the end."""
    account = await actions.select(db, Filters(**filters), actions.TO_REPLAY, dry_run=False)
    await actions.replay(db, Filters(**filters), replayer, account, lambda _: None)
    assert account.finished
    return account


async def purged(db: Database, **filters: Any) -> Account:
    """Purge letters to the end."""
    account = await actions.select(db, Filters(**filters), actions.TO_PURGE, dry_run=False)
    await actions.purge(db, Filters(**filters), account, lambda _: None)
    return account


async def conflict(writer: Writer, number: int = 0, **members: Any) -> Frame:
    """Write a frame of which the second event is dead, as its id is another event's."""
    await writer.write([frame_of(event(number))])
    frame = frame_of(event(number + 1), event(number, data="another", **members))
    await writer.write([frame])
    return frame


async def refuse_all(db: Database, *, wanted: str = "x") -> None:
    """Let the store refuse every event without some field."""
    rule = {"$jsonSchema": {"required": [wanted]}}
    await db.command({"collMod": schema.EVENTS, "validator": rule})


async def take_all(db: Database) -> None:
    """Let the store take every event again."""
    await db.command({"collMod": schema.EVENTS, "validator": {}})


# What becomes one, and what never does


@pytest.mark.parametrize("kind", TRANSIENT)
async def test_codes_that_pass_make_no_dead_letter(faulty: Database, kind: str) -> None:
    """Whatever a store says while it can't be written: the frame waits, and is settled after."""
    writer = Writer(faulty, WRITE_MS)
    await writer.write([frame_of(event(0))])
    for number, code in enumerate(TRANSIENT[kind], 1):
        frame = frame_of(event(0, traceparent=f"00-{code}"), event(number))
        async with fail(faulty, "insert", {"skip": 1}, errorCode=code):
            with pytest.raises(StoreUnavailable):
                await writer.write([frame])
        assert await documents(faulty, schema.DEAD_LETTERS) == [], code
        await writer.write([frame])
        assert await account_of(faulty, frame) == (1, 1, []), code
    assert await documents(faulty, schema.DEAD_LETTERS) == []


@pytest.mark.parametrize(
    "how",
    [
        *({"writeConcernError": {"code": code, "errmsg": "no"}} for code in (64, 91, 100)),
        {"closeConnection": True},
    ],
    ids=str,
)
async def test_what_is_not_sure_makes_no_dead_letter(faulty: Database, how: dict[str, Any]) -> None:
    """Written without its write concern, or cut off: written again, and counted as it is."""
    writer = Writer(faulty, WRITE_MS)
    await writer.write([frame_of(event(0))])
    frame = frame_of(event(0, traceparent="00-retry"), event(1))
    async with fail(faulty, "insert", {"skip": 1}, **how):
        with pytest.raises(StoreUnavailable):
            await writer.write([frame])
    await writer.write([frame])
    assert await account_of(faulty, frame) == (1, 1, [])
    assert await documents(faulty, schema.DEAD_LETTERS) == []


@pytest.mark.parametrize(
    "options",
    [
        {"maxPoolSize": 1},
        {"directConnection": False, "replicaSet": "none", "serverSelectionTimeoutMS": 50},
    ],
    ids=["pool", "selection"],
)
async def test_client_that_gets_no_connection_makes_no_dead_letter(
    db: Database, settings: Settings, options: dict[str, Any]
) -> None:
    """Fifty writers for one connection, or no server to be found: nothing is given up."""
    frames = [frame_of(event(number)) for number in range(50)]
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(settings.mongo_url, **options)
    crowded = database(client, settings.mongo_db)
    try:
        results = await asyncio.gather(
            *(Writer(crowded, 20).write([frame]) for frame in frames), return_exceptions=True
        )
    finally:
        await client.close()
    assert any(isinstance(one, StoreUnavailable) for one in results)
    await Writer(db, WRITE_MS).write(frames)
    assert len(await documents(db, schema.EVENTS)) == 50
    assert await documents(db, schema.DEAD_LETTERS) == []


def test_frame_without_ids_is_never_inserted() -> None:
    """A document that lacks its `_id` would be another one with each delivery."""
    frame_id = ObjectId()
    bare = bson.encode({"frame_id": frame_id, "type": "t"})
    with pytest.raises(CorruptFrame, match="_id"):
        frame_of_documents(frame_id, document(0, frame_id), bare)


@pytest.mark.parametrize(
    "change",
    [
        {b"srv": b"x" * 1_000},
        {b"sum": msgspec.msgpack.encode([[[1, "t", 2]], {"s": 1}, 0, 0])},
        {b"sum": msgspec.msgpack.encode([[[1, "t", 1]], {"s": 2}, 0, 0])},
    ],
    ids=["srv", "types", "sources"],
)
def test_frame_that_does_not_add_up_is_corrupt(change: dict[bytes, bytes]) -> None:
    """What would make a header too large, or an account wrong, is no frame of evp's."""
    fields = open_frame(event(0)).fields(SRV, 1) | change
    with pytest.raises(CorruptFrame, match="numbers"):
        read_frame("1-0", with_crc(fields))


async def test_odd_frames_of_other_programs_are_settled(db: Database, writer: Writer) -> None:
    """Documents without type, source or time are counted, also when some of them are dead."""
    await writer.write([frame_of(event(0))])
    frame_id = ObjectId()
    bare = {"_id": Binary(frame_of(event(5)).ids[0], 4), "frame_id": frame_id}
    frame = frame_of_documents(
        frame_id,
        bson.encode(bare),
        document(1, frame_id, type=1, time="soon"),
        *[document(0, frame_id, data="another")],
    )
    await writer.write([frame])
    assert await account_of(db, frame) == (2, 0, [2])
    outcome = await db[schema.OUTCOMES].find_one({"_id": frame_id})
    assert outcome is not None
    assert sum(cell[2] for cell in outcome["cells"]) == 2


@pytest.mark.slow
async def test_killed_at_any_command_no_event_is_gone(db: Database, settings: Settings) -> None:
    """Whenever writers die: a settled frame has its letters; written again, all is accounted."""
    await Writer(db, WRITE_MS).write([frame_of(event(0))])
    arguments = (settings.mongo_url, settings.mongo_db, "30", "3", "7")
    dying = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.dying", *arguments), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await dying.communicate()
    assert int(out) >= 45
    letters = {one["_id"] for one in await documents(db, schema.DEAD_LETTERS)}
    settled = {one["_id"]: one for one in await documents(db, schema.OUTCOMES) if one["dead"]}
    headers = [one for one in await documents(db, schema.FRAMES) if one["n"] == 2]
    assert 0 < len(settled) < len(headers)
    assert {f"{frame_id}:1" for frame_id in settled} <= letters
    # Whoever reads them next: nothing of what the dead left behind is in the way.
    ids = [bytes(one["ids"]) for one in headers]
    for header, both in zip(headers, ids, strict=True):
        number = next(n for n in range(1, 31) if frame_of(event(n)).ids[0] == both[:16])
        frame_id = header["_id"]
        again = frame_of_documents(
            frame_id,
            document(number, frame_id, subject="user_1", data={"n": number}),
            document(0, frame_id, subject="user_1", data=f"another {number}"),
        )
        await Writer(db, WRITE_MS).write([again])
        assert await account_of(db, again) == (1, 0, [1])
    assert {one.id for one in (await listed(db)).letters} == {f"{one['_id']}:1" for one in headers}


# Looking


async def test_letter_tells_all(db: Database, writer: Writer) -> None:
    """A letter names what it is about, where it was read, why it is dead and what to do."""
    frame = await conflict(writer)
    letter_id = f"{frame.frame_id}:1"
    shown = await actions.show(db, letter_id)
    one = shown.letter
    assert (one.id, one.state, one.reason) == (letter_id, DEAD, "id_conflict")
    assert (one.type, one.source, one.stream, one.group) == ("page_view", "test", "s", "g")
    assert (one.frame_id, one.index, one.entry) == (str(frame.frame_id), 1, frame.entry_id)
    assert one.event_id == str(Binary(frame.ids[1], 4).as_uuid())
    assert one.payload_bytes == len(frame.documents[1].raw)
    assert one.first_at == one.last_at
    assert shown.whole
    assert shown.event["data"] == "another"
    assert shown.event["time"] == "2026-01-02T03:04:05.678Z"
    assert shown.mend
    with pytest.raises(NoSuchLetter, match="no dead letter"):
        await actions.show(db, f"{frame.frame_id}:0")


async def test_unknown_letters_are_counted_by_reason(db: Database, writer: Writer) -> None:
    """Letters are counted by reason and listed newest first, as many as are wanted."""
    frames = [await conflict(writer, number) for number in (0, 10, 20)]
    await writer.bury("s", [("7-0", b"3:foo3:bar", InvalidEntry("no type"))])
    listing = await actions.look(db, Filters(), 2)
    assert (listing.counted, listing.more) == (4, False)
    assert listing.by_reason == {"id_conflict": 3, "invalid_entry": 1}
    assert [one.frame_id for one in listing.letters] == [None, str(frames[-1].frame_id)]
    assert (await actions.look(db, Filters(), 0)).letters == []


async def test_filters(db: Database, writer: Writer) -> None:
    """Reason, type, source, frame, time and ids narrow what is seen, each alone and together."""
    old = await conflict(writer, 0, type="click")
    new = await conflict(writer, 10)
    await writer.bury("s", [("7-0", b"3:foo3:bar", InvalidEntry("no type"))])
    before = now() - timedelta(hours=2)
    old_id, new_id = f"{old.frame_id}:1", f"{new.frame_id}:1"
    await db[schema.DEAD_LETTERS].update_one({"_id": old_id}, {"$set": {"last_at": before}})

    async def ids(**filters: Any) -> set[str]:
        found = (await listed(db, **filters)).letters
        return {one.id if one.frame_id else "entry" for one in found}

    assert await ids() == {old_id, new_id, "entry"}
    assert await ids(reason="invalid_entry") == {"entry"}
    assert await ids(type="click") == {old_id}
    assert await ids(source="test") == {old_id, new_id}
    assert await ids(frame_id=str(new.frame_id)) == {new_id}
    hour_ago = now() - timedelta(hours=1)
    assert await ids(since=hour_ago) == {new_id, "entry"}
    assert await ids(until=hour_ago) == {old_id}
    assert await ids(since=before, until=hour_ago) == {old_id}
    assert await ids(since=hour_ago, until=hour_ago) == set()
    assert await ids(ids=(old_id, new_id, "0" * 32)) == {old_id, new_id}
    assert await ids(ids=(old_id, new_id), until=hour_ago) == {old_id}
    assert await ids(source="test", type="click", since=hour_ago) == set()


@pytest.mark.slow
async def test_many_letters_are_all_seen_once(db: Database) -> None:
    """However letters lie in time, also thousands within a moment or years apart: each once."""
    at = now()
    ages_ms = [*range(2 * DEAD_LETTERS_PAGE_MAX), *[5_000] * (DEAD_LETTERS_PAGE_MAX + 100)]
    ages_ms += [-3_600_000, 86_400_000, 40 * 365 * 86_400_000]
    rows = [
        {
            "_id": f"{number:032x}",
            **dict.fromkeys(("detail", "error", "stream", "group", "entry"), ""),
            "reason": "corrupt_frame",
            "attempts": 1,
            "first_at": at,
            "last_at": at - timedelta(milliseconds=age_ms),
            "payload_bytes": 0,
        }
        for number, age_ms in enumerate(ages_ms)
    ]
    await db[schema.DEAD_LETTERS].insert_many(rows)
    found = (await actions.look(db, Filters(), len(rows))).letters
    assert len({one.id for one in found}) == len(found) == len(rows)
    assert [one.last_at for one in found] == sorted((one.last_at for one in found), reverse=True)


async def test_only_what_the_settled_outcome_lists_counts(db: Database, writer: Writer) -> None:
    """A letter of a frame that is settled otherwise, or not yet, is seen only on demand."""
    frame = await conflict(writer)
    outcomes, one = db[schema.OUTCOMES], {"_id": frame.frame_id}
    assert (await listed(db)).counted == 1
    await outcomes.update_one(one, {"$set": {"open": True}})
    assert (await listed(db)).counted == 0
    assert [row.state for row in (await listed(db, *STATES)).letters] == [REOPENED]
    await outcomes.update_one(one, {"$unset": {"open": ""}, "$set": {"provisional": True}})
    assert (await listed(db)).counted == 1
    await outcomes.update_one(one, {"$set": {"dead": []}})
    assert (await listed(db)).counted == 0
    assert [row.state for row in (await listed(db, *STATES)).letters] == [DELIVERED]
    await outcomes.delete_one(one)
    assert [row.state for row in (await listed(db, *STATES)).letters] == [SETTLING]


# Replaying


async def test_replay_after_a_mend(db: Database, writer: Writer, replayer: Replayer) -> None:
    """Once the store takes them, dead events are stored, counted as such, and no letters more."""
    await refuse_all(db)
    frames = [frame_of(event(0), event(1, x=1), event(2)), frame_of(event(3), event(4))]
    await writer.write(frames)
    assert await account_of(db, frames[0]) == (1, 0, [0, 2])
    assert (await listed(db)).by_reason == {"document_validation": 4}
    await take_all(db)
    account = await replayed(db, replayer)
    assert (account.selected, account.done, account.refused) == (4, 4, {})
    assert await account_of(db, frames[0]) == (3, 0, [])
    assert await account_of(db, frames[1]) == (2, 0, [])
    outcome = await db[schema.OUTCOMES].find_one({"_id": frames[0].frame_id})
    assert outcome is not None
    assert sum(cell[2] for cell in outcome["cells"]) == 3
    assert await documents(db, schema.DEAD_LETTERS) == []
    stored = await documents(db, schema.EVENTS)
    sent = [frame.documents[index].raw for frame in frames for index in range(frame.count)]
    assert sorted(map(bson.encode, stored)) == sorted(map(bytes, sent))
    again = await replayed(db, replayer)
    assert (again.selected, again.done) == (0, 0)


async def test_what_is_refused_again_stays(
    db: Database, writer: Writer, replayer: Replayer
) -> None:
    """A letter that can't be delivered has one attempt more, and the reason of now."""
    await refuse_all(db)
    frame = frame_of(event(0, partitionkey="k"))
    await writer.write([frame])
    await take_all(db)
    await db[schema.EVENTS].create_index("partitionkey", unique=True, sparse=True)
    await writer.write([frame_of(event(1, partitionkey="k"))])
    conflicting = await conflict(writer, 10)
    account = await replayed(db, replayer)
    assert (account.done, account.refused) == (0, {"unique_conflict": 1, "id_conflict": 1})
    assert {one.id for one in account.examples} == {
        f"{frame.frame_id}:0",
        f"{conflicting.frame_id}:1",
    }
    letters = {one.id: one for one in (await listed(db)).letters}
    one = letters[f"{frame.frame_id}:0"]
    assert (one.reason, one.attempts, one.error) == ("unique_conflict", 2, "code 11000")
    assert one.first_at < one.last_at
    assert await account_of(db, frame) == (0, 0, [0])
    assert await account_of(db, conflicting) == (1, 0, [1])


async def test_event_that_came_another_way_is_a_duplicate(
    db: Database, writer: Writer, replayer: Replayer
) -> None:
    """Sent again after the mend, by another frame: the first frame's account says duplicate."""
    await refuse_all(db)
    frame = frame_of(event(0), event(1, x=1))
    await writer.write([frame])
    await take_all(db)
    await writer.write([frame_of(event(0))])
    account = await replayed(db, replayer)
    assert (account.done, account.refused) == (1, {})
    assert (account.stored, account.duplicate) == (0, 1)
    assert await account_of(db, frame) == (1, 1, [])


@pytest.mark.parametrize("kept", ["event", "payload", "parts"])
async def test_every_way_of_keeping_can_be_delivered(
    db: Database, writer: Writer, replayer: Replayer, kept: str
) -> None:
    """Whole as a document, as bytes or in parts: what is stored is what was sent."""
    await refuse_all(db)
    frame_id = ObjectId()
    data: Any = "x" * (DEAD_LETTER_PART_BYTES if kept == "parts" else 10)
    for _ in range(100 if kept == "payload" else 0):
        data = {"a": data}
    frame = frame_of_documents(frame_id, document(0, frame_id, data=data))
    await writer.write([frame])
    assert kept in await the_one(db, schema.DEAD_LETTERS)
    await take_all(db)
    assert (await replayed(db, replayer)).done == 1
    assert bson.encode(await the_one(db, schema.EVENTS)) == frame.documents[0].raw
    assert await documents(db, schema.DEAD_LETTERS) == []
    assert await documents(db, schema.DEAD_LETTER_PARTS) == []


async def test_entry_is_read_by_the_rules_of_now(
    db: Database, writer: Writer, replayer: Replayer
) -> None:
    """An entry that an older evp could not read is written as the frame it is; others stay."""
    fields = open_frame(event(0), event(1)).fields(SRV, 1)
    plain = {b"type": b"t", b"id": b"p", b"data": b"[1]"}
    entries = [
        ("1-0", payload_of(fields), CorruptFrame("an older evp")),
        ("2-0", payload_of(plain), InvalidEntry("an older evp")),
        ("3-0", payload_of(fields | {b"crc": b"1"}), CorruptFrame("a bit")),
        ("4-0", payload_of(plain | {b"data": b"{"}), InvalidEntry("a brace")),
        ("5-0", b"9999:cut", CorruptFrame("cut")),
    ]
    await writer.bury("s", entries)
    account = await replayed(db, replayer)
    assert (account.done, account.refused) == (2, {"corrupt_frame": 2, "invalid_entry": 1})
    assert sorted(one["id"] for one in await documents(db, schema.EVENTS)) == ["e0", "e1", "p"]
    headers = {one["entry"]: one for one in await documents(db, schema.FRAMES)}
    assert headers["1-0"]["_id"].binary == fields[b"id"]
    assert headers["2-0"]["external"]
    letters = (await listed(db)).letters
    assert {(one.entry, one.attempts) for one in letters} == {("3-0", 2), ("4-0", 2), ("5-0", 2)}


async def test_entry_that_dies_again_is_told(
    db: Database, writer: Writer, replayer: Replayer
) -> None:
    """An entry is no event: what became of each of its events is counted, and the dead are told."""
    await writer.write([frame_of(event(0))])
    fields = open_frame(event(0), event(1, x=1), event(2), event(3)).fields(SRV, 1)
    await writer.bury("s", [("1-0", payload_of(fields), CorruptFrame("an older evp"))])
    await refuse_all(db)
    account = await replayed(db, replayer)
    assert (account.selected, account.done) == (1, 0)
    assert account.refused == {"document_validation": 1}
    assert (account.stored, account.duplicate, account.dead) == (1, 1, 2)
    [told] = account.examples
    letters = sorted((await listed(db)).letters, key=lambda one: one.index or 0)
    assert [one.index for one in letters] == [2, 3]
    assert (told.id, told.reason) == (letters[0].id, "document_validation")
    assert told.detail.startswith("2 of the 4 events of entry 1-0 are dead again: ")
    await take_all(db)
    account = await replayed(db, replayer)
    assert (account.done, account.refused) == (2, {})
    assert (account.stored, account.duplicate, account.dead) == (2, 0, 0)


async def test_entry_that_was_stored_already(
    db: Database, writer: Writer, replayer: Replayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events that another request brought are duplicates; done again, all are stored already."""

    async def end(*_args: Any) -> None:
        raise StoreUnavailable("ends here")

    await writer.write([frame_of(event(0))])
    fields = open_frame(event(0), event(1)).fields(SRV, 1)
    await writer.bury("s", [("1-0", payload_of(fields), CorruptFrame("an older evp"))])
    with monkeypatch.context() as patch:
        patch.setattr(replay, "remove", end)
        with pytest.raises(StoreUnavailable):
            await replayed(db, replayer)
    account = await replayed(db, replayer)
    assert (account.done, account.refused) == (1, {})
    assert (account.stored, account.duplicate, account.dead) == (0, 2, 0)
    assert await documents(db, schema.DEAD_LETTERS) == []


async def test_replay_of_named_letters(db: Database, writer: Writer, replayer: Replayer) -> None:
    """Only those that are named are delivered; unknown, purged and unsettled ones are told."""
    await refuse_all(db)
    frames = [frame_of(event(number)) for number in range(4)]
    await writer.write(frames)
    await take_all(db)
    ids = [f"{frame.frame_id}:0" for frame in frames]
    await purged(db, ids=(ids[1],))
    await db[schema.OUTCOMES].delete_one({"_id": frames[2].frame_id})
    account = await replayed(db, replayer, ids=(ids[0], ids[1], ids[2], "0" * 32))
    assert (account.selected, account.done) == (1, 1)
    assert account.missing == [ids[1], ids[2], "0" * 32]
    assert {one.id for one in (await listed(db)).letters} == {ids[3]}


async def test_replay_that_was_cut_off_is_completed(
    db: Database, writer: Writer, replayer: Replayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended after any of its steps, the next run completes it; nothing is counted twice."""

    class Ended(Exception):
        """The replay ends here."""

    async def end(*_args: Any) -> None:
        raise Ended

    for number, step in enumerate(("judge_again", "look_again", "remove")):
        await refuse_all(db)
        frame = frame_of(event(number), event(number + 100, x=1))
        await writer.write([frame])
        await take_all(db)
        with monkeypatch.context() as patch:
            patch.setattr(replay, step, end)
            with pytest.raises(Ended):
                await replayed(db, replayer)
        assert await db[schema.EVENTS].count_documents({"_id": Binary(frame.ids[0], 4)}) == 1
        account = await replayed(db, replayer)
        assert (account.done, account.refused) == (1, {})
        assert await account_of(db, frame) == (2, 0, [])
        assert await documents(db, schema.DEAD_LETTERS) == []


async def test_replay_of_a_frame_that_was_left_open(
    db: Database, writer: Writer, replayer: Replayer
) -> None:
    """Whoever judged a frame again and died is no obstacle: the next replay ends it."""
    await refuse_all(db)
    frame = frame_of(event(0), event(1, x=1))
    await writer.write([frame])
    await take_all(db)
    await db[schema.OUTCOMES].update_one({"_id": frame.frame_id}, {"$set": {"open": True}})
    account = await replayed(db, replayer)
    assert (account.selected, account.done) == (1, 1)
    outcome = await the_one(db, schema.OUTCOMES)
    assert (outcome["stored"], outcome["dead"], outcome.get("open")) == (2, [], None)
    assert await documents(db, schema.DEAD_LETTERS) == []


async def test_replays_and_workers_at_once(db: Database, writer: Writer) -> None:
    """Two replays beside workers that write the same events: each stored once, all accounted."""
    await refuse_all(db)
    frames = [frame_of(*(event(10 * n + k) for k in range(10))) for n in range(8)]
    again = [frame_of(*(event(10 * n + k) for k in range(5))) for n in range(8)]
    await writer.write(frames)
    await take_all(db)
    one, other, _ = await asyncio.gather(
        replayed(db, Replayer(db, ADMISSION, WRITE_MS)),
        replayed(db, Replayer(db, ADMISSION, WRITE_MS)),
        asyncio.gather(*(Writer(db, WRITE_MS).write([frame]) for frame in again)),
    )
    assert one.refused == other.refused == {}
    await replayed(db, Replayer(db, ADMISSION, WRITE_MS))
    assert len(await documents(db, schema.EVENTS)) == 80
    assert await documents(db, schema.DEAD_LETTERS) == []
    outcomes = await documents(db, schema.OUTCOMES)
    assert sum(one["stored"] for one in outcomes) == 80
    assert sum(one["duplicate"] for one in outcomes) == 40
    assert sum(len(one["dead"]) for one in outcomes) == 0


async def test_rate_is_kept(db: Database, writer: Writer, replayer: Replayer) -> None:
    """No more letters a second are delivered than was asked for."""
    await refuse_all(db)
    await writer.write([frame_of(*(event(number) for number in range(6)))])
    await take_all(db)
    account = await actions.select(db, Filters(), actions.TO_REPLAY, dry_run=False)
    started_at_s = monotonic_s()
    await actions.replay(db, Filters(), replayer, account, lambda _: None, letters_per_s=20.0)
    assert account.done == 6
    assert monotonic_s() - started_at_s >= 6 / 20.0


async def test_letter_that_another_replay_delivered(
    db: Database, writer: Writer, replayer: Replayer
) -> None:
    """A letter that is gone when its turn comes was delivered; one that was cut can't be."""
    await refuse_all(db)
    await writer.write([frame_of(event(0))])
    [letter] = (await listed(db)).letters
    await take_all(db)
    assert await replayer.deliver([letter]) == Delivered(stored=1)
    assert await replayer.deliver([letter]) == Delivered(duplicate=1)
    await writer.bury("s", [("1-0", b"y" * (EVENT_BYTES_MAX + 1), InvalidEntry("too large"))])
    [refused] = (await replayer.deliver((await listed(db)).letters)).refused
    assert (refused.reason, "not all of it was kept" in refused.detail) == ("invalid_entry", True)


async def test_letter_that_is_purged_during_its_replay(
    db: Database, writer: Writer, replayer: Replayer
) -> None:
    """What was given up meanwhile stays given up: its letter is neither removed nor filled."""
    frame = await conflict(writer)
    [letter] = (await listed(db)).letters
    await purged(db)
    [refused] = (await replayer.deliver([letter])).refused
    assert refused.id == f"{frame.frame_id}:1"
    assert "purged_at" in await the_one(db, schema.DEAD_LETTERS)
    assert await account_of(db, frame) == (1, 0, [1])


# Purging


async def test_purged_letter_stays_without_what_it_held(db: Database, writer: Writer) -> None:
    """What a letter held is gone for good; that its event was dead, and why, is not."""
    frame = await conflict(writer)
    frame_id = ObjectId()
    large = document(50, frame_id, data="x" * DEAD_LETTER_PART_BYTES)
    await writer.write([frame_of_documents(frame_id, document(50, frame_id))])
    await writer.write([frame_of_documents(ObjectId(), large)])
    await writer.bury("s", [("7-0", b"3:foo3:bar", InvalidEntry("no type"))])
    account = await purged(db)
    assert (account.selected, account.done, account.finished) == (3, 3, True)
    assert (await listed(db)).counted == 0
    letters = (await listed(db, PURGED)).letters
    assert len(letters) == 3
    assert all(one.purged_at and not one.detail for one in letters)
    raw = await documents(db, schema.DEAD_LETTERS)
    assert not any(one.keys() & {"event", "payload", "parts", "payload_sha256"} for one in raw)
    assert await documents(db, schema.DEAD_LETTER_PARTS) == []
    assert await account_of(db, frame) == (1, 0, [1])
    shown = await actions.show(db, f"{frame.frame_id}:1")
    assert (shown.event, shown.payload, shown.letter.reason) == (None, None, "id_conflict")
    assert (await purged(db)).selected == 0


async def test_purged_letter_does_not_come_back(db: Database, writer: Writer) -> None:
    """A frame that is written once more does not bring back what was given up."""
    frame = await conflict(writer)
    await purged(db)
    await db[schema.OUTCOMES].delete_one({"_id": frame.frame_id})
    await writer.write([frame])
    [letter] = (await listed(db, *STATES)).letters
    assert (letter.state, letter.attempts) == (PURGED, 2)
    assert "event" not in await the_one(db, schema.DEAD_LETTERS)


async def test_purge_leaves_alone_what_is_not_settled(db: Database, writer: Writer) -> None:
    """The letter of a frame under way is all there is of its event: it is not purged."""
    frame = await conflict(writer)
    await db[schema.OUTCOMES].delete_one({"_id": frame.frame_id})
    assert (await purged(db)).selected == 0
    assert "event" in await the_one(db, schema.DEAD_LETTERS)


async def test_purge_clears_letters_whose_events_are_stored(db: Database, writer: Writer) -> None:
    """A letter that says nothing any more goes whole."""
    await refuse_all(db)
    frame = frame_of(event(0))
    await writer.write([frame])
    await take_all(db)
    await db[schema.EVENTS].insert_one(frame.documents[0])
    await judge_again(db, [frame.frame_id])
    assert [one.state for one in (await listed(db, *STATES)).letters] == [DELIVERED]
    assert (await purged(db)).done == 1
    assert await documents(db, schema.DEAD_LETTERS) == []
