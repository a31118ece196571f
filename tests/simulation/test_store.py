"""The simulated store does as a real one: the same writes and questions are put to both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from bson import Binary
from pymongo import ReplaceOne, UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError

from evp.storage.client import Database
from tests.simulation.faults import Chances, Weather
from tests.simulation.store import SimulatedDatabase, SimulatedStore

_STEPS = 80
_AT = datetime(2026, 1, 2, tzinfo=UTC)


class Drawn:
    """Documents, queries and updates of the kinds that evp has."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance

    def id(self) -> Any:
        """Return an `_id`: few, so that they meet."""
        number = self._chance.randrange(6)
        return self._chance.choice((f"d{number}", Binary(bytes([number]) * 16, 4)))

    def value(self) -> Any:
        """Return a value."""
        chance = self._chance
        some = chance.choice(("number", "moment", "list", "text", "null"))
        if some == "number":
            return chance.randrange(5)
        if some == "moment":
            return _AT + timedelta(seconds=chance.randrange(5))
        if some == "list":
            return [chance.randrange(3) for _ in range(chance.randrange(3))]
        return None if some == "null" else chance.choice(("x", "y"))

    def document(self) -> dict[str, Any]:
        """Return a document."""
        fields = {name: self.value() for name in ("a", "b") if self._chance.random() < 0.7}
        return {"_id": self.id(), "n": self._chance.randrange(5), **fields}

    def query(self) -> dict[str, Any]:
        """Return a query."""
        chance = self._chance
        moment = _AT + timedelta(seconds=chance.randrange(5))
        name = chance.choice(("a", "b"))
        made: list[dict[str, Any]] = [
            {},
            {"_id": self.id()},
            {"_id": {"$in": [self.id(), self.id()]}},
            {"_id": self.id(), "n": chance.randrange(5)},
            {"n": {"$gte": chance.randrange(5), "$lt": 4}},
            {name: {"$lte": moment}},
            {name: {"$gt": moment}},
            {name: self.value()},
            {name: {"$exists": chance.random() < 0.5}},
            {"$or": [{"n": chance.randrange(5)}, {"b": "x"}]},
        ]
        return chance.choice(made)

    def update(self) -> dict[str, Any]:
        """Return an update that fits any of these documents."""
        chance, moment = self._chance, _AT + timedelta(seconds=self._chance.randrange(9))
        made: list[dict[str, Any]] = [
            {"$set": {"a": self.value()}, "$unset": {"b": ""}},
            {"$inc": {"n": 1}, "$setOnInsert": {"b": "x"}},
            {"$min": {"low": moment}, "$max": {"high": moment}},
            {"$max": {"n": chance.randrange(9)}, "$set": {"b": self.value()}},
            {"$addToSet": {"names": chance.choice(("x", "y"))}},
            {"$pull": {"names": chance.choice(("x", "y"))}},
            {"$push": {"last": {"$each": [chance.randrange(9), 1], "$slice": -3}}},
        ]
        return chance.choice(made)


class Act:
    """What may be done to a collection; each draws its arguments once and does it to both."""

    def __init__(self, real: Any, simulated: Any, chance: Random) -> None:
        self._both = (real, simulated)
        self._chance = chance
        self._drawn = Drawn(chance)

    async def insert(self) -> None:
        """Documents are inserted, some of which are there."""
        documents = [self._drawn.document() for _ in range(3)]
        await self._agree(
            lambda rows: rows.insert_many(_copies(documents), ordered=False), counted=False
        )

    async def insert_one(self) -> None:
        """One document is inserted."""
        document = self._drawn.document()
        await self._agree(lambda rows: rows.insert_one(dict(document)), counted=False)

    async def update(self) -> None:
        """One document is changed, or made."""
        query, change = {"_id": self._drawn.id()}, self._drawn.update()
        if self._chance.random() < 0.5:
            query["n"] = self._chance.randrange(5)
        upsert = self._chance.random() < 0.4
        await self._agree(lambda rows: rows.update_one(query, change, upsert=upsert))

    async def replace(self) -> None:
        """One document is replaced."""
        document = self._drawn.document()
        query = {"_id": document.pop("_id"), "n": document["n"]}
        await self._agree(lambda rows: rows.replace_one(query, dict(document)))

    async def bulk(self) -> None:
        """Several are changed at once."""
        writes: list[Any] = [
            UpdateOne({"_id": self._drawn.id()}, self._drawn.update(), upsert=True)
            for _ in range(2)
        ]
        document = self._drawn.document()
        older = {"_id": document["_id"], "n": {"$lte": document["n"]}}
        writes.append(ReplaceOne(older, document, upsert=True))
        await self._agree(lambda rows: rows.bulk_write(writes, ordered=False))

    async def delete(self) -> None:
        """Documents are deleted."""
        query = {"_id": self._drawn.id()}
        await self._agree(lambda rows: rows.delete_one(query))

    async def find(self) -> None:
        """Documents are looked for."""
        query, chance = self._drawn.query(), self._chance
        fields = chance.choice((None, {"n": 1}, {"n": 0, "a": 0}, ("a", "b"), {"_id": 0, "n": 1}))
        real, simulated = [await rows.find(query, fields).to_list() for rows in self._both]
        assert sorted(map(_shown, simulated)) == sorted(map(_shown, real)), query

    async def find_in_order(self) -> None:
        """The first ones by some order are looked for."""
        real, simulated = [
            [one["n"] for one in await rows.find({"n": {"$gte": 1}}).sort("n").limit(3).to_list()]
            for rows in self._both
        ]
        assert simulated == real
        last = [await rows.find_one({"n": {"$gte": 0}}, sort=[("n", -1)]) for rows in self._both]
        assert len({one and one["n"] for one in last}) == 1

    async def _agree(self, do: Callable[[Any], Awaitable[Any]], *, counted: bool = True) -> None:
        said = [await _said(do(rows), counted=counted) for rows in self._both]
        assert said[1] == said[0]
        rows = [await rows.find({}).to_list() for rows in self._both]
        assert sorted(map(_shown, rows[1])) == sorted(map(_shown, rows[0]))


def _copies(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [dict(one) for one in documents]


def _shown(document: dict[str, Any]) -> str:
    # Fields that an update adds may come in another order.
    return repr(sorted(document.items()))


async def _said(call: Awaitable[Any], *, counted: bool) -> Any:
    """Return what a call says, as far as evp looks at it."""
    try:
        done = await call
    except DuplicateKeyError:
        return "duplicate"
    except BulkWriteError as error:
        rows = error.details["writeErrors"]
        return sorted((row["index"], row["code"]) for row in rows)
    counts = ("matched_count", "deleted_count") if counted else ()
    return [getattr(done, name) for name in counts if hasattr(done, name)][:1]


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 9))]
)
async def test_a_simulated_store_does_as_a_real_one(db: Database, seed: int) -> None:
    """Whatever is written and asked, in whatever order, both say the same and hold the same."""
    chance = Random(seed)
    weather = Weather(chance, Chances(), lambda _: None)
    weather.calm = True
    simulated = SimulatedDatabase(SimulatedStore(weather, lambda _name, _document: None))
    act = Act(db["tried"], simulated["tried"], chance)
    acts = [getattr(act, name) for name in dir(act) if not name.startswith("_")]
    for _ in range(_STEPS):
        await chance.choice([*acts, act.insert])()
