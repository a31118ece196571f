"""The store made ready by hand: collections, indexes and, in a cluster of shards, what is spread.

Workers make collections and indexes when they start (`schema.ensure`). To shard takes
other rights, and is best done while there is nothing to move: `evp init` does it.
It looks first, then makes what is missing, step by step; each step can be done again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from msgspec import Struct
from pymongo import IndexModel
from pymongo.errors import OperationFailure

from evp.errors import StoreUnavailable
from evp.storage.client import Database
from evp.storage.failures import told, was_refused
from evp.storage.inspection import index_state
from evp.storage.schema import (
    ALL,
    EVENTS,
    INDEXES,
    SHARD_KEY,
    SHARDED,
    check_shard_keys,
    make_collection,
    shard_keys,
)

_UNAUTHORIZED = 13
_COMMAND_NOT_FOUND = 59
#: Of what the store will not do, beside rights and the like: IllegalOperation, CannotCreateIndex,
#: IndexOptionsConflict, IndexKeySpecsConflict.
_ALSO_REFUSED = (20, 67, 85, 86)
_SHARD_INDEX = IndexModel([("_id", "hashed")])
_HASHED = "_id hashed"


class Server(StrEnum):
    """What answers at the store's address."""

    MONGOS = "mongos"
    REPLICA_SET = "replica_set"
    SINGLE = "single_server"


class What(StrEnum):
    """What a step is about."""

    COLLECTION = "collection"
    INDEX = "index"
    SHARDING = "sharding"


class State(StrEnum):
    """How it is with it. `different` and `refused` are for people to mend."""

    THERE = "there"
    MISSING = "missing"
    MADE = "made"
    DIFFERENT = "different"
    REFUSED = "refused"


#: Of what is sharded, or will be; the key has an index then.
_TO_SHARD = (State.THERE, State.MISSING)


class Step(Struct):
    """One thing that evp needs of a collection; `name` is that of the index, or the shard key."""

    what: What
    collection: str
    name: str
    state: State
    detail: str = ""


class Provision(Struct):
    """What is there and what was made, in order."""

    database: str
    server: Server
    version: str
    dry_run: bool
    steps: list[Step]

    @property
    def is_cluster(self) -> bool:
        """True if what is large is to be sharded."""
        return self.server is Server.MONGOS

    @property
    def wrong(self) -> list[Step]:
        """What stays as it should not be."""
        return [one for one in self.steps if one.state in {State.DIFFERENT, State.REFUSED}]

    def count(self, state: str) -> int:
        """Return how many steps are in a state."""
        return sum(one.state == state for one in self.steps)


def _silently(_step: Step) -> None:
    """Tell nobody."""


async def provision(
    db: Database, *, dry_run: bool, notify: Callable[[Step], None] = _silently
) -> Provision:
    """Make what is missing, and return all of it; with `dry_run` only look.

    `notify` hears of each step that is about to be done. What the store refuses is told
    in its step, and the others are done. Raises StoreUnavailable, and WrongShardKey
    before anything is made.
    """
    with told():
        await check_shard_keys(db)
        server, version = await _server(db)
        found = Provision(db.name, server, version, dry_run, [])
        found.steps = await _look(db, is_cluster=found.is_cluster)
    for step in found.steps:
        if step.state is State.MISSING and not dry_run:
            notify(step)
            await _do(db, step)
    return found


async def _server(db: Database) -> tuple[Server, str]:
    said = await db.client.admin.command("hello")
    version = str((await db.command("buildInfo"))["version"])
    if said.get("msg") == "isdbgrid":
        return Server.MONGOS, version
    return (Server.REPLICA_SET if "setName" in said else Server.SINGLE), version


async def _look(db: Database, *, is_cluster: bool) -> list[Step]:
    """Return all that evp needs, in the order in which it is made."""
    rows = await (await db.list_collections()).to_list()
    options = {row["name"]: row.get("options") or {} for row in rows}
    sharding = await _sharding_steps(db) if is_cluster else []
    hashed = {one.collection for one in sharding if one.name == _HASHED and one.state in _TO_SHARD}
    steps = []
    for name in ALL:
        steps.append(_collection_step(name, options))
        wanted = [*INDEXES.get(name, ()), *([_SHARD_INDEX] if name in hashed else ())]
        there = await (await db[name].list_indexes()).to_list() if name in options else []
        steps += _index_steps(name, wanted, there)
    return [*steps, *sharding]


def _collection_step(name: str, options: Mapping[str, Any]) -> Step:
    if name not in options:
        return Step(What.COLLECTION, name, name, State.MISSING)
    step = Step(What.COLLECTION, name, name, State.THERE)
    if name == EVENTS and "clusteredIndex" not in options[name]:
        step.detail = "not clustered on _id, as a new one would be: each event costs one index more"
    return step


def _index_steps(
    collection: str, wanted: Iterable[IndexModel], there: Sequence[Mapping[str, Any]]
) -> list[Step]:
    steps = []
    for one in wanted:
        name = one.document["name"]
        state = State(index_state(one.document, there) or State.THERE)
        step = Step(What.INDEX, collection, name, state)
        if state is State.DIFFERENT:
            step.detail = (
                "has the name or the keys of evp's, and other options: drop it, then again"
            )
        steps.append(step)
    return steps


async def _sharding_steps(db: Database) -> list[Step]:
    """Return how what is large is sharded, or is to be."""
    try:
        keys = await shard_keys(db)
    except OperationFailure as error:
        if error.code != _UNAUTHORIZED:
            raise
        why = "this user may not read config.collections"
        return [Step(What.SHARDING, name, _HASHED, State.REFUSED, why) for name in SHARDED]
    return [_sharding_step(name, keys.get(name)) for name in SHARDED]


def _sharding_step(collection: str, key: Mapping[str, Any] | None) -> Step:
    if key is None:
        return Step(What.SHARDING, collection, _HASHED, State.MISSING)
    if key == SHARD_KEY:
        return Step(What.SHARDING, collection, _HASHED, State.THERE)
    why = "by ranges of _id, which begins with the time: one shard takes all that is new"
    return Step(What.SHARDING, collection, "_id", State.THERE, why)


async def _do(db: Database, step: Step) -> None:
    """Do a step; if the store refuses it, say so. Raises StoreUnavailable."""
    try:
        with told():
            if step.what is What.COLLECTION:
                await make_collection(db, step.collection)
            elif step.what is What.INDEX:
                await db[step.collection].create_indexes([_index(step)])
            else:
                await _shard(db, step.collection)
    except StoreUnavailable as error:
        code = getattr(error.__cause__, "code", None)
        if not was_refused(error) and code not in _ALSO_REFUSED:
            raise
        step.state, step.detail = State.REFUSED, str(error)
    else:
        step.state = State.MADE


def _index(step: Step) -> IndexModel:
    of_collection = (*INDEXES.get(step.collection, ()), _SHARD_INDEX)
    return next(one for one in of_collection if one.document["name"] == step.name)


async def _shard(db: Database, collection: str) -> None:
    """Spread a collection over the shards. Raises PyMongoError.

    Its hashed index is there: a collection that holds anything can't be sharded without.
    """
    try:
        await db.client.admin.command({"enableSharding": db.name})
    except OperationFailure as error:
        # Since MongoDB 6 there is no need for it, and some day there may be no such command.
        if error.code != _COMMAND_NOT_FOUND:
            raise
    namespace = f"{db.name}.{collection}"
    await db.client.admin.command({"shardCollection": namespace, "key": SHARD_KEY})
