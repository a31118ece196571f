"""Going through the dead letters, newest first, a page at a time; taking them out.

A letter counts only while the settled outcome of its frame lists its index; its
`state` says so. One that was written before a worker died, and whose event was
stored afterwards, says nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from bson import Binary, ObjectId
from bson.binary import UUID_SUBTYPE
from msgspec import Struct

from evp.batch.raw import AS_IT_IS
from evp.clock import MS_MAX, from_ms, now, now_ms, to_ms
from evp.fingerprint import fingerprint
from evp.identity import canonical
from evp.limits import DEAD_LETTERS_BYTES_TARGET, DEAD_LETTERS_PAGE_MAX, LOOKUP_IDS_MAX
from evp.storage.client import Database, Document
from evp.storage.failures import Failure, told
from evp.storage.lookup import portions
from evp.storage.schema import DEAD_LETTER_PARTS, DEAD_LETTERS, OUTCOMES

DEAD = "dead"
SETTLING = "settling"
REOPENED = "reopened"
PROVISIONAL = "provisional"
DELIVERED = "delivered"
PURGED = "purged"
STATES = {
    DEAD: "its event is not stored",
    SETTLING: "its frame is not settled: a worker, or the sweep, will say",
    REOPENED: "its frame is judged again, or whoever began to has died: a replay ends it",
    PROVISIONAL: "its frame was judged before this letter was written: replay or sweep will say",
    DELIVERED: "its event is stored after all: the letter says nothing any more",
    PURGED: "it was given up for good",
}

_NEWEST_MS = 1_000
_NARROWER = 16
_UNREAD = {"event": 0, "payload": 0}
_LISTING = ("dead", "open", "missing")


class Filters(Struct, frozen=True, kw_only=True):
    """Which letters; by default all. `since` and `until` bound when they were last refused.

    `error` is a `fingerprint`: those that died alike. `after` is an id: of those refused in the
    last millisecond before `until` only what a walk gives after it.
    """

    reason: str | None = None
    error: str | None = None
    type: str | None = None
    source: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    after: str | None = None
    frame_id: str | None = None
    ids: tuple[str, ...] = ()


class Letter(Struct):
    """A dead letter without its payload. An entry's has no frame, index and event."""

    id: str
    state: str
    reason: str
    detail: str
    error: str
    stream: str
    group: str
    entry: str
    attempts: int
    first_at: datetime
    last_at: datetime
    payload_bytes: int
    payload_sha256: str = ""
    type: str | None = None
    source: str | None = None
    frame_id: str | None = None
    index: int | None = None
    event_id: str | None = None
    parts: int = 0
    purged_at: datetime | None = None


class Reached(Struct):
    """How far a walk by time got: with these in the filters another one goes on there."""

    until: datetime
    after: str | None = None

    def note(self, last_at: datetime, letter_id: str) -> None:
        """Take note that this letter, and all before it, are done with."""
        self.until, self.after = last_at + timedelta(milliseconds=1), letter_id


class Body(Struct):
    """What was kept of a letter's event, a document, or of its entry, `plain.payload_of` it."""

    raw: bytes
    is_document: bool = False

    def is_whole(self, letter: Letter) -> bool:
        """Return True if it is all that was received, and as it was."""
        return self.is_document or sha256(self.raw).hexdigest() == letter.payload_sha256


async def walk(
    db: Database, filters: Filters, states: Collection[str], reached: Reached | None = None
) -> AsyncIterator[list[Letter]]:
    """Give the letters that are wanted and in one of `states`. Raises StoreUnavailable.

    `reached` is told of all that were passed, also where few of many are wanted.
    """
    with told():
        async for rows in _rows(db, filters):
            wanted = [
                row for row in rows if _died_so(row, filters.error) and not _was_given(row, filters)
            ]
            letters = await _letters(db, wanted)
            yield [one for one in letters if one.state in states]
            if reached is not None and rows:
                reached.note(rows[-1]["last_at"], rows[-1]["_id"])


async def look_again(db: Database, letters: Sequence[Letter]) -> dict[str, str]:
    """Return the states of letters now, by id. Raises StoreUnavailable."""
    ids = tuple(one.id for one in letters)
    found = [page async for page in walk(db, Filters(ids=ids), STATES)]
    return {one.id: one.state for page in found for one in page}


async def letters_of(db: Database, event_id: bytes, most: int) -> list[Letter]:
    """Return up to `most` letters of events with this id, which may be several events.

    Raises StoreUnavailable.
    """
    with told():
        query = {"event_id": {"$eq": Binary(event_id, UUID_SUBTYPE)}}
        rows = await db[DEAD_LETTERS].find(query, _UNREAD).limit(most).to_list()
        return await _letters(db, sorted(rows, key=_age))


async def letters_of_entry(db: Database, stream: str, entry_id: str, most: int) -> list[Letter]:
    """Return up to `most` letters of an entry that was no frame; there is no index for them.

    Raises StoreUnavailable.
    """
    with told():
        query = {
            "stream": {"$eq": stream},
            "entry": {"$eq": entry_id},
            "frame_id": {"$exists": False},
        }
        rows = await db[DEAD_LETTERS].find(query, _UNREAD).limit(most).to_list()
        return await _letters(db, sorted(rows, key=_age))


def portions_of(letters: Sequence[Letter], most: float | None = None) -> Iterator[list[Letter]]:
    """Give letters in portions whose payloads can be held at once, at most `most` in each."""
    letters_max = max(1, min(LOOKUP_IDS_MAX, int(most or LOOKUP_IDS_MAX)))
    portion: list[Letter] = []
    size_bytes = 0
    for letter in letters:
        full = size_bytes + letter.payload_bytes > DEAD_LETTERS_BYTES_TARGET
        if portion and (full or len(portion) == letters_max):
            yield portion
            portion, size_bytes = [], 0
        portion.append(letter)
        size_bytes += letter.payload_bytes
    if portion:
        yield portion


async def bodies(db: Database, letters: Sequence[Letter]) -> dict[str, Body]:
    """Return what was kept of events and entries, by letter id. Raises StoreUnavailable."""
    held = db.get_collection(DEAD_LETTERS, codec_options=AS_IT_IS)
    found: dict[str, Body] = {}
    with told():
        for ids in portions([one.id for one in letters if not one.parts]):
            for row in await held.find({"_id": {"$in": ids}}).to_list():
                if "event" in row:
                    found[row["_id"]] = Body(bytes(row["event"].raw), is_document=True)
                elif "payload" in row:
                    found[row["_id"]] = Body(bytes(row["payload"]))
        for one in letters:
            if one.parts:
                found[one.id] = Body(b"".join(await _parts(db, one)))
    return found


async def refuse_again(db: Database, letter: Letter, failure: Failure) -> None:
    """Write down that a letter's event was refused once more. Raises StoreUnavailable."""
    said = {"reason": failure.reason, "detail": failure.detail, "error": failure.error}
    change = {"$set": said | {"last_at": now()}, "$inc": {"attempts": 1}}
    with told():
        await db[DEAD_LETTERS].update_one({"_id": letter.id}, change)


async def remove(db: Database, letters: Iterable[Letter]) -> None:
    """Remove letters whose events are stored. Raises StoreUnavailable; calling again is safe."""
    gone = list(letters)
    with told():
        await _remove_parts(db, gone)
        for ids in portions([one.id for one in gone]):
            await db[DEAD_LETTERS].delete_many({"_id": {"$in": ids}})


async def purge(db: Database, letters: Iterable[Letter]) -> None:
    """Remove payloads for good; the letters stay, so that their events are accounted for.

    Raises StoreUnavailable; calling again is safe.
    """
    gone = list(letters)
    change = {
        "$set": {"purged_at": now(), "detail": ""},
        "$unset": dict.fromkeys(("event", "payload", "parts", "payload_sha256"), ""),
    }
    with told():
        await _remove_parts(db, gone)
        for ids in portions([one.id for one in gone]):
            await db[DEAD_LETTERS].update_many({"_id": {"$in": ids}}, change)


async def _rows(db: Database, filters: Filters) -> AsyncIterator[list[Document]]:
    query: Document = {
        name: wanted
        for name in ("reason", "type", "source")
        if (wanted := getattr(filters, name)) is not None
    }
    if filters.frame_id is not None:
        query["frame_id"] = ObjectId(filters.frame_id)
    if not filters.ids and filters.frame_id is None:
        async for rows in _by_time(db, query, filters.since, filters.until):
            yield rows
        return
    bounds = {"$gte": filters.since, "$lt": filters.until}
    span = {name: bound for name, bound in bounds.items() if bound is not None}
    if span:
        query["last_at"] = span
    if not filters.ids:
        yield await db[DEAD_LETTERS].find(query, _UNREAD).to_list()
    for ids in portions(filters.ids):
        yield await db[DEAD_LETTERS].find(query | {"_id": {"$in": ids}}, _UNREAD).to_list()


async def _by_time(
    db: Database, query: Document, since: datetime | None, until: datetime | None
) -> AsyncIterator[list[Document]]:
    """Give the letters of a span, newest first.

    Each question is for a narrow piece of the index: one embedded store goes
    through all of the piece, however few letters are asked for.
    """
    low_ms = to_ms(since) if since else 0
    high_ms = to_ms(until) if until else MS_MAX
    # Clocks of other machines may be ahead of this one's.
    turn_ms = max(low_ms, min(high_ms, now_ms() - _NEWEST_MS))
    async for rows in _by_pieces(db, query, turn_ms, high_ms, high_ms - turn_ms):
        yield rows
    async for rows in _by_pieces(db, query, low_ms, turn_ms, _NEWEST_MS):
        yield rows


async def _by_pieces(
    db: Database, query: Document, low_ms: int, high_ms: int, piece_ms: int
) -> AsyncIterator[list[Document]]:
    """Give the letters of a span by pieces of it, narrower ones where there are many."""
    end_ms = high_ms
    while end_ms > low_ms:
        start_ms = max(low_ms, end_ms - piece_ms)
        span = {"last_at": {"$gte": from_ms(start_ms), "$lt": from_ms(end_ms)}}
        # A millisecond can't be halved, and can't hold many.
        most = DEAD_LETTERS_PAGE_MAX + 1 if end_ms - start_ms > 1 else 0
        rows = await db[DEAD_LETTERS].find(query | span, _UNREAD).limit(most).to_list()
        if 0 < most <= len(rows):
            piece_ms = max(1, (end_ms - start_ms) // _NARROWER)
            continue
        if rows:
            yield sorted(rows, key=_age)
        end_ms = start_ms
        if len(rows) < DEAD_LETTERS_PAGE_MAX // 4:
            piece_ms *= 2


def _died_so(row: Document, error: str | None) -> bool:
    return error is None or fingerprint(row["reason"], row["error"], row["detail"]) == error


def _was_given(row: Document, filters: Filters) -> bool:
    if filters.until is None or filters.after is None:
        return False
    return to_ms(row["last_at"]) == to_ms(filters.until) - 1 and row["_id"] <= filters.after


def _age(row: Document) -> tuple[float, str]:
    return -row["last_at"].timestamp(), row["_id"]


async def _letters(db: Database, rows: Sequence[Document]) -> list[Letter]:
    frame_ids = {row["frame_id"] for row in rows if "frame_id" in row}
    outcomes: dict[ObjectId, dict[int, str] | None] = {}
    for ids in portions(sorted(frame_ids)):
        for outcome in await db[OUTCOMES].find({"_id": {"$in": ids}}, _LISTING).to_list():
            outcomes[outcome["_id"]] = None if outcome.get("open") else _listed(outcome)
    return [_letter(row, _state(row, outcomes)) for row in rows]


def _listed(outcome: Document) -> dict[int, str]:
    """Return the states of letters by index; those that an outcome doesn't list are delivered."""
    missing = dict.fromkeys(outcome.get("missing", ()), PROVISIONAL)
    return missing | dict.fromkeys(outcome["dead"], DEAD)


def _state(row: Document, outcomes: Mapping[ObjectId, dict[int, str] | None]) -> str:
    """Return a letter's state; `outcomes` have what `_listed` returned, None if one is open."""
    if "purged_at" in row:
        return PURGED
    if "frame_id" not in row:
        return DEAD
    if row["frame_id"] not in outcomes:
        return SETTLING
    listed = outcomes[row["frame_id"]]
    if listed is None:
        return REOPENED
    return listed.get(row["index"], DELIVERED)


def _letter(row: Document, state: str) -> Letter:
    given: dict[str, Any] = {
        name: row[name] for name in Letter.__struct_fields__ if name in row and name != "id"
    }
    if "frame_id" in row:
        given |= {"frame_id": str(row["frame_id"]), "event_id": canonical(row["event_id"])}
    return Letter(id=row["_id"], state=state, **given)


async def _parts(db: Database, letter: Letter) -> list[bytes]:
    ids = _part_ids(letter)
    rows = await db[DEAD_LETTER_PARTS].find({"_id": {"$in": ids}}).to_list()
    by_id = {row["_id"]: bytes(row["data"]) for row in rows}
    return [by_id.get(one, b"") for one in ids]


async def _remove_parts(db: Database, letters: Iterable[Letter]) -> None:
    for letter in letters:
        if letter.parts:
            await db[DEAD_LETTER_PARTS].delete_many({"_id": {"$in": _part_ids(letter)}})


def _part_ids(letter: Letter) -> list[str]:
    return [f"{letter.id}/{number}" for number in range(letter.parts)]
