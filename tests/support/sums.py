"""Folding to the end, sweeping at once, and counting what stands in the store by looking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from evp.batch.outcome import ERASED
from evp.clock import from_ms, now, now_ms, to_ms
from evp.frame import MINUTE_MS
from evp.storage import schema
from evp.storage.client import Database
from evp.storage.metrics import Kept, Metrics, metrics_with
from evp.storage.minutes import Minutes
from evp.storage.prune import prune
from evp.storage.rollups import fold
from evp.storage.sweep import InLog, Sought, Swept, sweep
from evp.storage.tail import TailReader

FOLDS_MAX = 60
SWEEPS_MAX = 20
PRUNES_MAX = 50
_FAR_MS = 4_000_000_000_000


async def fold_all(db: Database) -> None:
    """Fold, as time goes by, until nothing is due; fail if that never comes."""
    at_ms = now_ms()
    for _ in range(FOLDS_MAX):
        await fold(db, at_ms)
        if await db[schema.BUCKETS].find_one({"fold_at": {"$gte": from_ms(0)}}) is None:
            return
        at_ms += 60 * MINUTE_MS
    raise AssertionError("some bucket is never done")


async def sweep_all(
    db: Database, in_log: Sequence[bytes] = (), still_have: InLog | None = None
) -> list[Swept]:
    """Sweep all that is due, and what will be; `in_log` are frame ids that the log has.

    Or `still_have` tells.
    """

    async def has(sought: Sequence[Sought]) -> set[bytes]:
        return {one.frame_id for one in sought} & set(in_log)

    for collection, field in (
        (schema.OUTCOMES, "judge_at"),
        (schema.BUCKETS, "unsettled_at"),
        (schema.BUCKETS, "fold_at"),
    ):
        there = {field: {"$exists": True}}
        await db[collection].update_many(there, {"$set": {field: from_ms(0)}})
    await fold(db, now_ms())
    swept = []
    for _ in range(SWEEPS_MAX):
        swept.append(await sweep(db, still_have or has))
        if not swept[-1].more:
            return swept
    raise AssertionError("a sweep always leaves something")


async def erase(db: Database, id_: Any) -> None:
    """Replace a document by what is left of an erased event."""
    there = await db[schema.EVENTS].find_one({"_id": id_})
    assert there is not None
    kept = {name: there[name] for name in ("_id", "frame_id", "type", "source", "time")}
    await db[schema.EVENTS].replace_one({"_id": id_}, kept | {ERASED: now()})


Counts = dict[tuple[int, str], int]


async def counted(db: Database, step_ms: int, name: str) -> Counts:
    """Return how many events stand in the store by step and `name`, type or source."""
    found = await db[schema.EVENTS].find().to_list()
    return dict(Counter((to_ms(one["time"]) // step_ms * step_ms, one[name]) for one in found))


def by_step(found: Metrics, names: str) -> Counts:
    """Return metrics by step and `names`, types or sources, in the form of `counted`."""
    return {
        (point.start_ms, name): count
        for point in found.series
        for name, count in getattr(point, names).items()
    }


async def check_sums(db: Database, *, minutes: bool = True, kept: Minutes | None = None) -> Metrics:
    """Check that metrics say of every minute, hour and day what stands in the store.

    `kept` is what somebody had at hand who has asked before.
    """
    await _check_steps(db, 24 * 60 * MINUTE_MS)
    found = await _check_steps(db, 60 * MINUTE_MS)
    if not minutes:
        return found
    await _check_steps(db, MINUTE_MS, kept)
    return await _check_steps(db, MINUTE_MS)


async def prune_all(db: Database) -> None:
    """Prune, as time goes by, until nothing is due but what is still needed, or young."""
    await prune(db, now_ms())
    await prune_later(db)
    for _ in range(PRUNES_MAX):
        if not await prune(db, now_ms()):
            return
    raise AssertionError("pruning does not come to an end")


async def prune_later(db: Database) -> None:
    """Let time go by, so that what may be pruned one day, or was put off, is due."""
    there = {"prune_at": {"$exists": True}}
    await db[schema.BUCKETS].update_many(there, {"$set": {"prune_at": from_ms(0)}})


async def _check_steps(db: Database, step_ms: int, minutes: Minutes | None = None) -> Metrics:
    kept = Kept(await TailReader(db).read(), minutes or Minutes())
    found = await metrics_with(db, kept, 0, _FAR_MS, step_ms)
    assert by_step(found, "types") == await counted(db, step_ms, "type")
    assert by_step(found, "sources") == await counted(db, step_ms, "source")
    assert found.stored == found.types.total() == found.sources.total() == found.accepted.stored
    return found
