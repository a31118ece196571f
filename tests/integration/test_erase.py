"""Erasure: nothing is left of an event but what counts need, and it does not come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import bson
import hypothesis
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from evp.batch.outcome import ERASED
from evp.clock import MS_MAX, from_ms, now_ms
from evp.erasure import Erased, erase
from evp.identity import canonical, event_id
from evp.settings import Settings
from evp.storage import erasure, schema
from evp.storage.client import Database
from evp.storage.erasure import Wanted
from evp.storage.writer import Writer
from evp.stream.client import Link
from tests.integration.test_retention import empty
from tests.integration.test_settle import cut_off
from tests.support.make import event, frame_of
from tests.support.servers import Server
from tests.support.stores import (
    MAY_LEAVE_SOCKETS,
    WRITE_MS,
    Listener,
    documents,
    store,
)
from tests.support.sums import check_sums, fold_all
from tests.support.verifying import Accepting, accepting, clean
from tests.support.workers import changed, drain

pytestmark = [MAY_LEAVE_SOCKETS, pytest.mark.usefixtures("verify_at_once")]

AT_MS = 1767323045678


@pytest.fixture
async def server(db: Database, link: Link, settings: Settings) -> AsyncIterator[Accepting]:
    """A server process."""
    assert db.name
    assert link.is_open
    async with accepting(settings) as server:
        yield server


async def erased(
    settings: Settings, db: Database, *, dry_run: bool = False, **wanted: str
) -> Erased:
    """Erase, and return what was done."""
    found = Erased(dry_run)
    await erase(settings, db, Wanted(**wanted), found, lambda _so_far: None)
    assert found.finished
    return found


async def left(db: Database) -> dict[str, list[str]]:
    """Return ids of events that are whole, and types of tombstones."""
    found = await documents(db, schema.EVENTS)
    return {
        "whole": sorted(one["id"] for one in found if ERASED not in one),
        "erased": sorted(one["type"] for one in found if ERASED in one),
    }


async def test_events_of_a_subject(server: Accepting, db: Database, settings: Settings) -> None:
    """Of each, what counts need is left and no more; sums and proof are as before."""
    mine = [event(n, subject="me", traceparent="00-a-b-01", type=f"t{n}") for n in range(3)]
    await server.frames([mine[0], event(3)], [mine[1], mine[2], event(4)])
    await server.record_in_store(db)
    await drain(settings)
    before = await documents(db, schema.EVENTS)
    counted = await erased(settings, db, dry_run=True, subject="me")
    assert (counted.events, counted.by_source, counted.letters) == (3, {"test": 3}, 0)
    assert counted.waiting_events == 0
    assert await documents(db, schema.EVENTS) == before
    assert (await erased(settings, db, subject="me")).events == 3
    assert await left(db) == {"whole": ["e3", "e4"], "erased": ["t0", "t1", "t2"]}
    for one in await documents(db, schema.EVENTS):
        if ERASED in one:
            was = next(other for other in before if other["_id"] == one["_id"])
            kept = {"_id", "frame_id", "type", "source", "time"}
            assert one.keys() == kept | {ERASED}
            assert {name: one[name] for name in kept} == {name: was[name] for name in kept}
            assert abs(one[ERASED].timestamp() * 1000 - now_ms()) < 60_000
    await clean(settings)
    await fold_all(db)
    await check_sums(db)
    assert (await erased(settings, db, subject="me")).events == 0


@pytest.mark.parametrize("by", ["id", "event_id"])
async def test_one_event(server: Accepting, db: Database, settings: Settings, by: str) -> None:
    """By the sender's id, of one source or all; or by evp's own, in whatever notation."""
    await server.frames([event(0), event(0, source="other"), event(1)])
    await drain(settings)
    if by == "id":
        assert (await erased(settings, db, id="e0", source="other")).events == 1
        assert (await left(db))["whole"] == ["e0", "e1"]
        counted = await erased(settings, db, dry_run=True, id="e0")
        assert counted.by_source == {"test": 1}
    else:
        text = canonical(event_id("test", "e0", AT_MS))
        assert (await erased(settings, db, id=text.upper())).events == 1
        assert (await erased(settings, db, id=text)).events == 0
        assert (await left(db))["whole"] == ["e0", "e1"]
    assert (await erased(settings, db, id="no such")).events == 0


async def test_it_does_not_come_back(
    server: Accepting, db: Database, link: Link, settings: Settings
) -> None:
    """Sent again, delivered again, or both: a duplicate, never a document, never a dead letter."""
    await server.frames([event(0), event(1)])
    await server.record_in_store(db)
    await drain(settings)
    await erased(settings, db, subject="user_1", id="e0")
    # The client sends it again, with other data; and everything is delivered once more.
    await server.frames([event(0, data="another"), event(2)])
    await link.call("XGROUP", "SETID", settings.stream, settings.consumer_group, "0")
    await drain(settings)
    # And once more as to a store that forgot that it was settled.
    await db[schema.OUTCOMES].delete_many({})
    await link.call("XGROUP", "SETID", settings.stream, settings.consumer_group, "0")
    await drain(settings)
    assert await left(db) == {"whole": ["e1", "e2"], "erased": ["page_view"]}
    assert await documents(db, schema.DEAD_LETTERS) == []
    outcomes = await documents(db, schema.OUTCOMES)
    assert sorted((one["stored"], one["duplicate"]) for one in outcomes) == [(1, 1), (2, 0)]
    await server.record_in_store(db)
    await clean(settings)


async def test_dead_letters(server: Accepting, db: Database, settings: Settings) -> None:
    """What dead letters hold of a subject goes too, as document or as bytes; the account stays."""
    await server.frames(
        [event(0, subject="me"), event(1)],
        [event(0, subject="me", data="another"), event(1, data="another")],
    )
    await server.record_in_store(db)
    await drain(settings)
    # The store would not take this one as a document within another one.
    letter = await db[schema.DEAD_LETTERS].find_one({"event.subject": "me"})
    assert letter is not None
    as_bytes = {"$set": {"payload": bson.encode(letter["event"])}, "$unset": {"event": ""}}
    copies = [letter["_id"]]
    counted = await erased(settings, db, dry_run=True, subject="me")
    assert (counted.events, counted.letters) == (1, 1)
    await db[schema.DEAD_LETTERS].update_one({"_id": letter["_id"]}, as_bytes)
    counted = await erased(settings, db, dry_run=True, subject="me")
    assert (counted.events, counted.letters) == (1, 1)
    assert (await erased(settings, db, subject="me")).letters == 1
    for one in await documents(db, schema.DEAD_LETTERS):
        is_mine = one["_id"] in copies
        assert ("purged_at" in one) == is_mine
        assert ("event" in one or "payload" in one) != is_mine
    await clean(settings)
    assert (await erased(settings, db, subject="me")).letters == 0


async def test_what_nobody_can_read_is_told(db: Database, link: Link, settings: Settings) -> None:
    """Entries that were no frames may hold anything: how many there are is told."""
    await link.call("XADD", settings.stream, "*", "type", "t", "data", "no json", "subject", "me")
    await drain(settings)
    assert (await erased(settings, db, subject="me")).unreadable_letters == 1


async def test_what_waits_in_the_log_is_told(
    server: Accepting, db: Database, settings: Settings
) -> None:
    """What is not stored yet is counted; once it is, it is erased by the same command."""
    await server.frames([event(0, subject="me"), event(1, subject="me")])
    first = await erased(settings, db, subject="me")
    assert (first.events, first.waiting_events) == (0, 2)
    await drain(settings)
    second = await erased(settings, db, subject="me")
    assert (second.events, second.waiting_events) == (2, 0)


async def test_log_that_is_away(db: Database, own_log_server: Server, settings: Settings) -> None:
    """Without the log what is stored is erased, and it is told that the rest is not known."""
    await Writer(db, WRITE_MS).write([frame_of(event(0, subject="me"))])
    on_it = changed(settings, redis_url=own_log_server.url)
    own_log_server.kill()
    found = await erased(on_it, db, subject="me")
    assert (found.events, found.waiting_events) == (1, None)
    assert found.log_error


async def test_rules_for_events(db: Database, settings: Settings) -> None:
    """A validator is no obstacle; a unique index may be, and that is told."""
    await Writer(db, WRITE_MS).write(
        [frame_of(*(event(n, subject="me", orderid=f"o{n}") for n in range(3)))]
    )
    rule = {"$jsonSchema": {"required": ["data"]}}
    await db.command({"collMod": schema.EVENTS, "validator": rule})
    await db[schema.EVENTS].create_index("orderid", unique=True)
    found = await erased(settings, db, subject="me")
    assert found.refused == {"unique_conflict": 2}
    assert found.events == 1
    await db[schema.EVENTS].drop_indexes()
    assert (await erased(settings, db, subject="me")).events == 2


async def test_documents_of_others(db: Database, settings: Settings) -> None:
    """What another program put into the collection is erased as well, whatever it lacks."""
    far = from_ms(MS_MAX)
    await db[schema.EVENTS].insert_many(
        [
            {"_id": "somebody's", "subject": "me", "n": 1},
            {"_id": 7, "subject": "me", "frame_id": "none", "type": 3, "time": far},
        ]
    )
    assert (await erased(settings, db, subject="me")).events == 2
    found = {one["_id"]: one for one in await documents(db, schema.EVENTS)}
    assert found["somebody's"].keys() == {"_id", ERASED}
    assert found[7].keys() == {"_id", "frame_id", "type", "time", ERASED}
    assert (found[7]["type"], found[7]["time"]) == (3, far)


events = st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from(["me", "you"])), min_size=1, max_size=12
)


@hypothesis.settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=events, page=st.integers(1, 4), after=st.integers(1, 9))
async def test_cut_off_anywhere(
    db: Database,
    link: Link,
    environ: dict[str, str],
    settings: Settings,
    sent: list[tuple[int, str]],
    page: int,
    after: int,
) -> None:
    """Whenever it ends: others lose nothing, the proof is clean, and the same command goes on."""
    assert environ
    assert link.is_open
    await empty(db)
    writer = Writer(db, WRITE_MS)
    for seq, (number, subject) in enumerate(sent, 1):
        await writer.write([frame_of(event(number, subject=subject), seq=seq)])
    before = {one["_id"]: one for one in await documents(db, schema.EVENTS)}
    listener = Listener()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(erasure, "ERASE_DOCUMENTS_MAX", page)
        async with store(settings.mongo_url, settings.mongo_db, listener) as heard:

            async def cut() -> None:
                with cut_off(listener, after):
                    await erased(settings, heard, subject="me")

            erasing = asyncio.create_task(cut())
            await asyncio.wait([erasing])
        await clean(settings)
        await erased(settings, db, subject="me")
    found = {one["_id"]: one for one in await documents(db, schema.EVENTS)}
    assert found.keys() == before.keys()
    for id_, was in before.items():
        if was["subject"] == "me":
            assert ERASED in found[id_]
            assert "subject" not in found[id_]
        else:
            assert found[id_] == was
    assert not await holding(db, "me")
    await clean(settings)


async def holding(db: Database, subject: str) -> list[Any]:
    """Return dead letters that hold an event of a subject."""
    return await db[schema.DEAD_LETTERS].find({"event.subject": subject}).to_list()
