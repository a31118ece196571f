"""Checks of the store: what of evp's is missing there, and what it promises; their mends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import parse_qsl, urlsplit

from evp.doctor.deployment import Deployment
from evp.doctor.findings import ERROR, NOTE, WARNING, Finding, listed
from evp.settings import PRODUCTION
from evp.storage import schema
from evp.storage.failures import told
from evp.storage.inspection import hello, is_persistent

_ENOUGH = {
    "w": {"majority"},
    "journal": {"true"},
    "j": {"true"},
    "readpreference": {"primary"},
    "readconcernlevel": {"majority", "linearizable"},
}
"""Options of the store's address, and the values that promise as much as evp asks for itself."""


async def collections_missing(at: Deployment) -> list[Finding]:
    """Look whether a collection of evp's is not there."""
    return _missing("collections", (await at.schema()).collections, "They are made by")


async def indexes_missing(at: Deployment) -> list[Finding]:
    """Look whether an index of evp's is not there."""
    gaps = await at.schema()
    names = [
        f"{collection}.{name}"
        for collection, name in gaps.missing
        if collection not in gaps.collections
    ]
    return _missing("indexes", names, "Questions get slower with each event. They are made by")


def _missing(what: str, names: Sequence[str], meaning: str) -> list[Finding]:
    if not names:
        return []
    return [
        Finding(
            severity=WARNING,
            what=f"{what} are missing: {listed(names)}",
            meaning=f"{meaning} the first worker, and by each one that starts.",
            mend="Start a worker; or make them now.",
            command="evp doctor --fix",
            fixable=True,
        )
    ]


async def make_missing(at: Deployment, _found: Sequence[Finding]) -> list[str]:
    """Make what is missing, as workers do. Raises StoreUnavailable and WrongShardKey."""
    before = await at.schema()
    await schema.ensure(at.db)
    done = [f"made collection {name}" for name in before.collections]
    done += [f"made index {name} of {collection}" for collection, name in before.missing]
    return done


async def index_different(at: Deployment) -> list[Finding]:
    """Look whether an index has the name or the keys of one of evp's, and other options."""
    return [
        Finding(
            severity=ERROR,
            what=f"index {name} of {collection} is not as evp makes it",
            meaning="A worker that starts can't make its own, so it waits and stores nothing.",
            mend="Drop it, in a quiet hour if the collection is large; then run this again.",
            command=at.mongosh(f"db.{collection}.dropIndex({json.dumps(name)})"),
        )
        for collection, name in (await at.schema()).different
    ]


async def wrongly_sharded(at: Deployment) -> list[Finding]:
    """Look whether a collection is sharded by something else than `_id`."""
    with told():
        wrong = await schema.wrongly_sharded(at.db)
    if wrong is None:
        return []
    return [
        Finding(
            severity=ERROR,
            what=wrong.partition(";")[0],
            meaning="An event, or an outcome, may then be there twice: workers don't start.",
            mend="Shard a new collection by hashed _id, and copy what there is.",
            command=at.mongosh("sh.status()"),
        )
    ]


async def weak_address(at: Deployment) -> list[Finding]:
    """Look whether the store's address asks for less than evp needs, which evp does not go by."""
    options = parse_qsl(urlsplit(at.settings.mongo_url).query)
    weak = [
        f"{name}={value}"
        for name, value in options
        if value.lower() not in _ENOUGH.get(name.lower(), {value.lower()})
    ]
    if not weak:
        return []
    return [
        Finding(
            severity=NOTE,
            what=f"EVP_MONGO_URL says {', '.join(weak)}",
            meaning="evp does not go by it: it writes with majority and journal, and reads from "
            "the primary. Another program with this address may lose what it wrote.",
            mend="Leave it out, so that nobody is misled.",
        )
    ]


async def store_forgets(at: Deployment) -> list[Finding]:
    """Look whether the store keeps everything in memory."""
    if await is_persistent(at.db):
        return []
    return [
        Finding(
            severity=ERROR,
            what="the store keeps everything in memory (its storage engine is not persistent)",
            meaning="What is stored is gone when it restarts, and the log has let go of it then.",
            mend="Use a store that keeps a journal on disk.",
        )
    ]


async def store_alone(at: Deployment) -> list[Finding]:
    """Look whether the store of a production deployment is one server."""
    _, is_alone = await hello(at.db)
    if not is_alone or at.settings.env != PRODUCTION:
        return []
    return [
        Finding(
            severity=NOTE,
            what="the store is one server, not a replica set",
            meaning="Its journal survives a crash; if its disk is lost, so is everything stored.",
            mend="Make it a replica set of three.",
        )
    ]
