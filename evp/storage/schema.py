"""The store's collections, all of them. `ensure` makes what is missing.

| collection | `_id` | holds | indexes |
|---|---|---|---|
| `events` | UUID (`evp.identity`) | the events (`evp.documents`); clustered on `_id`. An erased one keeps `_id`, `frame_id`, `type`, `source`, `time` and has `erased_at` | |
| `frames` | frame id | header, written before the events and never changed while they are kept: `srv`, `seq`, `n`, `ids` (16 bytes each, in one binary), `bucket` (of 10 s, by the log's time), `entry`, `partition` (where it is not 0), `external`, `written_at`. Once its time of retention is over it is `expired`, and has no more `ids`, but as `lost` those of events that the log had lost | `bucket` |
| `outcomes` | frame id | the account: `stored`, `duplicate`, `dead` (indexes), `cells`, `sources`, `source_cells` (where several minutes), `first_ms`, `last_ms`, `accepted_at`, `settled_at`, `worker` (who wrote the events); `open` while it is judged again; `provisional`, `missing` (indexes) if made without the events; `judge_at`, `judged_at`: when it is, and was last changed by being, judged again | `judge_at` |
| `rollups` | `<level>:<bucket>:<at>` | events stored by `bucket` (of acceptance) and `at` (their own time): `stored`, `types`, `sources`; `version` of the bucket | `level` and `bucket`, `level` and `at` |
| `buckets` | `<level>:<start>`, milliseconds | which sums are due: `dirty` and `done`, versions, `fold_at` while they differ; `unsettled_at` asks for a sweep; `account`, the rest of the sums; `pruned` once its cells by the minute are gone, `prune_at` until then; `expire_from`, its start, while events of its frames are kept, `expired`, the version of which none are (`evp.storage.retention`) | `fold_at`, `unsettled_at`, `prune_at`, `expire_from`, `level` and `start` |
| `dead_letters` | `<frame id>:<index>` or hash | what can't be stored, and why (`evp.storage.dead_letters`); one that was purged stays without its payload, and has `purged_at` | `last_at`, `frame_id`, `event_id` |
| `dead_letter_parts` | `<letter id>/<n>` | `data`: a piece of a payload too large for its letter | |
| `servers` | epoch | how far a server process got: `seq`, `events`, `unknown` (events of the append of unknown outcome that ended it; with `seq` 0, of all those by which a process ended epochs that had nothing acknowledged), `first_at`, `seen_at`, `partition` where it is not 0 | `partition` |
| `workers` | `<group>/<name>`, in another partition than 0 `<group>/<name> p<partition>` | what a worker does now, or did last: `group`, `name`, `partition` (where there are several), `host`, `pid`, `totals`, `stored_per_s`, `rss_bytes`, `seen_at` | |
| `groups` | group | the consumer groups there may be; a group is written here before it is made in the log, and leaves by `evp groups delete` alone | |
| `attempts` | `<frame id>:<first>:<last>` | `incarnations`: the workers that began to write these events of a frame | |
| `acknowledged` | key of a finding | losses that were taken note of (`evp verify --acknowledge`): `kind`, `reason`, `at` | |
| `api_keys` | id of the key | `name`, `digest` (SHA-256), `scopes`, `rate_per_s`, `created_at`; `expires_at`, `revoked_at`, which only come sooner (`evp.api_keys`) | |
| `users` | name | the people who may look (`evp.storage.users`): `password` (its argon2id hash), `scopes`, `version`, `disabled`, `created_at`, `password_at` | |
| `refresh_tokens` | family | a login that goes on (`evp.storage.sessions`): `user`, `version`, `current` and `former` (SHA-256 of its tokens), `started_at`, `rotated_at`, `expires_at` | `user` and `started_at`, `expires_at` (removes what has expired) |
| `meta` | what it is | `writing_group`: the one group that writes to this database; `partitions`: how many streams there ever were (`evp.storage.partitions`); `lease:<job>`: who does a job; `buckets`: which are closed, and from when on minutes are kept, and how far old ones have a `prune_at`; `retention`: how far old buckets have an `expire_from`, and up to which one events were deleted; `acknowledged`: how many `events` are acknowledged as lost; `deleted_entries`: how many entries were deleted from the log before they were acked | |

The one index that every event pays for is `_id`; it deduplicates as well.
"""  # noqa: E501 - a table's row is one line

from __future__ import annotations

from typing import Any

from pymongo import IndexModel
from pymongo.errors import CollectionInvalid, OperationFailure

from evp import logs
from evp.errors import WrongShardKey
from evp.storage.client import Database
from evp.storage.failures import told

EVENTS = "events"
FRAMES = "frames"
OUTCOMES = "outcomes"
DEAD_LETTERS = "dead_letters"
DEAD_LETTER_PARTS = "dead_letter_parts"
SERVERS = "servers"
WORKERS = "workers"
ROLLUPS = "rollups"
BUCKETS = "buckets"
GROUPS = "groups"
ATTEMPTS = "attempts"
ACKNOWLEDGED = "acknowledged"
API_KEYS = "api_keys"
USERS = "users"
REFRESH_TOKENS = "refresh_tokens"
META = "meta"

ALL = (
    EVENTS,
    FRAMES,
    OUTCOMES,
    ROLLUPS,
    BUCKETS,
    DEAD_LETTERS,
    DEAD_LETTER_PARTS,
    SERVERS,
    WORKERS,
    GROUPS,
    ATTEMPTS,
    ACKNOWLEDGED,
    API_KEYS,
    USERS,
    REFRESH_TOKENS,
    META,
)

INDEXES = {
    FRAMES: (IndexModel("bucket"),),
    OUTCOMES: (IndexModel("judge_at", sparse=True),),
    ROLLUPS: (IndexModel(["level", "bucket"]), IndexModel(["level", "at"])),
    BUCKETS: (
        IndexModel("fold_at", sparse=True),
        IndexModel("unsettled_at", sparse=True),
        IndexModel("prune_at", sparse=True),
        IndexModel("expire_from", sparse=True),
        IndexModel(["level", "start"]),
    ),
    DEAD_LETTERS: (
        IndexModel("last_at"),
        IndexModel("frame_id", sparse=True),
        IndexModel("event_id", sparse=True),
    ),
    SERVERS: (IndexModel("partition", sparse=True),),
    REFRESH_TOKENS: (
        IndexModel(["user", "started_at"]),
        IndexModel("expires_at", expireAfterSeconds=0),
    ),
}
"""Indexes by collection. One for each frame costs little; sparse ones, nothing where absent."""

SHARDED = (EVENTS, FRAMES, OUTCOMES, DEAD_LETTERS, DEAD_LETTER_PARTS)
"""What grows with the events, and is spread over the shards of a cluster (`evp init`)."""

SHARD_KEY = {"_id": "hashed"}
"""The key they get. An `_id` then has one shard only, so it is unique in all of the cluster."""

_log = logs.get("evp.storage")
_NAMESPACE_EXISTS = 48
_UNAUTHORIZED = 13
_SHARD_KEYS = (SHARD_KEY, {"_id": 1})
_CLUSTERED = {"key": {"_id": 1}, "unique": True}


async def ensure(db: Database) -> None:
    """Create the collections and indexes that are missing; many processes may call it at once.

    Raises StoreUnavailable, and WrongShardKey if one of them is sharded by something
    else than `_id`: the same `_id` could then be stored once on each shard.
    """
    with told():
        await check_shard_keys(db)
        existing = set(await db.list_collection_names())
        for name in ALL:
            if name not in existing:
                await make_collection(db, name)
        for name, indexes in INDEXES.items():
            await db[name].create_indexes(list(indexes))


async def shard_keys(db: Database) -> dict[str, dict[str, Any]]:
    """Return by which keys evp's collections are sharded, those that are. Raises PyMongoError."""
    names = {f"{db.name}.{name}": name for name in ALL}
    rows = await db.client["config"]["collections"].find({"_id": {"$in": list(names)}}).to_list()
    # A collection that a cluster only keeps track of has a key as well, and is on one shard.
    found = [row for row in rows if row.get("key") and not row.get("unsplittable")]
    return {names[row["_id"]]: dict(row["key"]) for row in found}


async def wrongly_sharded(db: Database) -> str | None:
    """Return which collection is sharded by something else than `_id`, and what to do about it.

    Raises PyMongoError.
    """
    for name, key in (await shard_keys(db)).items():
        if key not in _SHARD_KEYS:
            return (
                f"{db.name}.{name} is sharded by {key}: the same _id could be stored once on each "
                'shard; shard a new collection by {"_id": "hashed"}'
            )
    return None


async def check_shard_keys(db: Database) -> None:
    """Raise WrongShardKey if a collection is sharded by something else than `_id`; PyMongoError."""
    try:
        wrong = await wrongly_sharded(db)
    except OperationFailure as error:
        if error.code != _UNAUTHORIZED:
            raise
        await _warn_behind_a_router(db)
        return
    if wrong is not None:
        raise WrongShardKey(wrong)


async def _warn_behind_a_router(db: Database) -> None:
    """Say that the shard keys could not be looked at; elsewhere there are none."""
    if (await db.client.admin.command("hello")).get("msg") == "isdbgrid":
        _log.warning(
            "by what collections are sharded is not known: this user may not read it, and another "
            "key than _id would let an event be stored twice; see docs/OPERATIONS.md",
            wanted="find on config.collections",
        )


async def make_collection(db: Database, name: str) -> None:
    """Create one of evp's collections, unless it is there. Raises PyMongoError."""
    options: dict[str, Any] = {"clusteredIndex": _CLUSTERED} if name == EVENTS else {}
    try:
        await db.create_collection(name, **options)
    except CollectionInvalid:
        pass
    except OperationFailure as error:
        if error.code != _NAMESPACE_EXISTS:
            raise
