"""Settling: whoever writes a frame, however often, cut off wherever: one account."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from bson import ObjectId

from evp.batch.outcome import Outcome, judge
from evp.errors import CorruptFrame, StoreUnavailable
from evp.frame import Frame
from evp.settings import Settings
from evp.storage import schema
from evp.storage import settle as settle_module
from evp.storage.client import Database
from evp.storage.settle import document_of, settle, settled_among
from evp.storage.writer import Writer
from tests.support.make import event, frame_of
from tests.support.servers import Server
from tests.support.stores import (
    MAY_LEAVE_SOCKETS,
    WRITE_MS,
    Listener,
    documents,
    fail,
    hanging,
    in_rounds,
    store,
    the_one,
)

pytestmark = MAY_LEAVE_SOCKETS

#: More commands than one write of the frames below needs.
CUTS = 14

#: What a write sends: headers, events, dead letters, outcomes; look-ups.
STEPS = [("insert", 0), ("insert", 1), ("insert", 2), ("insert", 3), ("find", 0)]

#: Rounds of the loop until a command is surely sent; before, a cancellation can get lost.
SENT_ROUNDS = 6


def outcome_with(frame_id: ObjectId, dead: int) -> Outcome:
    """Return an outcome of 20 events of which the first `dead` are dead."""
    frame = frame_of(*(event(number) for number in range(20)))
    made = judge(frame, range(dead, 20), {})
    return msgspec.structs.replace(made, frame_id=frame_id)


async def dead_in(db: Database) -> int:
    """Return how many dead the only outcome has; it must be final."""
    outcome = await the_one(db, schema.OUTCOMES)
    assert not outcome.keys() & {"open", "provisional"}
    assert outcome["stored"] == 20 - len(outcome["dead"])
    return len(outcome["dead"])


async def exactly_once(db: Database, *frames: Frame) -> None:
    """Check that all events of frames without conflicts are stored and counted once."""
    ids = {id_ for frame in frames for id_ in frame.ids}
    stored = await documents(db, schema.EVENTS)
    assert {bytes(one["_id"]) for one in stored} == ids
    outcomes = await documents(db, schema.OUTCOMES)
    assert {one["_id"] for one in outcomes} == {frame.frame_id for frame in frames}
    assert sum(one["stored"] for one in outcomes) == len(ids)
    assert await documents(db, schema.DEAD_LETTERS) == []


@pytest.mark.parametrize(("there", "mine", "left"), [(1, 3, 1), (3, 1, 1), (2, 2, 2), (3, 0, 0)])
async def test_outcome_with_fewer_dead_wins(db: Database, there: int, mine: int, left: int) -> None:
    """Of two accounts of one frame the one that knows more events as stored stays."""
    frame_id = ObjectId()
    await settle(db, [outcome_with(frame_id, there)])
    await settle(db, [outcome_with(frame_id, mine)])
    assert await dead_in(db) == left


@pytest.mark.parametrize("mark", ["open", "provisional"])
@pytest.mark.parametrize(("there", "mine"), [(1, 3), (3, 1), (2, 2)])
async def test_outcome_that_is_not_final_is_replaced(
    db: Database, mark: str, there: int, mine: int
) -> None:
    """An outcome that is judged again, or was made without the events, gives way to any other."""
    frame_id = ObjectId()
    await settle(db, [outcome_with(frame_id, there)])
    await db[schema.OUTCOMES].update_one({"_id": frame_id}, {"$set": {mark: True}})
    assert await settled_among(db, [frame_id, ObjectId()]) == set()
    await settle(db, [outcome_with(frame_id, mine)])
    assert await dead_in(db) == mine
    assert await settled_among(db, [frame_id, ObjectId()]) == {frame_id}


async def test_frame_whose_outcome_is_open_is_written_again(db: Database) -> None:
    """A frame that is judged again is not taken as settled, and gets its account."""
    frame = frame_of(event(0), event(1))
    writer = Writer(db, WRITE_MS)
    await writer.write([frame])
    await db[schema.OUTCOMES].update_one(
        {"_id": frame.frame_id}, {"$set": {"open": True, "stored": 0, "dead": [0, 1]}}
    )
    [again] = await writer.write([frame])
    assert again.outcome is not None
    outcome = await the_one(db, schema.OUTCOMES)
    assert (outcome["stored"], outcome["dead"], outcome.get("open")) == (2, [], None)
    await exactly_once(db, frame)


@pytest.mark.parametrize("clock", ["running", "standing"])
async def test_many_settle_one_frame_at_once(
    db: Database, monkeypatch: pytest.MonkeyPatch, clock: str
) -> None:
    """Whoever comes when, also within one millisecond: the fewest dead are what is left."""
    if clock == "standing":
        monkeypatch.setattr(settle_module, "now", lambda: datetime(2026, 1, 2, tzinfo=UTC))
    chance = random.Random(1)
    for round_ in range(8):
        frame_id = ObjectId()
        first = document_of(outcome_with(frame_id, 19))
        await db[schema.OUTCOMES].insert_one(first | ({"open": True} if round_ % 2 else {}))
        dead = [chance.randrange(1, 19) for _ in range(6)]
        await asyncio.gather(*(settle(db, [outcome_with(frame_id, one)]) for one in dead))
        assert await dead_in(db) == min(dead)
        await db[schema.OUTCOMES].delete_many({})


@contextlib.contextmanager
def cut_off(listener: Listener, after: int) -> Iterator[None]:
    """Cancel the current task while it waits for the answer to the command number `after`."""
    task = asyncio.current_task()
    assert task is not None
    left = after

    def count(_name: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            in_rounds(SENT_ROUNDS, task.cancel)

    listener.at_start = count
    try:
        yield
    finally:
        listener.at_start = lambda _name: None


async def test_written_again_after_a_cut_anywhere(db: Database, settings: Settings) -> None:
    """A worker may end at any command: whoever writes the frames again completes them."""
    listener = Listener()
    cuts = 0
    async with store(settings.mongo_url, settings.mongo_db, listener) as heard:
        for after in range(1, CUTS):
            source = f"s{after}"
            before = frame_of(event(0, source=source), event(1, source=source))
            frames = [
                frame_of(event(0, source=source), event(2, source=source)),
                frame_of(event(1, source=source, data="another"), event(3, source=source)),
            ]
            await Writer(db, WRITE_MS).write([before])

            async def cut(batch: list[Frame] = frames, after: int = after) -> None:
                with cut_off(listener, after):
                    await Writer(heard, WRITE_MS).write(batch)

            writing = asyncio.create_task(cut())
            await asyncio.wait([writing])
            cuts += writing.cancelled()
            await Writer(db, WRITE_MS).write(frames)
            await mixture_is_right(db, source, frames)
    # Beyond the last command nothing was cut; before it everything was.
    assert 7 <= cuts < CUTS - 1


async def mixture_is_right(db: Database, source: str, frames: list[Frame]) -> None:
    """Check two frames: one of a duplicate and a fresh event, one of a conflict and a fresh one."""
    found = [await db[schema.OUTCOMES].find_one({"_id": frame.frame_id}) for frame in frames]
    accounts = [(one["stored"], one["duplicate"], one["dead"]) for one in found if one]
    assert accounts == [(1, 1, []), (1, 0, [0])]
    assert await db[schema.EVENTS].count_documents({"source": source}) == 4
    ids = [frame.frame_id for frame in frames]
    letters = await db[schema.DEAD_LETTERS].find({"frame_id": {"$in": ids}}).to_list()
    assert [(one["frame_id"], one["reason"]) for one in letters] == [(ids[1], "id_conflict")]


async def write_until_settled(writer: Writer, frames: list[Frame]) -> int:
    """Write as the worker does; return how often the store was away."""
    for failures in range(20):
        try:
            await writer.write(frames)
        except StoreUnavailable:
            continue
        return failures
    raise AssertionError("the store stays away")


@pytest.mark.parametrize(
    ("command", "skip", "how"),
    [
        *((command, skip, {"errorCode": 777}) for command, skip in STEPS),
        *((command, skip, {"errorCode": 112}) for command, skip in STEPS),
        *(("insert", skip, {"errorCode": 10107}) for skip in range(4)),
        *((command, 0, {"closeConnection": True}) for command in ("insert", "find")),
        *(
            (command, skip, {"writeConcernError": {"code": 64, "errmsg": "not by a majority"}})
            for command, skip in STEPS
            if command != "find"
        ),
    ],
    ids=str,
)
async def test_passing_errors_are_waited_out(
    faulty: Database, command: str, skip: int, how: dict[str, Any]
) -> None:
    """Whatever may pass raises StoreUnavailable and gives no event up; writing again settles it."""
    await Writer(faulty, WRITE_MS).write([frame_of(event(0), event(1))])
    frames = [frame_of(event(0), event(2)), frame_of(event(1, data="another"), event(3))]
    # A query is asked again by the client itself, until the time is up.
    writer = Writer(faulty, 300 if command == "find" else WRITE_MS)
    async with fail(faulty, command, {"skip": skip} if skip else "alwaysOn", **how):
        with pytest.raises(StoreUnavailable):
            await writer.write(frames)
    await Writer(faulty, WRITE_MS).write(frames)
    await mixture_is_right(faulty, "test", frames)


async def test_burying_waits_an_outage_out(faulty: Database) -> None:
    """A dead letter that could not be written for sure is an outage, not an end."""
    writer = Writer(faulty, WRITE_MS)
    how = {"writeConcernError": {"code": 91, "errmsg": "shutting down"}}
    async with fail(faulty, "insert", "alwaysOn", **how):
        with pytest.raises(StoreUnavailable, match="91"):
            await writer.bury("s", [("1-0", b"x", CorruptFrame("why"))])


@pytest.mark.parametrize("skip", [0, 1, 2])
async def test_slow_store_is_given_up_in_time(faulty: Database, skip: int) -> None:
    """A call that the store does not answer within the time-out ends; what it did counts once."""
    frame = frame_of(event(0), event(1))
    mode: Any = {"skip": skip} if skip else "alwaysOn"
    started_at_s = time.monotonic()
    async with fail(faulty, "insert", mode, blockConnection=True, blockTimeMS=2_000):
        with pytest.raises(StoreUnavailable):
            await Writer(faulty, 150).write([frame])
        assert time.monotonic() - started_at_s < 1.5
    await write_until_settled(Writer(faulty, WRITE_MS), [frame])
    await exactly_once(faulty, frame)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "step"), [("at_start", "insert events"), ("at_end", "insert events")]
)
async def test_store_killed_in_the_middle(
    own_store_server: Server, settings: Settings, moment: str, step: str
) -> None:
    """After a crash of the store at any step, writing again stores each event exactly once."""
    server, listener = own_store_server, Listener()
    frames = [frame_of(event(0), event(1)), frame_of(event(2))]

    def kill(name: str) -> None:
        if name == step:
            server.kill()

    async with store(server.url, settings.mongo_db, listener) as db:
        setattr(listener, moment, kill)
        with pytest.raises(StoreUnavailable):
            await Writer(db, WRITE_MS).write(frames)
        setattr(listener, moment, lambda _name: None)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        await write_until_settled(Writer(db, WRITE_MS), frames)
        await exactly_once(db, *frames)


async def test_store_that_hangs(faulty: Database, failing: Server) -> None:
    """A store that stops answering is given up after the time-out, and found again later."""
    frames = [frame_of(event(0), event(1)), frame_of(event(2))]
    await Writer(faulty, WRITE_MS).write(frames[:1])
    with hanging(failing):
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await Writer(faulty, 200).write(frames)
    await write_until_settled(Writer(faulty, WRITE_MS), frames)
    await exactly_once(faulty, *frames)
