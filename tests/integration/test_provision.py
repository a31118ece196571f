"""The store made ready: what is missing is made, in a cluster it is sharded, nothing is harmed."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest
from pymongo import IndexModel
from rich.console import Console
from structlog.testing import capture_logs

from evp.cli.provisioning import provision_and_tell
from evp.clock import now, now_ms
from evp.dlq import actions
from evp.errors import WrongShardKey
from evp.settings import Settings
from evp.storage import erasure, schema
from evp.storage.client import Database, close, connect, database
from evp.storage.dlq import Filters
from evp.storage.provision import Provision, Server, State, Step, What, provision
from evp.storage.replay import Replayer
from evp.storage.retention import expire
from evp.storage.sweep import Sought, sweep
from evp.storage.writer import Writer
from evp.views.provision import provision_view
from tests.support.make import ADMISSION, event, frame_of
from tests.support.router import Router, routing
from tests.support.stores import MAY_LEAVE_SOCKETS, WRITE_MS, Listener, documents, store
from tests.support.sums import fold_all

pytestmark = MAY_LEAVE_SOCKETS

INDEXES = sum(map(len, schema.INDEXES.values()))
LARGE = ["events", "frames", "outcomes", "dead_letters", "dead_letter_parts"]


@pytest.fixture
async def empty(settings: Settings) -> AsyncIterator[Database]:
    """The test's database before anything was made there."""
    client = connect(settings)
    yield database(client, settings.mongo_db)
    await client.drop_database(settings.mongo_db)
    await close(client)


@pytest.fixture
async def router(settings: Settings, empty: Database) -> AsyncIterator[Router]:
    """A router in front of the test's store."""
    async with routing(settings.mongo_url) as router:
        yield router
        rows = empty.client["config"]["collections"]
        await rows.delete_many({"_id": {"$regex": f"^{settings.mongo_db}\\."}})


@pytest.fixture
async def routed(router: Router, settings: Settings) -> AsyncIterator[Database]:
    """The test's database, through the router."""
    client = connect(msgspec.structs.replace(settings, mongo_url=router.url))
    yield database(client, settings.mongo_db)
    await close(client)


def states(found: Provision, what: What) -> list[str]:
    """Return in which states all of a kind are, each once."""
    return sorted({str(step.state) for step in found.steps if step.what is what})


def shown(found: Provision) -> str:
    """Return what a person sees on 80 columns."""
    stream = io.StringIO()
    Console(file=stream, width=80).print(provision_view(found), soft_wrap=True)
    return stream.getvalue()


async def test_a_dry_run_makes_nothing(empty: Database) -> None:
    """It names each collection and index that is missing, and the database stays empty."""
    found = await provision(empty, dry_run=True)
    assert states(found, What.COLLECTION) == states(found, What.INDEX) == ["missing"]
    assert [step.collection for step in found.steps if step.what is What.COLLECTION] == [
        *schema.ALL
    ]
    assert states(found, What.SHARDING) == []
    assert await empty.list_collection_names() == []
    missing = len(schema.ALL) + INDEXES
    assert f"nothing was changed; without --dry-run these {missing} are made" in shown(found)


async def test_it_makes_what_workers_make(empty: Database) -> None:
    """Afterwards a worker has nothing to make, and the second time neither has `evp init`."""
    heard: list[Step] = []
    made = await provision(empty, dry_run=False, notify=heard.append)
    assert states(made, What.COLLECTION) == states(made, What.INDEX) == ["made"]
    assert heard == made.steps
    assert made.server is not Server.MONGOS
    options = await empty[schema.EVENTS].options()
    assert options["clusteredIndex"]["key"] == {"_id": 1}
    await schema.ensure(empty)
    again = await provision(empty, dry_run=False)
    assert {step.state for step in again.steps} == {State.THERE}
    assert "all is there" in shown(again)


async def test_after_a_worker_nothing_is_missing(db: Database) -> None:
    """What workers have made is what `evp init` looks for."""
    found = await provision(db, dry_run=True)
    assert {step.state for step in found.steps} == {State.THERE}
    assert found.wrong == []


async def test_only_what_is_missing_is_made(db: Database) -> None:
    """One index that somebody dropped is made, and told as the only one."""
    await db[schema.FRAMES].drop_index("bucket_1")
    made = await provision(db, dry_run=False)
    assert [one for one in made.steps if one.state is State.MADE] == [
        Step(What.INDEX, schema.FRAMES, "bucket_1", State.MADE)
    ]
    assert "made what was missing: 1 index" in shown(made)


async def test_what_is_different_is_left_as_it_is(db: Database) -> None:
    """An index with other options is told with its mend; it is neither dropped nor made."""
    await db[schema.OUTCOMES].drop_index("judge_at_1")
    await db[schema.OUTCOMES].create_indexes([IndexModel("judge_at")])
    found = await provision(db, dry_run=False)
    [wrong] = found.wrong
    assert (wrong.name, wrong.state) == ("judge_at_1", State.DIFFERENT)
    assert "outcomes, judge_at_1: different" in shown(found)


async def test_events_of_another_making_are_told(empty: Database) -> None:
    """A collection that is not clustered does as well; it is said, and nothing else is done."""
    await empty.create_collection(schema.EVENTS)
    made = await provision(empty, dry_run=False)
    [step] = [one for one in made.steps if one.name == schema.EVENTS]
    assert step.state is State.THERE
    assert "not clustered" in step.detail
    assert made.wrong == []


async def test_behind_a_router_what_is_large_is_sharded(
    routed: Database, router: Router, settings: Settings
) -> None:
    """Five collections are sharded by hashed _id, once their index is there; the others are not."""
    planned = await provision(routed, dry_run=True)
    assert planned.server is Server.MONGOS
    assert states(planned, What.SHARDING) == ["missing"]
    assert router.asked == []
    made = await provision(routed, dry_run=False)
    assert {step.state for step in made.steps} == {State.MADE}
    name = settings.mongo_db
    assert [one for one in router.asked if "shardCollection" in one] == [
        {"shardCollection": f"{name}.{one}", "key": {"_id": "hashed"}} for one in LARGE
    ]
    assert router.asked[0] == {"enableSharding": name}
    order = [(step.what, step.collection) for step in made.steps]
    assert all(order.index((What.INDEX, one)) < order.index((What.SHARDING, one)) for one in LARGE)
    assert "_id hashed, made" in next(line for line in shown(made).splitlines() if "events" in line)


async def test_sharded_again_nothing_is_asked(routed: Database, router: Router) -> None:
    """A second run finds all of it, and workers may start."""
    await provision(routed, dry_run=False)
    router.asked.clear()
    again = await provision(routed, dry_run=False)
    assert {step.state for step in again.steps} == {State.THERE}
    assert router.asked == []
    await schema.ensure(routed)


async def test_a_collection_that_holds_events_can_be_sharded(
    db: Database, routed: Database, router: Router
) -> None:
    """The index comes first, without which a cluster refuses; nothing of the events changes."""
    await Writer(db, WRITE_MS).write([frame_of(event(0), event(1))])
    before = await documents(db, schema.EVENTS)
    made = await provision(routed, dry_run=False)
    assert states(made, What.SHARDING) == ["made"]
    assert await documents(routed, schema.EVENTS) == before


async def test_sharded_by_ranges_is_left_and_told(
    empty: Database, routed: Database, router: Router
) -> None:
    """`_id` by ranges is unique as well, but slow: it stays, with a remark."""
    row = {"_id": f"{empty.name}.{schema.EVENTS}", "key": {"_id": 1}}
    await empty.client["config"]["collections"].insert_one(row)
    made = await provision(routed, dry_run=False)
    [step] = [one for one in made.steps if one.what is What.SHARDING and one.detail]
    assert (step.collection, step.name, step.state) == (schema.EVENTS, "_id", State.THERE)
    assert "one shard takes all that is new" in shown(made)
    asked = [one.get("shardCollection") for one in router.asked]
    assert f"{empty.name}.{schema.EVENTS}" not in asked
    indexes = {(one.collection, one.name) for one in made.steps if one.what is What.INDEX}
    assert (schema.EVENTS, "_id_hashed") not in indexes
    assert (schema.FRAMES, "_id_hashed") in indexes


async def test_what_a_cluster_keeps_track_of_is_not_sharded_yet(
    empty: Database, routed: Database, router: Router
) -> None:
    """MongoDB 8 lists collections on one shard too; they are not taken for sharded ones."""
    row = {"_id": f"{empty.name}.{schema.EVENTS}", "key": {"_id": 1}, "unsplittable": True}
    await empty.client["config"]["collections"].insert_one(row)
    found = await provision(routed, dry_run=True)
    assert states(found, What.SHARDING) == ["missing"]


async def test_a_wrong_shard_key_stops_it(
    empty: Database, routed: Database, router: Router
) -> None:
    """With another key than _id nothing is made at all."""
    row = {"_id": f"{empty.name}.{schema.FRAMES}", "key": {"srv": 1}}
    await empty.client["config"]["collections"].insert_one(row)
    with pytest.raises(WrongShardKey, match="frames is sharded by"):
        await provision(routed, dry_run=False)
    assert await empty.list_collection_names() == []
    assert router.asked == []


async def test_rights_that_are_missing_are_told(routed: Database, router: Router) -> None:
    """What a user may not do is told with the store's words, and the rest is done."""
    router.refused = {"shardCollection"}
    found = await provision(routed, dry_run=False)
    assert [step.collection for step in found.wrong] == LARGE
    assert {step.state for step in found.steps if step.what is not What.SHARDING} == {State.MADE}
    assert "not authorized" in shown(found)
    assert "not all is as it should be" in shown(found)


async def test_who_may_not_see_how_it_is_sharded(routed: Database, router: Router) -> None:
    """Without that nothing is sharded, nor an index made for it; the rest is done."""
    router.hidden = "config"
    found = await provision(routed, dry_run=False)
    assert [step.collection for step in found.wrong] == LARGE
    assert not any(step.name == "_id_hashed" for step in found.steps)
    assert {step.state for step in found.steps if step.what is not What.SHARDING} == {State.MADE}
    assert router.asked == []


async def test_workers_say_that_they_may_not_see_it(routed: Database, router: Router) -> None:
    """They run, as the key may well be right, but don't leave the check out unsaid."""
    with capture_logs() as logged:
        await schema.ensure(routed)
    assert logged == []
    router.hidden = "config"
    with capture_logs() as logged:
        await schema.ensure(routed)
    assert [line["wanted"] for line in logged] == ["find on config.collections"]


async def test_a_router_without_the_old_command(routed: Database, router: Router) -> None:
    """Sharding needs no database to be enabled since MongoDB 6; a router may not know how."""
    router.unknown = {"enableSharding"}
    found = await provision(routed, dry_run=False)
    assert found.wrong == []


async def test_every_write_to_what_is_sharded_names_its_shard(
    db: Database, settings: Settings
) -> None:
    """All that is changed there is named by `_id`, so that one shard does it, once and at once."""
    listener = Listener()
    async with store(settings.mongo_url, settings.mongo_db, listener) as heard:
        await use_everything(heard, db)
    wanted = {f"{verb} {name}" for verb in ("update", "delete") for name in schema.SHARDED}
    changes = [
        (name, change["q"])
        for name, command in listener.commands
        if name in wanted
        for change in command.get("updates") or command["deletes"]
    ]
    assert {name for name, _ in changes} >= {
        f"update {schema.EVENTS}",
        f"delete {schema.EVENTS}",
        f"update {schema.FRAMES}",
        f"update {schema.OUTCOMES}",
        f"update {schema.DEAD_LETTERS}",
        f"delete {schema.DEAD_LETTERS}",
    }
    assert [(name, query) for name, query in changes if "_id" not in query] == []
    assert not any(name.startswith("findAndModify") for name in listener.names)


async def use_everything(heard: Database, db: Database) -> None:
    """Do what evp does to events, frames, outcomes and dead letters, twice where that differs."""
    writer = Writer(heard, WRITE_MS)
    first = frame_of(event(0), event(1, subject="me"))
    second = frame_of(event(0, data="another"), event(2, source="b"), event(1, data="another"))
    for _ in range(2):
        await writer.write([first])
        await writer.write([second])
    await db[schema.OUTCOMES].update_many({}, {"$set": {"open": True, "judge_at": now()}})
    await sweep(heard, no_entries)
    await writer.write([second])
    await db[schema.EVENTS].delete_one({"id": "e0"})
    for act, letters in (("replay", actions.TO_REPLAY), ("purge", actions.TO_PURGE)):
        account = await actions.select(heard, Filters(), letters, dry_run=False)
        if act == "replay":
            replayer = Replayer(heard, ADMISSION, WRITE_MS)
            await actions.replay(heard, Filters(), replayer, account, lambda _: None)
        else:
            await actions.purge(heard, Filters(), account, lambda _: None)
    async for rows in erasure.matching(heard, erasure.Wanted(subject="me")):
        await erasure.erase(heard, rows, now())
    await fold_all(heard)
    while (await expire(heard, 0, now_ms() + 2 * 3600 * 1000)).more:
        pass


async def no_entries(_sought: Sequence[Sought]) -> set[bytes]:
    """Answer for a log that has nothing any more."""
    return set()


def test_command_tells_as_json(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    """`evp init --json` is one object with all steps; exit 0 once nothing is wrong."""
    patient = msgspec.structs.replace(settings, mongo_min_pool_size=0)
    assert provision_and_tell(patient, dry_run=True, json=True) == 0
    told: dict[str, Any] = msgspec.json.decode(capsys.readouterr().out)
    assert told["dry_run"] is True
    assert {step["state"] for step in told["steps"]} == {"missing"}
