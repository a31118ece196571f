"""Writing frames: what was sent is stored once, what can't be stored is kept with the reason."""

from __future__ import annotations

import asyncio
import secrets
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import hypothesis
import msgspec
import pytest
from bson import Binary, ObjectId
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from evp.batch.outcome import Outcome
from evp.errors import CorruptFrame, InvalidEntry, StoreUnavailable
from evp.frame import Frame
from evp.limits import DEAD_LETTER_PART_BYTES, EVENT_BYTES_MAX, MIB
from evp.settings import Settings
from evp.storage import schema
from evp.storage.client import Database
from evp.storage.failures import Failure
from evp.storage.writer import Writer
from tests.support.frames import document, frame_of_documents, frame_of_requests
from tests.support.make import SRV, event, frame_of
from tests.support.stores import MAY_LEAVE_SOCKETS, WRITE_MS, Listener, documents, store, the_one
from tests.unit.test_frame import values

pytestmark = MAY_LEAVE_SOCKETS

Account = tuple[int, int, list[int]]


@pytest.fixture
def writer(db: Database) -> Writer:
    """A writer into the test's database."""
    return Writer(db, WRITE_MS)


def account(outcome: Outcome | None) -> Account:
    """Return stored, duplicate, dead."""
    assert outcome is not None
    return outcome.stored, outcome.duplicate, outcome.dead


async def write(writer: Writer, *frames: Frame) -> list[Account]:
    """Write frames that were not settled before; return their accounts."""
    written = await writer.write(frames)
    assert [one.frame for one in written] == list(frames)
    return [account(one.outcome) for one in written]


async def kept(db: Database, letter: dict[str, Any]) -> bytes:
    """Return the payload of a dead letter that is kept whole."""
    parts = sorted(await documents(db, schema.DEAD_LETTER_PARTS), key=lambda one: str(one["_id"]))
    mine = [one["data"] for one in parts if str(one["_id"]).startswith(letter["_id"])]
    assert len(mine) == letter.get("parts", 0)
    payload = b"".join(mine) or bytes(letter["payload"])
    assert letter["payload_bytes"] == len(payload)
    assert letter["payload_sha256"] == sha256(payload).hexdigest()
    return payload


async def settled(db: Database, frame: Frame) -> Account:
    """Return what the store has as a frame's account."""
    found = await db[schema.OUTCOMES].find_one({"_id": frame.frame_id})
    assert found is not None
    return found["stored"], found["duplicate"], found["dead"]


async def test_headers_then_events_then_outcomes(db: Database, settings: Settings) -> None:
    """The store knows of a frame before it has its events, and that it is settled after."""
    listener = Listener()
    async with store(settings.mongo_url, settings.mongo_db, listener) as heard:
        listener.commands.clear()
        writer = Writer(heard, WRITE_MS)
        assert await write(writer, frame_of(event(0)), frame_of(event(1), event(2))) == [
            (1, 0, []),
            (2, 0, []),
        ]
        # One call each for both frames; no event is looked up where nothing is in doubt.
        assert listener.names[0] == "insert frames"
        assert sorted(listener.names[1:3]) == ["find meta", "insert events"]
        assert listener.names[3:] == ["insert outcomes"]


async def test_header_and_outcome_say_all_about_a_frame(db: Database, writer: Writer) -> None:
    """The header names every event of the frame, the outcome what became of them."""
    frame = frame_of(event(0), event(1, type="click"), entry_id="1767323049999-7", seq=9)
    await write(writer, frame)
    header = await the_one(db, schema.FRAMES)
    assert header.pop("written_at") is not None
    assert header == {
        "_id": frame.frame_id,
        "srv": SRV,
        "seq": 9,
        "n": 2,
        "ids": b"".join(frame.ids),
        "bucket": datetime(2026, 1, 2, 3, 4, 0, tzinfo=UTC),
        "entry": "1767323049999-7",
    }
    outcome = await the_one(db, schema.OUTCOMES)
    assert outcome.pop("settled_at") is not None
    minute = 1767323045678 // 60_000
    assert outcome == {
        "_id": frame.frame_id,
        "stored": 2,
        "duplicate": 0,
        "dead": [],
        "cells": [[minute, "page_view", 1], [minute, "click", 1]],
        "sources": [["test", 2]],
        "first_ms": 1767323045678,
        "last_ms": 1767323045678,
        "accepted_at": datetime(2026, 1, 2, 3, 4, 9, 999000, tzinfo=UTC),
    }


async def test_document_is_what_was_sent(db: Database, writer: Writer) -> None:
    """Every attribute stands in the store as it was sent, beside evp's own fields."""
    sent = event(
        1,
        dataschema="https://e/s",
        datacontenttype="application/json",
        traceparent="00-x",
        partitionkey="p",
        data={"a.b": [1, 2.5, None, {"$c": "d\0e"}], "": True, "big": 2**63 - 1},
    )
    frame = frame_of(sent)
    await write(writer, frame)
    stored = await the_one(db, schema.EVENTS)
    assert stored.pop("_id") == Binary(frame.ids[0], 4)
    assert stored.pop("frame_id") == frame.frame_id
    assert stored.pop("received_at") is not None
    assert stored.pop("time") == datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
    del sent["time"]
    assert stored == sent


@hypothesis.settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.lists(values, min_size=1, max_size=3))
async def test_any_data_comes_back_from_the_store(
    db: Database, writer: Writer, data: list[Any]
) -> None:
    """JSON → frame → store loses nothing, for any data, also when it is written again."""
    source = secrets.token_hex(8)
    sent = [event(number, source=source) | {"data": value} for number, value in enumerate(data)]
    assert await write(writer, frame_of(*sent)) == [(len(data), 0, [])]
    assert await write(writer, frame_of(*sent)) == [(0, len(data), [])]
    found = await db[schema.EVENTS].find({"source": source}).to_list()
    stored = {one["id"]: one["data"] for one in found}
    out = [stored[f"e{number}"] for number in range(len(data))]
    assert msgspec.json.encode(out, enc_hook=int) == msgspec.json.encode(data)


async def test_settled_frame_is_recognised(db: Database, writer: Writer) -> None:
    """A frame that comes again after it was settled is not written again."""
    old, new = frame_of(event(0)), frame_of(event(1))
    await write(writer, old)
    before = await documents(db, schema.OUTCOMES)
    again = await writer.write([old, new])
    assert [one.frame for one in again] == [old, new]
    assert again[0].outcome is None
    assert account(again[1].outcome) == (1, 0, [])
    assert [one for one in await documents(db, schema.OUTCOMES) if one in before] == before
    assert [one.outcome for one in await writer.write([old, new])] == [None, None]


async def test_same_frame_twice_in_one_batch(db: Database, writer: Writer) -> None:
    """An entry that the log holds twice is stored once and counted once."""
    frame = frame_of(event(0), event(1))
    assert await write(writer, frame, frame) == [(2, 0, []), (2, 0, [])]
    assert await settled(db, frame) == (2, 0, [])
    assert len(await documents(db, schema.EVENTS)) == 2
    assert len(await documents(db, schema.OUTCOMES)) == 1


async def test_same_event_twice_in_one_frame(db: Database, writer: Writer) -> None:
    """Two requests of one frame hold the same event: one is stored, one is a duplicate."""
    frame = frame_of_requests([event(0), event(1)], [event(1), event(2)])
    assert await write(writer, frame) == [(3, 1, [])]
    outcome = await the_one(db, schema.OUTCOMES)
    assert sum(cell[2] for cell in outcome["cells"]) == 3
    assert len(await documents(db, schema.EVENTS)) == 3


async def test_same_event_in_two_frames(db: Database, writer: Writer) -> None:
    """The second frame that brings an event counts it as a duplicate, in one batch or in two."""
    first, second, third = (frame_of(event(0), event(number)) for number in (1, 2, 3))
    assert await write(writer, first, second) == [(2, 0, []), (1, 1, [])]
    assert await write(writer, third) == [(1, 1, [])]
    [kept] = await db[schema.EVENTS].find({"id": "e0"}).to_list()
    assert kept["frame_id"] == first.frame_id
    assert len(await documents(db, schema.EVENTS)) == 4


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"traceparent": "00-a"}, {"traceparent": "00-b"}),
        ({"tracestate": "a=1"}, {}),
        ({"partitionkey": "p"}, {"partitionkey": "q"}),
        ({"datacontenttype": "application/json"}, {}),
        ({"data": {"a": 1, "b": {"c": [], "d": 2}}}, {"data": {"b": {"d": 2, "c": []}, "a": 1}}),
        ({"data": {"n": 1}}, {"data": {"n": 1.0}}),
        ({"data": 2**53}, {"data": float(2**53)}),
        ({"time": "2026-01-02T03:04:05.678Z"}, {"time": "2026-01-02T05:04:05.6789+02:00"}),
    ],
)
async def test_what_makes_no_other_event(
    db: Database, writer: Writer, one: dict[str, Any], other: dict[str, Any]
) -> None:
    """Attributes that change on a retry, the order of keys and notation make no difference."""
    await write(writer, frame_of(event(0, **one)))
    assert await write(writer, frame_of(event(0, **other))) == [(0, 1, [])]
    assert await documents(db, schema.DEAD_LETTERS) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"data": {"a": 1}}, {"data": {"a": 2}}),
        ({"data": {"n": 1}}, {"data": {"n": True}}),
        ({"data": [0]}, {"data": [False]}),
        ({"data": {"n": 1}}, {"data": {"n": "1"}}),
        ({"data": [1, 2]}, {"data": [2, 1]}),
        ({"data": [1]}, {"data": [1, 1]}),
        ({"data": {}}, {"data": []}),
        ({"data": 2**53}, {"data": 2**53 + 1}),
        ({"type": "a"}, {"type": "b"}),
        ({"subject": "a"}, {"subject": None}),
        ({"dataschema": "https://e/1"}, {"dataschema": "https://e/2"}),
    ],
)
async def test_another_event_with_the_same_id_is_dead(
    db: Database, writer: Writer, one: dict[str, Any], other: dict[str, Any]
) -> None:
    """Another content under a taken id is never dropped as a duplicate; the first one stays."""
    await write(writer, frame_of(event(0, **one)))
    [before] = await documents(db, schema.EVENTS)
    frame = frame_of(event(1), event(0, **other))
    assert await write(writer, frame) == [(1, 0, [1])]
    assert await db[schema.EVENTS].find_one({"_id": before["_id"]}) == before
    letter = await the_one(db, schema.DEAD_LETTERS)
    assert (letter["reason"], letter["attempts"]) == ("id_conflict", 1)
    assert {name: letter["event"].get(name) for name in other} == other


async def test_dead_letter_names_its_event(db: Database, writer: Writer) -> None:
    """A dead letter holds the event, where it came from, and why it is dead."""
    await write(writer, frame_of(event(0)))
    frame = frame_of(event(1), event(0, data="another"), entry_id="1767323050000-3")
    await write(writer, frame)
    letter = await the_one(db, schema.DEAD_LETTERS)
    assert letter["_id"] == f"{frame.frame_id}:1"
    assert (letter["frame_id"], letter["index"]) == (frame.frame_id, 1)
    assert letter["event_id"] == Binary(frame.ids[1], 4)
    assert letter["entry"] == "1767323050000-3"
    assert letter["event"]["data"] == "another"
    assert letter["detail"]
    assert letter["first_at"] == letter["last_at"]


async def test_conflict_within_one_frame(db: Database, writer: Writer) -> None:
    """Two requests of one frame use an id for two events: the first is stored, the second dead."""
    frame = frame_of_requests([event(0)], [event(0, data="another"), event(1)])
    assert await write(writer, frame) == [(2, 0, [1])]
    assert (await the_one(db, schema.DEAD_LETTERS))["event"]["data"] == "another"


async def test_unique_index_of_the_operator(db: Database, writer: Writer) -> None:
    """A duplicate key of another index than `_id` is no duplicate event."""
    await db[schema.EVENTS].create_index("subject", unique=True)
    await write(writer, frame_of(event(0, subject="a")))
    frame = frame_of(event(1, subject="b"), event(2, subject="a"), event(3, subject="c"))
    assert await write(writer, frame) == [(2, 0, [1])]
    letter = await the_one(db, schema.DEAD_LETTERS)
    assert letter["reason"] == "unique_conflict"
    assert "subject" in letter["detail"]


async def test_header_that_is_refused_lets_no_event_in(db: Database, writer: Writer) -> None:
    """Without its header a frame is not written: nobody would know about it."""
    await db[schema.FRAMES].create_index("seq", unique=True)
    await write(writer, frame_of(event(0), seq=1))
    with pytest.raises(StoreUnavailable, match="header"):
        await writer.write([frame_of(event(1), seq=1)])
    assert len(await documents(db, schema.EVENTS)) == 1
    assert len(await documents(db, schema.OUTCOMES)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("mib", [17, 50])
async def test_document_too_large_is_found_among_many(
    db: Database, writer: Writer, mib: int
) -> None:
    """One document that the store, or even a message, can't hold is isolated; others are stored."""
    frame_id = ObjectId()
    large = document(3, frame_id, data="x" * (mib * MIB))
    frame = frame_of_documents(
        frame_id, *(large if number == 3 else document(number, frame_id) for number in range(5))
    )
    assert await write(writer, frame, frame_of(event(100))) == [(4, 0, [3]), (1, 0, [])]
    assert len(await documents(db, schema.EVENTS)) == 5
    letter = await the_one(db, schema.DEAD_LETTERS)
    assert letter["reason"] == "document_too_large"
    assert await kept(db, letter) == large
    assert "event" not in letter


async def test_large_event_is_kept_in_parts(db: Database, writer: Writer) -> None:
    """An event that fits the store, but not beside what a dead letter says, is kept whole."""
    frame_id = ObjectId()
    await write(writer, frame_of_documents(frame_id, document(0, frame_id)))
    frame_id = ObjectId()
    large = document(0, frame_id, data="x" * DEAD_LETTER_PART_BYTES)
    assert await write(writer, frame_of_documents(frame_id, large)) == [(0, 0, [0])]
    letter = await the_one(db, schema.DEAD_LETTERS)
    assert (letter["reason"], letter["parts"]) == ("id_conflict", 2)
    assert await kept(db, letter) == large


@pytest.mark.parametrize("taken", [False, True])
async def test_document_that_is_no_bson_is_dead(
    db: Database, writer: Writer, *, taken: bool
) -> None:
    """A damaged document under a right CRC blocks nothing; its bytes are kept."""
    if taken:
        frame_id = ObjectId()
        await write(writer, frame_of_documents(frame_id, document(1, frame_id)))
    frame_id = ObjectId()
    good = document(1, frame_id, data="hello")
    place = good.index(b"hello")
    bad_length = good[: place - 4] + b"\xff\xff\xff\x7f" + good[place:]
    frame = frame_of_documents(frame_id, document(0, frame_id), bad_length, document(2, frame_id))
    assert await write(writer, frame, frame_of(event(100))) == [(2, 0, [1]), (1, 0, [])]
    letter = await the_one(db, schema.DEAD_LETTERS)
    assert letter["payload"] == bad_length
    assert letter["frame_id"] == frame_id


async def test_document_of_another_program_is_a_duplicate(db: Database, writer: Writer) -> None:
    """An event that somebody put there without a frame counts as stored before."""
    frame = frame_of(event(0), event(1))
    put = {"_id": Binary(frame.ids[0], 4), "type": "page_view", "subject": "user_1"}
    await db[schema.EVENTS].insert_one(put | {"data": {"n": 0}})
    assert await write(writer, frame) == [(1, 1, [])]


async def test_document_that_vanished_is_written_again(db: Database) -> None:
    """A taken id whose document is gone when it is looked up is neither dead nor a duplicate."""
    frame = frame_of(event(0))
    await Writer(db, WRITE_MS).write([frame_of(event(0))])

    class Late(Writer):
        """Somebody removes the document just before it is looked up."""

        async def _look_up(self, frame: Frame, failures: dict[int, Failure]) -> dict[bytes, Any]:
            await db[schema.EVENTS].delete_many({})
            return await super()._look_up(frame, failures)

    with pytest.raises(StoreUnavailable):
        await Late(db, WRITE_MS).write([frame])
    assert await documents(db, schema.DEAD_LETTERS) == []
    assert await write(Writer(db, WRITE_MS), frame) == [(1, 0, [])]


async def test_all_kinds_in_one_batch(db: Database, writer: Writer) -> None:
    """Fresh, duplicate, conflicting and refused events are told apart within one batch."""
    await db[schema.EVENTS].create_index("partitionkey", unique=True, sparse=True)
    before = frame_of(event(0), event(1, partitionkey="taken"))
    await write(writer, before)
    frame_id = ObjectId()
    mixed = frame_of(
        event(0, traceparent="00-retry"),
        event(1, data="another", partitionkey="free"),
        event(2),
        event(3, partitionkey="taken"),
    )
    large = frame_of_documents(
        frame_id, document(4, frame_id), document(5, frame_id, data="x" * (17 * MIB))
    )
    written = await writer.write([before, mixed, large, frame_of(event(2), event(6))])
    assert written[0].outcome is None
    assert [account(one.outcome) for one in written[1:]] == [
        (1, 1, [1, 3]),
        (1, 0, [1]),
        (1, 1, []),
    ]
    letters = await documents(db, schema.DEAD_LETTERS)
    reasons = {(one["frame_id"], one["index"]): one["reason"] for one in letters}
    assert reasons.pop((frame_id, 1)) == "document_too_large"
    assert reasons == {
        (mixed.frame_id, 1): "id_conflict",
        (mixed.frame_id, 3): "unique_conflict",
    }
    assert sorted(one["id"] for one in await documents(db, schema.EVENTS)) == [
        f"e{number}" for number in (0, 1, 2, 4, 6)
    ]
    outcome = await db[schema.OUTCOMES].find_one({"_id": mixed.frame_id})
    assert outcome is not None
    assert sum(cell[2] for cell in outcome["cells"]) == outcome["stored"]


async def test_two_writers_on_the_same_frames_at_once(db: Database) -> None:
    """Whoever inserts which event: each is stored once and every writer gives one account."""
    await write(Writer(db, WRITE_MS), frame_of(event(0)))
    frames = [
        frame_of(*(event(number) for number in range(start, start + 20)))
        for start in range(0, 60, 15)
    ] + [frame_of(event(0, data="another"), event(500))]
    results = await asyncio.gather(*(Writer(db, WRITE_MS).write(frames) for _ in range(4)))
    for written in results:
        for frame, one in zip(frames, written, strict=True):
            if one.outcome is not None:
                assert account(one.outcome)[2] == (await settled(db, frame))[2]
    accounts = [await settled(db, frame) for frame in frames]
    assert [stored + duplicate + len(dead) for stored, duplicate, dead in accounts] == [20] * 4 + [
        2
    ]
    assert sum(stored for stored, _, _ in accounts) == 65
    assert accounts[-1] == (1, 0, [0])
    assert len(await documents(db, schema.EVENTS)) == 66
    assert len(await documents(db, schema.DEAD_LETTERS)) == 1


async def test_entries_that_are_no_frames_are_kept(db: Database, writer: Writer) -> None:
    """A buried entry keeps its bytes and the reason; burying it again is the same letter."""
    large = b"y" * (DEAD_LETTER_PART_BYTES + 1)
    entries = [("1-0", b"3:foo3:bar", CorruptFrame("no field")), ("2-0", large, CorruptFrame("?"))]
    await writer.bury("s", entries)
    await writer.bury("s", entries)
    await writer.bury("s", [])
    first, second = sorted(
        await documents(db, schema.DEAD_LETTERS), key=lambda one: str(one["entry"])
    )
    assert (first["payload"], first["detail"], first["attempts"]) == (b"3:foo3:bar", "no field", 2)
    assert first["reason"] == second["reason"] == "corrupt_frame"
    assert (second["parts"], second["attempts"]) == (2, 2)
    assert await kept(db, second) == large
    assert "frame_id" not in first


async def test_no_more_of_a_foreign_entry_is_kept_than_an_event_may_have(
    db: Database, writer: Writer
) -> None:
    """An entry that evp never accepted may be as large as the log allows, its letter not."""
    large = b"y" * (EVENT_BYTES_MAX + 1)
    await writer.bury("s", [("1-0", large, InvalidEntry("too large"))])
    letter = await the_one(db, schema.DEAD_LETTERS)
    assert (letter["reason"], letter["error"]) == ("invalid_entry", "InvalidEntry")
    assert letter["payload"] == large[:-1]
    assert (letter["payload_bytes"], letter["payload_sha256"]) == (
        len(large),
        sha256(large).hexdigest(),
    )
