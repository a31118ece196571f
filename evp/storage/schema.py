"""The store's collections, all of them. `ensure` makes what is missing.

| collection | `_id` | holds | indexes |
|---|---|---|---|
| `events` | UUID (`evp.identity`) | the events (`evp.documents`); clustered on `_id` | |
| `frames` | frame id | header, written before the events and never changed: `srv`, `seq`, `n`, `ids` (16 bytes each, in one binary), `bucket` (of 10 s, by the log's time), `entry`, `external` | `bucket` |
| `outcomes` | frame id | the account: `stored`, `duplicate`, `dead` (indexes), `cells`, `sources`, `first_ms`, `last_ms`, `accepted_at`, `settled_at`, `external`; `open` while it is judged again | |
| `rollups` | `<level>:<bucket>:<minute>` | sums over the frames of closed buckets | |
| `buckets` | start of 10 s, a date | which rollups are due: `dirty` and `done`, versions | |
| `dead_letters` | `<frame id>:<index>` or hash | what can't be stored: `event` or `payload`, `reason`, `detail`, `frame_id`, `index`, `event_id`, `attempts`, `first_at`, `last_at` | |
| `servers` | epoch | how far a server process got: `seq`, `events`, `first_at`, `seen_at` | |
| `workers` | `<group>/<name>` | what a worker does now, or did last: `group`, `name`, `host`, `pid`, `totals`, `stored_per_s`, `rss_bytes`, `seen_at` | |
| `groups` | group | the consumer groups there may be; a group is written here before it is made in the log, and leaves by `evp groups delete` alone | |
| `attempts` | `<frame id>:<first>:<last>` | `incarnations`: the workers that began to write these events of a frame | |
| `meta` | what it is | `writing_group`: the one group that writes to this database; `lease:<job>`: who does a job | |

The one index that every event pays for is `_id`; it deduplicates as well.
"""  # noqa: E501 - a table's row is one line

from __future__ import annotations

from typing import Any

from pymongo.errors import CollectionInvalid, OperationFailure, PyMongoError

from evp.storage.client import Database
from evp.storage.failures import unavailable

EVENTS = "events"
FRAMES = "frames"
OUTCOMES = "outcomes"
DEAD_LETTERS = "dead_letters"
SERVERS = "servers"
WORKERS = "workers"
ROLLUPS = "rollups"
BUCKETS = "buckets"
GROUPS = "groups"
ATTEMPTS = "attempts"
META = "meta"

ALL = (
    EVENTS,
    FRAMES,
    OUTCOMES,
    ROLLUPS,
    BUCKETS,
    DEAD_LETTERS,
    SERVERS,
    WORKERS,
    GROUPS,
    ATTEMPTS,
    META,
)

INDEXES = {FRAMES: ("bucket",)}
"""Fields with an index of their own, by collection. One for each frame costs little."""

_NAMESPACE_EXISTS = 48
_CLUSTERED = {"key": {"_id": 1}, "unique": True}


async def ensure(db: Database) -> None:
    """Create the collections and indexes that are missing; many processes may call it at once.

    Raises StoreUnavailable.
    """
    try:
        existing = set(await db.list_collection_names())
        for name in ALL:
            if name not in existing:
                await _create(db, name)
        for name, fields in INDEXES.items():
            for field in fields:
                await db[name].create_index(field)
    except PyMongoError as error:
        raise unavailable(error) from error


async def _create(db: Database, name: str) -> None:
    options: dict[str, Any] = {"clusteredIndex": _CLUSTERED} if name == EVENTS else {}
    try:
        await db.create_collection(name, **options)
    except CollectionInvalid:
        pass
    except OperationFailure as error:
        if error.code != _NAMESPACE_EXISTS:
            raise
