"""The sweep: frames that no worker will judge any more, or not rightly, are judged again.

From ids, documents and dead letters, without the events themselves:

- outcomes that are open: whoever opened one died before writing it anew;
- provisional ones: a worker that hung may yet have stored what was missing;
- ones with dead letters: another worker, or a replay, may have stored the event;
- frames without an outcome whose entry the log has lost.

The first three have a date, `judge_at`, until nothing about them has changed for a
week. The last are looked for in buckets that a fold could not sum up. Any number of
sweeps may run at once.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from bson import ObjectId
from msgspec import Struct
from pymongo.errors import DuplicateKeyError

from evp.batch.outcome import ERASED, Held, Outcome, judge_by_ids
from evp.batch.raw import AS_IT_IS
from evp.clock import from_ms, now_ms, to_ms
from evp.errors import StoreUnavailable
from evp.frame import entry_ms
from evp.limits import SWEEP_BUCKETS_MAX, SWEEP_ENTRIES_MAX, SWEEP_FRAMES_MAX
from evp.storage.buckets import bucket_of, mark
from evp.storage.client import Database, Document
from evp.storage.failures import told
from evp.storage.lookup import ids_of, portions, stored_events
from evp.storage.schema import BUCKETS, DEAD_LETTERS, FRAMES, OUTCOMES
from evp.storage.settle import document_of, is_final, judge_at, replace


class Sought(NamedTuple):
    """A frame that the log may still have: in which partition, as which entry."""

    partition: int
    entry_id: str
    frame_id: bytes


InLog = Callable[[Sequence[Sought]], Awaitable[set[bytes]]]
"""Tells which of these frames the log still has, or may have: what it can't be asked about."""

_ATTEMPTS_MAX = 5
_COUNTED = ("frame_id", "type", "source", "time", ERASED)
"""The fields of an event that make it count; the others matter only beside a dead letter."""


class Swept(Struct):
    """What one sweep did. `more` is true if it left something that is due."""

    judged: int
    changed: int
    more: bool


async def sweep(db: Database, in_log: InLog) -> Swept:
    """Judge the frames that are due, about SWEEP_FRAMES_MAX of each kind.

    Raises StoreUnavailable and whatever `in_log` raises; then some are judged,
    and the rest are due again.
    """
    at = from_ms(now_ms())
    with told():
        due = db[OUTCOMES].find({"judge_at": {"$lte": at}}, {"_id": 1}).sort("judge_at")
        frame_ids = [row["_id"] for row in await due.limit(SWEEP_FRAMES_MAX + 1).to_list()]
        asked = db[BUCKETS].find({"unsettled_at": {"$lte": at}}).sort("unsettled_at")
        buckets = await asked.limit(SWEEP_BUCKETS_MAX + 1).to_list()
    more = len(frame_ids) > SWEEP_FRAMES_MAX or len(buckets) > SWEEP_BUCKETS_MAX
    frame_ids = frame_ids[:SWEEP_FRAMES_MAX]
    for bucket in buckets[:SWEEP_BUCKETS_MAX]:
        lost = await _lost(db, in_log, bucket)
        if lost:
            # The rest of them, and other buckets, next time.
            frame_ids += lost[:SWEEP_FRAMES_MAX]
            more = True
            break
        await _looked_into(db, bucket)
    return Swept(len(frame_ids), len(await judge_again(db, frame_ids)), more)


async def judge_again(db: Database, frame_ids: Iterable[ObjectId]) -> set[ObjectId]:
    """Judge frames by what the store has of them now; return those whose outcome changed.

    An outcome that was final stays final, and is only replaced if nothing of the
    frame is missing; so does one that was final until somebody opened it. Any other
    one becomes provisional. A frame without a header is left alone. Raises
    StoreUnavailable; calling again is safe.
    """
    changed: set[ObjectId] = set()
    with told():
        for frame_id in frame_ids:
            for _ in range(_ATTEMPTS_MAX):
                is_changed = await _judge_one(db, frame_id)
                if is_changed is not None:
                    break
            else:
                raise StoreUnavailable(f"frame {frame_id}: others keep changing its outcome")
            if is_changed:
                changed.add(frame_id)
    return changed


async def _judge_one(db: Database, frame_id: ObjectId) -> bool | None:
    """Judge one frame; True if its outcome changed, None if somebody else changed it meanwhile."""
    header = await db[FRAMES].find_one({"_id": frame_id})
    if header is None:
        return False
    if header.get("expired"):
        # What it held is deleted; the account stays as it was last settled.
        await db[OUTCOMES].update_one({"_id": frame_id}, {"$unset": {"judge_at": "", "open": ""}})
        return False
    there: Document | None = await db[OUTCOMES].find_one({"_id": frame_id})
    was_final = there is not None and is_final(there)
    if there is not None and was_final and not there["dead"]:
        return False
    outcome = await _judge(db, _held(header), there)
    if there is None:
        return await _insert(db, outcome)
    nothing_new = (
        was_final and (outcome.missing or outcome.dead == there["dead"])
    ) or _same_account(there, outcome)
    if nothing_new and not there.get("open"):
        await _judge_later(db, there)
        return False
    return await replace(db, there, outcome) or None


async def _judge_later(db: Database, there: Mapping[str, Any]) -> None:
    """Put off an outcome that stays as it is, or leave it alone from now on."""
    since: datetime = there.get("judged_at") or there["settled_at"]
    at = judge_at(to_ms(since))
    seen = {"_id": there["_id"], "judge_at": there.get("judge_at")}
    later = {"$unset": {"judge_at": ""}} if at is None else {"$set": {"judge_at": at}}
    await db[OUTCOMES].update_one(seen, later)


async def _judge(db: Database, held: Held, there: Document | None) -> Outcome:
    """Return a frame's outcome by what the store has now."""
    listed = None if there is None else set(there["dead"])
    kept = db.get_collection(DEAD_LETTERS, codec_options=AS_IT_IS)
    by_frame = kept.find({"frame_id": held.frame_id})
    letters = {letter["index"]: letter for letter in await by_frame.to_list()}
    with_events = there is not None and not there.get("provisional")
    if listed is not None and not with_events:
        # A worker that hung may have written letters since.
        listed.update(letters)
    compared = {held.ids[index] for index in {*letters, *(listed or ())}}
    found = await stored_events(db, compared, None)
    outcome = judge_by_ids(held, found, letters, listed)
    is_open = there is not None and bool(there.get("open"))
    if not with_events or is_open or (there and outcome.dead != there["dead"]):
        # A final outcome changes only by its dead; they alone are looked up most of the time.
        found |= await stored_events(db, set(held.ids) - compared, _COUNTED)
        outcome = judge_by_ids(held, found, letters, listed)
    # Who meets what another one is about to replace has the same facts, and may end it for good.
    outcome.provisional = not with_events or (is_open and bool(outcome.missing))
    return outcome


async def _insert(db: Database, outcome: Outcome) -> bool | None:
    """Write a frame's first outcome; None if somebody else was quicker."""
    # The worker that wrote the header may have died before it did this.
    await mark(db, [bucket_of(outcome.accepted_ms)])
    try:
        await db[OUTCOMES].insert_one(document_of(outcome))
    except DuplicateKeyError:
        return None
    return True


async def _lost(db: Database, in_log: InLog, bucket: Mapping[str, Any]) -> list[ObjectId]:
    """Return frames of a bucket that have no outcome and will get none: the log lost them."""
    fields = {"entry": 1, "partition": 1}
    with told():
        rows = await db[FRAMES].find({"bucket": bucket["start"]}, fields).to_list()
        judged: set[ObjectId] = set()
        for portion in portions([row["_id"] for row in rows]):
            outcomes = db[OUTCOMES].find({"_id": {"$in": portion}}, {"_id": 1})
            judged.update(row["_id"] for row in await outcomes.to_list())
    sought = [
        Sought(row.get("partition", 0), row["entry"], row["_id"].binary)
        for row in rows
        if row["_id"] not in judged
    ]
    if len(sought) > SWEEP_ENTRIES_MAX:
        # At random: whichever come first may be those that the log has.
        sought = random.sample(sought, SWEEP_ENTRIES_MAX)
    kept = await in_log(sought) if sought else set()
    return [ObjectId(one.frame_id) for one in sought if one.frame_id not in kept]


async def _looked_into(db: Database, bucket: Mapping[str, Any]) -> None:
    """Note that a bucket was looked into; a fold asks again while it can't be summed up."""
    asked = {"_id": bucket["_id"], "unsettled_at": bucket["unsettled_at"]}
    with told():
        await db[BUCKETS].update_one(asked, {"$unset": {"unsettled_at": ""}})


def _held(header: Mapping[str, Any]) -> Held:
    return Held(
        header["_id"],
        ids_of(bytes(header["ids"])),
        entry_ms(header["entry"]),
        external=bool(header.get("external")),
    )


def _same_account(there: Mapping[str, Any], outcome: Outcome) -> bool:
    """Return True if an outcome says what stands in the store already."""
    return (
        (there["stored"], there["duplicate"], there["dead"], there.get("missing", []))
        == (outcome.stored, outcome.duplicate, outcome.dead, outcome.missing)
    ) and sorted(map(tuple, there["cells"])) == sorted(outcome.summary.cells)
