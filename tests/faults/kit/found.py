"""What a fault run left in the store: documents, dead letters, evp's own account."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bson import Binary
from bson.binary import UUID_SUBTYPE
from pymongo import MongoClient
from pymongo.read_concern import ReadConcern

from evp.storage.lookup import ids_of, portions
from tests.faults.kit.checker import Counters
from tests.faults.kit.history import content_digest

STORE_S_MAX = 120.0
_PAGE = 10_000
_SCANNED_MAX = 1_000_000
_LETTERS_AT_ONCE = 50


class Found:
    """The store, read once everything has come to rest."""

    def __init__(self, url: str, database: str) -> None:
        self._client: MongoClient[dict[str, Any]] = MongoClient(
            url, serverSelectionTimeoutMS=int(STORE_S_MAX * 1000)
        )
        self._db = self._client.get_database(database, read_concern=ReadConcern("majority"))

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def count(self) -> int:
        """Return how many documents there are."""
        return self._db["events"].count_documents({})

    def documents(self) -> Iterator[tuple[str, bytes]]:
        """Return id and digest of every document, as often as it is there.

        Raises ValueError if there are more than frames know, where there are so many that
        they are looked up by the ids of frames: the embedded store holds a whole answer in
        memory.
        """
        wanted = {"_id": 0, "id": 1, "type": 1, "subject": 1, "data": 1}
        events, count, found = self._db["events"], self.count(), 0
        which = [{}] if count <= _SCANNED_MAX else self._portions()
        for one in (document for query in which for document in events.find(query, wanted)):
            found += 1
            yield one["id"], content_digest(one["type"], one["subject"], one["data"])
        if found != count:
            raise ValueError(f"{count:,} documents, and {found:,} were found by their frames")

    def _portions(self) -> Iterator[dict[str, Any]]:
        """Give queries for the events of all frames, each id once."""
        seen: set[bytes] = set()
        for frame in self._db["frames"].find({}, {"ids": 1}).batch_size(_PAGE):
            fresh = [one for one in dict.fromkeys(ids_of(frame["ids"])) if one not in seen]
            seen.update(fresh)
            for portion in portions(fresh):
                yield {"_id": {"$in": [Binary(one, UUID_SUBTYPE) for one in portion]}}

    def letters(self) -> list[tuple[str, str]]:
        """Return id and reason of the dead letters that count: their outcome lists their index."""
        letters = list(self._db["dead_letters"].find({}))
        frame_ids = list({one["frame_id"] for one in letters if "frame_id" in one})
        dead = {}
        for start in range(0, len(frame_ids), _LETTERS_AT_ONCE):
            portion = frame_ids[start : start + _LETTERS_AT_ONCE]
            for outcome in self._db["outcomes"].find({"_id": {"$in": portion}}):
                dead[outcome["_id"]] = outcome["dead"]
        return [
            (str(one.get("event", {}).get("id", one["_id"])), str(one["reason"]))
            for one in letters
            if one.get("index") in dead.get(one.get("frame_id"), ())
        ]

    def counters(self, accepted: int | None) -> Counters:
        """Return evp's own account; `accepted` is what the log counted."""
        counters = Counters(0, 0, 0, 0, accepted)
        wanted = {"stored": 1, "duplicate": 1, "dead": 1}
        for one in self._db["outcomes"].find({}, wanted).batch_size(_PAGE):
            counters.stored += one["stored"]
            counters.duplicate += one["duplicate"]
            counters.dead += len(one["dead"])
        for frame in self._db["frames"].find({}, {"n": 1}).batch_size(_PAGE):
            counters.in_frames += frame["n"]
        return counters
