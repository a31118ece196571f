"""The store's client, collections and records: guarantees that no address can weaken."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from bson import ObjectId
from pymongo import ReadPreference

from evp.clock import now, now_ms
from evp.errors import CorruptFrame, SettingsError, StoreUnavailable, WrongShardKey
from evp.identity import event_id
from evp.limits import LOOKUP_IDS_MAX, WORKER_SILENT_S
from evp.settings import Settings
from evp.storage import account, client, lease, ledger, schema, sessions, users
from evp.storage.client import Database, connect, database, ping
from evp.storage.metrics import metrics
from evp.storage.rollups import fold
from evp.storage.sweep import Sought, judge_again, sweep
from evp.storage.workers import worker_rows
from evp.storage.writer import Writer
from tests.support.make import event, frame_of
from tests.support.servers import Server
from tests.support.stores import (
    MAY_LEAVE_SOCKETS,
    WRITE_MS,
    Listener,
    collections_of_the_table,
    documents,
    hanging,
    store,
    the_one,
    use_listener,
)

pytestmark = MAY_LEAVE_SOCKETS

WRITES = {"insert", "update", "delete", "findAndModify"}

WEAK = "w=0&readPreference=secondary&readConcernLevel=local"


def changed(settings: Settings, **changes: Any) -> Settings:
    """Return settings with some changed."""
    return msgspec.structs.replace(settings, **changes)


async def nothing_in_log(_sought: Sequence[Sought]) -> set[bytes]:
    """Answer for a log that has lost everything."""
    return set()


async def options_of(db: Database, name: str) -> dict[str, Any]:
    """Return the options a collection was made with."""
    [found] = await (await db.list_collections(filter={"name": name})).to_list()
    return dict(found["options"])


async def test_every_collection_of_the_table_is_made(db: Database) -> None:
    """What the schema's table names is what the schema makes, no more and no less."""
    names = collections_of_the_table()
    assert names == list(schema.ALL)
    assert sorted(await db.list_collection_names()) == sorted(names)


async def test_events_are_clustered_on_their_id(db: Database) -> None:
    """Events lie in the order of `_id` and pay for one index only; headers and outcomes don't."""
    assert (await options_of(db, schema.EVENTS))["clusteredIndex"]["key"] == {"_id": 1}
    assert "clusteredIndex" not in await options_of(db, schema.FRAMES)
    assert len(await (await db[schema.EVENTS].list_indexes()).to_list()) <= 1


async def test_ensuring_again_changes_nothing(db: Database) -> None:
    """Collections that are there are left as they are, whatever they hold."""
    await Writer(db, WRITE_MS).write([frame_of(event(0))])
    before = await options_of(db, schema.EVENTS)
    await schema.ensure(db)
    assert await options_of(db, schema.EVENTS) == before
    assert len(await documents(db, schema.EVENTS)) == 1


@pytest.mark.parametrize("key", [{"_id": "hashed"}, {"_id": 1}])
async def test_sharded_by_id(db: Database, key: dict[str, Any]) -> None:
    """Events that are sharded by `_id` are unique everywhere."""
    async with sharded(db, key):
        await schema.ensure(db)


@pytest.mark.parametrize("key", [{"type": 1}, {"_id": 1, "type": 1}, {"source": "hashed"}])
async def test_sharded_by_something_else_is_refused(db: Database, key: dict[str, Any]) -> None:
    """With any other key each shard could have an event once, so nothing starts."""
    async with sharded(db, key):
        with pytest.raises(WrongShardKey, match="once on each shard"):
            await schema.ensure(db)


@pytest.mark.parametrize("name", schema.ALL)
async def test_any_collection_sharded_by_something_else_is_refused(db: Database, name: str) -> None:
    """Every collection is written by `_id`, so that another key would break each of them."""
    async with sharded(db, {"type": 1}, name):
        with pytest.raises(WrongShardKey, match=rf"{db.name}\.{name} is sharded by"):
            await schema.ensure(db)
    async with sharded(db, {"_id": "hashed"}, name):
        await schema.ensure(db)


async def test_other_collections_may_be_sharded_as_they_like(db: Database) -> None:
    """What is not evp's is not looked at, in this database or in another one."""
    async with sharded(db, {"type": 1}, "reports"):
        await schema.ensure(db)


@contextlib.asynccontextmanager
async def sharded(
    db: Database, key: dict[str, Any], name: str = schema.EVENTS
) -> AsyncIterator[None]:
    """Tell evp what a router would tell of a collection."""
    collections = db.client["config"]["collections"]
    await collections.insert_one({"_id": f"{db.name}.{name}", "key": key})
    try:
        yield
    finally:
        await collections.delete_one({"_id": f"{db.name}.{name}"})


async def test_ensuring_from_many_tasks_at_once(db: Database) -> None:
    """Processes that start together on an empty store don't get in each other's way."""
    await db.client.drop_database(db.name)
    await asyncio.gather(*(schema.ensure(db) for _ in range(8)))
    assert sorted(await db.list_collection_names()) == sorted(schema.ALL)


async def test_pool_comes_from_the_settings(settings: Settings) -> None:
    """Every bound of the pool is a setting; what the address says about it doesn't count."""
    made = connect(
        changed(
            settings,
            mongo_url=f"{settings.mongo_url}&maxPoolSize=1&socketTimeoutMS=1&minPoolSize=1",
            mongo_max_pool_size=7,
            mongo_min_pool_size=3,
            mongo_max_idle_ms=4_000,
            mongo_connect_timeout_ms=5_000,
            mongo_socket_timeout_ms=6_000,
        )
    )
    pool = made.options.pool_options
    assert (pool.max_pool_size, pool.min_pool_size) == (7, 3)
    assert pool.max_idle_time_seconds == 4
    assert pool.connect_timeout == 5
    assert pool.socket_timeout == 6
    assert pool.wait_queue_timeout == 2
    assert made.options.server_selection_timeout == 5
    await client.close(made)


async def test_programs_that_only_look_hold_few_connections(settings: Settings) -> None:
    """A bound of connections holds for those kept open as well."""
    made = connect(settings, connections_max=1)
    pool = made.options.pool_options
    assert (pool.max_pool_size, pool.min_pool_size) == (1, 0)
    await client.close(made)
    small = connect(changed(settings, mongo_max_pool_size=2, mongo_min_pool_size=10))
    assert small.options.pool_options.min_pool_size == 2
    await client.close(small)


async def test_guarantees_hold_whatever_the_address_says(settings: Settings) -> None:
    """Majority, journal and primary are set in code."""
    made = connect(changed(settings, mongo_url=f"{settings.mongo_url}&{WEAK}"))
    events = database(made, settings.mongo_db)[schema.EVENTS]
    assert events.write_concern.document == {"w": "majority", "j": True}
    assert events.read_preference == ReadPreference.PRIMARY
    assert events.read_concern.document == {"level": "majority"}
    await client.close(made)


async def test_every_write_asks_for_majority_and_journal(
    db: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No write leaves evp without its write concern, and no query reads less than majority."""
    listener = Listener()
    use_listener(monkeypatch, client, listener)
    made = connect(changed(settings, mongo_url=f"{settings.mongo_url}&{WEAK}"))
    weak = database(made, settings.mongo_db)
    writer = Writer(weak, WRITE_MS)
    await writer.write([frame_of(event(0))])
    await writer.write([frame_of(event(0, data="another"), event(1))])
    await writer.bury("s", [("1-0", b"payload", CorruptFrame("why"))])
    await ledger.record_servers(weak, [(b"epoch", 1, 1, 0)], 0)
    await ledger.record_worker(weak, "g", "w-1", {}, within_s=5)
    await account.totals(weak)
    await lease.take(weak, "fold", "me", 1_000)
    await fold(weak, now_ms())
    await weak[schema.OUTCOMES].update_many({}, {"$set": {"open": True, "judge_at": now()}})
    await sweep(weak, nothing_in_log)
    await metrics(weak, 0, now_ms(), 60_000)
    await client.close(made)
    writes = [one for name, one in listener.commands if name.split()[0] in WRITES]
    assert len(writes) >= 9
    assert all(one.get("writeConcern") == {"w": "majority", "j": True} for one in writes)
    reads = [one for name, one in listener.commands if name.split()[0] in {"find", "aggregate"}]
    assert len(reads) >= 2
    assert all(one["readConcern"] == {"level": "majority"} for one in reads)
    assert not any("secondary" in str(one.get("$readPreference")) for one in reads)


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://u:hunter2@h:1:2",
        "mongodb://u:p:hunter2@h",
        "mongodb://u:hunter2%zz@h",
        "mongodb://u:hunter2@",
        "mongodb://u:hunter2@h,/?w=x",
        "mongodb://u:hunter2@h/?w=0&journal=true",
        "mongodb://u:hunter2@h,k/?directConnection=true",
        "mongodb://u:hunter2@h/?tls=true&tlsCAFile=/there/is/no/such/file",
    ],
)
async def test_an_address_that_makes_no_sense_is_a_setting(settings: Settings, url: str) -> None:
    """What can't be an address is a wrong setting, named without its password."""
    with pytest.raises(SettingsError) as caught:
        connect(changed(settings, mongo_url=url))
    [problem] = caught.value.problems
    assert problem.key == "EVP_MONGO_URL"
    assert "hunter2" not in str(caught.value)


async def test_options_that_are_unknown_are_told(settings: Settings) -> None:
    """A misspelt option of the address is no reason to end, but it is said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = connect(changed(settings, mongo_url=f"{settings.mongo_url}&maxPolSize=1"))
    await client.close(made)
    assert "maxpoolsize" in str(caught[0].message)


@pytest.mark.slow
async def test_store_that_is_away_is_told_from_every_call(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is asked of a store that can't be reached ends in one kind of error."""
    monkeypatch.setattr(client, "STORE_SELECT_MS_MAX", 100)
    made = connect(changed(settings, mongo_url="mongodb://127.0.0.1:1", mongo_min_pool_size=0))
    gone = database(made, "gone")
    id_ = event_id("s", "i", 0)
    found = await asyncio.gather(
        ping(gone),
        schema.ensure(gone),
        account.totals(gone),
        worker_rows(gone),
        metrics(gone, 0, 60_000, 60_000),
        fold(gone, 0),
        sweep(gone, nothing_in_log),
        judge_again(gone, [ObjectId()]),
        lease.take(gone, "fold", "me", 1_000),
        lease.release(gone, "fold", "me"),
        account.present(gone, [id_]),
        account.doubled(gone, "s", 0, 1),
        ledger.record_servers(gone, [(b"epoch", 1, 1, 0)], 0),
        ledger.record_worker(gone, "g", "w-1", {}, within_s=5),
        users.add(gone, "anna", "hash", ["read"]),
        users.find(gone, "anna"),
        users.listed(gone),
        users.set_password(gone, "anna", "hash"),
        users.set_disabled(gone, "anna", disabled=True),
        sessions.find(gone, b"family"),
        sessions.end(gone, b"family"),
        sessions.end_all(gone, "anna"),
        Writer(gone, 100).write([frame_of(event(0))]),
        Writer(gone, 100).bury("s", [("1-0", b"", CorruptFrame("why"))]),
        return_exceptions=True,
    )
    assert [type(error) for error in found] == [StoreUnavailable] * len(found)
    await client.close(made)


async def test_closing_does_not_wait_for_a_store_that_hangs(
    settings: Settings, own_store_server: Server
) -> None:
    """A client with sessions to end is closed in time although the store never answers."""
    made = connect(changed(settings, mongo_url=own_store_server.url))
    await ping(database(made, "any"))
    with hanging(own_store_server):
        async with asyncio.timeout(3 * client.CLOSE_S_MAX):
            await client.close(made)


async def test_totals_are_the_sums_of_outcomes(db: Database) -> None:
    """Stored, duplicate and dead are added up over all frames; an empty store has none."""
    assert await account.totals(db) == account.Totals()
    writer = Writer(db, WRITE_MS)
    await writer.write([frame_of(event(0), event(1))])
    await writer.write([frame_of(event(0), event(1, data="another"), event(2))])
    assert await account.totals(db) == account.Totals(stored=3, duplicate=1, dead=1, frames=2)


async def test_ids_that_are_present_are_found(db: Database) -> None:
    """Of many ids exactly those that are stored are found."""
    frame = frame_of(*(event(number) for number in range(LOOKUP_IDS_MAX + 10)))
    await Writer(db, WRITE_MS).write([frame])
    absent = [event_id("test", f"no{number}", 0) for number in range(10)]
    assert await account.present(db, frame.ids + absent) == set(frame.ids)
    assert await account.present(db, []) == set()


async def test_an_id_that_stands_in_two_documents_is_found(db: Database) -> None:
    """An event stored twice under different times is seen, of this source and span only."""
    first, last = "2026-01-02T03:04:05Z", "2026-01-02T03:04:06Z"
    await Writer(db, WRITE_MS).write(
        [
            frame_of(event(1, time=first), event(2, time=first), event(1, source="b", time=first)),
            frame_of(event(1, time=last), event(2, source="b", time=last)),
            # Without ids none of these is the same as another.
            frame_of(event(3, id=None), event(4, id=None)),
        ]
    )
    start_ms = 1767323045000
    assert await account.doubled(db, "test", start_ms, start_ms + 1000) == ["e1"]
    assert await account.doubled(db, "test", start_ms, start_ms + 999) == []
    assert await account.doubled(db, "b", start_ms, start_ms + 1000) == []


async def test_only_workers_heard_of_lately_count(db: Database) -> None:
    """A worker that has not spoken for a while is told as silent, and not as working."""
    assert await worker_rows(db) == []
    await ledger.record_worker(db, "g", "w-1", {"stored_per_s": 10.5}, within_s=5)
    await ledger.record_worker(db, "g", "w-2", {"stored_per_s": 20.0}, within_s=5)
    await ledger.record_worker(db, "g", "w-3", {"stored_per_s": 40.0}, within_s=5)
    silent = now() - timedelta(seconds=WORKER_SILENT_S + 1)
    await db[schema.WORKERS].update_one({"_id": "g/w-3"}, {"$set": {"seen_at": silent}})
    assert [one.silent for one in await worker_rows(db)] == [False, False, True]
    assert [one["name"] for one in await ledger.live_workers(db)] == ["w-1", "w-2"]


async def test_records_of_a_server_only_grow(db: Database) -> None:
    """A late record of an epoch does not take back a newer one."""
    await ledger.record_servers(db, [(b"one", 5, 50, 2), (b"two", 1, 1, 0)], 0)
    [first] = await db[schema.SERVERS].find({"_id": b"one"}).to_list()
    await ledger.record_servers(db, [(b"one", 4, 40, 0)], 0)
    [again] = await db[schema.SERVERS].find({"_id": b"one"}).to_list()
    assert again["first_at"] == first["first_at"] <= again["seen_at"]
    await ledger.record_servers(db, [], 0)
    rows = {bytes(one["_id"]): one for one in await documents(db, schema.SERVERS)}
    assert {srv: (one["seq"], one["events"]) for srv, one in rows.items()} == {
        b"one": (5, 50),
        b"two": (1, 1),
    }


async def test_record_of_a_worker_is_replaced(db: Database) -> None:
    """A worker's name has one record: the newest facts, and when they were told."""
    await ledger.record_worker(db, "g", "w-1", {"pid": 1, "totals": {"stored": 1}}, within_s=5)
    await ledger.record_worker(db, "g", "w-1", {"pid": 2, "totals": {"stored": 7}}, within_s=5)
    record = await the_one(db, schema.WORKERS)
    assert (record["pid"], record["totals"]) == (2, {"stored": 7})
    assert (record["_id"], record["group"], record["name"]) == ("g/w-1", "g", "w-1")
    assert abs(now() - record["seen_at"]) < timedelta(seconds=60)


async def test_groups_have_workers_of_one_name(db: Database) -> None:
    """Workers of two groups may have the same name: each has its own record."""
    for group in ("a", "b"):
        await ledger.record_worker(db, group, "w-1", {"stored_per_s": 1.0}, within_s=5)
    assert [one.group for one in await worker_rows(db)] == ["a", "b"]


async def test_partitions_have_workers_of_one_name(db: Database) -> None:
    """Workers of two partitions may have the same name: each has its own record, found by it."""
    for partition in (0, 1):
        facts = {"partition": partition}
        await ledger.record_worker(db, "g", "w-p1-1", facts, within_s=5, partition=partition)
    found = await ledger.worker_records(db, "g", ["w-p1-1", "w-2"])
    assert sorted(one["partition"] for one in found) == [0, 1]


async def test_no_query_names_more_ids_than_the_store_likes(
    db: Database, settings: Settings
) -> None:
    """Redelivered frames are looked up in portions: one store's time grows with their square."""
    listener = Listener()
    frames = [frame_of(event(number)) for number in range(LOOKUP_IDS_MAX + 5)]
    async with store(settings.mongo_url, settings.mongo_db, listener) as heard:
        writer = Writer(heard, WRITE_MS)
        await writer.write(frames)
        assert all(one.outcome is None for one in await writer.write(frames))
    sizes = [
        len(one["filter"]["_id"]["$in"])
        for name, one in listener.commands
        if name == f"find {schema.OUTCOMES}"
    ]
    assert sizes == [LOOKUP_IDS_MAX, 5]
