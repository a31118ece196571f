"""A simulated store: collections of documents, as evp uses them of pymongo.

The seam is the database that `evp.storage.client.database` returns: everything of evp takes
one and asks nothing else of the driver. Documents are kept as BSON, so what comes back is
what BSON makes of it, and nobody shares a list with the store.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Self

import bson
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import ReplaceOne, UpdateOne
from pymongo.errors import AutoReconnect, BulkWriteError, DuplicateKeyError

from evp.storage.schema import SERVERS
from tests.simulation.documents import (
    Document,
    Unsupported,
    inserted,
    is_operators,
    matches,
    order_of,
    projected,
    updated,
)
from tests.simulation.faults import Weather

_AWARE: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)
_DUPLICATE_KEY = 11000
_WRITE_CONCERN = {"code": 91, "errmsg": "not enough of the replicas have it"}

Refuses = Callable[[str, Document], Mapping[str, Any] | None]
"""Returns the write error by which the store refuses a document of a collection, if it does."""


class Row:
    """A document as it is stored."""

    __slots__ = ("document", "raw")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.document: Document = bson.decode(raw, _AWARE)


class SimulatedStore:
    """The documents of one database. Writes are durable, or were never done."""

    def __init__(self, weather: Weather, refuses: Refuses) -> None:
        self.weather = weather
        self.refuses = refuses
        self.rows: dict[str, dict[Any, Row]] = {}
        self.reached: dict[bytes, int] = {}
        """The most that was ever recorded of an epoch, whatever its record says since."""

    def table(self, name: str) -> dict[Any, Row]:
        """Return the rows of a collection by `_id`."""
        return self.rows.setdefault(name, {})

    def note(self, name: str, document: Document) -> None:
        """Take note of a document as it is now."""
        if name == SERVERS:
            srv = document["_id"]
            self.reached[srv] = max(self.reached.get(srv, 0), document["seq"])

    def documents(self, name: str) -> list[Document]:
        """Return the documents of a collection, not to be changed."""
        return [row.document for row in self.table(name).values()]


class SimulatedDatabase:
    """A database as a client of pymongo's gives it."""

    def __init__(self, store: SimulatedStore) -> None:
        self.name = "simulated"
        self._store = store
        self._collections: dict[str, SimulatedCollection] = {}
        self.client: Any = {"config": self}

    def __getitem__(self, name: str) -> SimulatedCollection:
        found = self._collections.get(name)
        if found is None:
            found = self._collections[name] = SimulatedCollection(self._store, name, _AWARE)
        return found

    def get_collection(self, name: str, codec_options: CodecOptions[Any]) -> SimulatedCollection:
        """Return a collection whose documents are decoded in another way."""
        return SimulatedCollection(self._store, name, codec_options)

    async def list_collection_names(self) -> list[str]:
        """Return the names of all collections that were made."""
        return list(self._store.rows)

    async def create_collection(self, name: str, **_options: Any) -> None:
        """Make a collection."""
        self._store.table(name)

    async def command(self, _name: str) -> Document:
        """Say that all is well."""
        return {"ok": 1}


class SimulatedCollection:
    """A collection; each of its calls is one exchange with the store."""

    def __init__(self, store: SimulatedStore, name: str, options: CodecOptions[Any]) -> None:
        self._store = store
        self._name = name
        self._options = options

    async def create_indexes(self, _indexes: Any) -> None:
        """Make indexes: everything is found without."""

    def find(
        self,
        query: Mapping[str, Any] | None = None,
        fields: Mapping[str, int] | Sequence[str] | None = None,
        batch_size: int = 0,
    ) -> SimulatedCursor:
        """Return a cursor; it reads everything at once, when it is first asked."""
        return SimulatedCursor(self, query or {}, fields)

    async def find_one(
        self,
        query: Mapping[str, Any],
        fields: Mapping[str, int] | Sequence[str] | None = None,
        sort: Sequence[tuple[str, int]] = (),
    ) -> Any:
        """Return a document, None if none matches."""
        cursor = SimulatedCursor(self, query, fields)
        for name, direction in sort:
            cursor.sort(name, direction)
        found = await cursor.limit(1).to_list()
        return found[0] if found else None

    async def insert_many(self, documents: Sequence[Any], *, ordered: bool = True) -> Any:
        """Insert documents. Raises BulkWriteError."""
        if ordered:
            raise Unsupported("evp inserts unordered")
        return await self._bulk([_Insert(document) for document in documents])

    async def insert_one(self, document: Any) -> Any:
        """Insert a document. Raises DuplicateKeyError."""
        return await self._one(_Insert(document))

    async def update_one(
        self, query: Mapping[str, Any], change: Mapping[str, Any], *, upsert: bool = False
    ) -> Any:
        """Change a document. Raises DuplicateKeyError where an upsert meets another one."""
        return await self._one(UpdateOne(query, change, upsert=upsert))

    async def update_many(self, query: Mapping[str, Any], change: Mapping[str, Any]) -> Any:
        """Change all documents that match."""

        def carry_out() -> Any:
            rows = self.read(query)
            for row in rows:
                self._change(row, change)
            return SimpleNamespace(matched_count=len(rows))

        return await self._call("update many", carry_out)

    async def replace_one(self, query: Mapping[str, Any], document: Mapping[str, Any]) -> Any:
        """Put a document in the place of another one."""
        return await self._one(ReplaceOne(query, document))

    async def bulk_write(
        self,
        writes: Sequence[Any],
        *,
        ordered: bool = True,
        bypass_document_validation: bool = False,
    ) -> Any:
        """Do several writes, one after the other. Raises BulkWriteError."""
        return await self._bulk(writes)

    async def delete_one(self, query: Mapping[str, Any]) -> Any:
        """Remove the first document that matches."""
        return await self._call("delete", lambda: self._delete(query, 1))

    async def delete_many(self, query: Mapping[str, Any]) -> Any:
        """Remove what matches."""
        return await self._call("delete", lambda: self._delete(query, None))

    async def _call(self, what: str, carry_out: Callable[[], Any]) -> Any:
        name = f"{self._name}.{what}"
        return await self._store.weather.call(name, carry_out, AutoReconnect, of_log=False)

    async def _one(self, write: Any) -> Any:
        def carry_out() -> Any:
            matched, error = self._write(write)
            if error is not None:
                raise DuplicateKeyError(error["errmsg"], error["code"], error)
            return SimpleNamespace(matched_count=matched)

        return await self._call(_what(write), carry_out)

    async def _bulk(self, writes: Sequence[Any]) -> Any:
        """Do writes, unordered: one that is refused keeps no other from being done.

        Now and then only some of them are done before the connection is lost, or all, and
        too few of the replicas have them.
        """
        weather = self._store.weather
        some = frozenset(range(len(writes)))
        is_cut = lacks_replicas = False
        if not weather.calm and weather.chance.random() < weather.chances.store_fault / 2:
            is_cut = weather.chance.random() < 0.5
            lacks_replicas = not is_cut
        if is_cut:
            some = frozenset(place for place in some if weather.chance.random() < 0.5)

        def carry_out() -> Any:
            errors, matched = [], 0
            for place, write in enumerate(writes):
                if place not in some:
                    continue
                count, error = self._write(write)
                matched += count
                if error is not None:
                    errors.append({"index": place, **error})
            if is_cut:
                raise AutoReconnect("the connection was lost in the middle")
            concerns = [_WRITE_CONCERN] if lacks_replicas else []
            if errors or concerns:
                raise BulkWriteError({"writeErrors": errors, "writeConcernErrors": concerns})
            return SimpleNamespace(matched_count=matched)

        return await self._call(f"{_what(writes[0])}*{len(writes)}", carry_out)

    # What the store does, at one moment.

    def read(self, query: Mapping[str, Any]) -> list[Row]:
        """Return the rows that match, in the order in which they were inserted."""
        table = self._store.table(self._name)
        wanted = query.get("_id")
        if isinstance(wanted, dict) and "$in" in wanted:
            rows = [table[one] for one in wanted["$in"] if one in table]
        elif wanted is not None and not is_operators(wanted):
            rows = [table[wanted]] if wanted in table else []
        else:
            rows = list(table.values())
        if len(query) == 1 and wanted is not None:
            return rows
        return [row for row in rows if matches(row.document, query)]

    def decoded(self, row: Row, fields: Mapping[str, int] | Sequence[str] | None) -> Any:
        """Return a row as the client decodes it."""
        raw = row.raw
        if fields is not None:
            raw = bson.encode(projected(bson.decode(raw, _AWARE), fields))
        if self._options.document_class is RawBSONDocument:
            return RawBSONDocument(raw, self._options)
        return bson.decode(raw, self._options)

    def _write(self, write: Any) -> tuple[int, Mapping[str, Any] | None]:
        """Do one write; return how many documents matched, and why it was not done."""
        if isinstance(write, _Insert):
            return 0, self._insert(write.raw)
        query = write._filter
        rows = self.read(query)
        if isinstance(write, ReplaceOne):
            document = dict(write._doc)
            if rows:
                self._put(rows[0], {"_id": rows[0].document["_id"], **document})
        else:
            if rows:
                self._change(rows[0], write._doc)
            document = inserted(query, write._doc) if not rows else {}
        if rows or not write._upsert:
            return len(rows), None
        return 0, self._insert(bson.encode(document))

    def _insert(self, raw: bytes) -> Mapping[str, Any] | None:
        table, row = self._store.table(self._name), Row(raw)
        refused = self._store.refuses(self._name, row.document)
        if refused is not None:
            return refused
        id_ = row.document["_id"]
        if id_ in table:
            text = "E11000 duplicate key error"
            return {"code": _DUPLICATE_KEY, "errmsg": text, "keyPattern": {"_id": 1}}
        table[id_] = row
        self._store.note(self._name, row.document)
        return None

    def _change(self, row: Row, change: Mapping[str, Any]) -> None:
        document = bson.decode(row.raw, _AWARE)
        updated(document, change)
        self._put(row, document)

    def _put(self, row: Row, document: Document) -> None:
        row.raw = bson.encode(document)
        row.document = bson.decode(row.raw, _AWARE)
        self._store.note(self._name, row.document)

    def _delete(self, query: Mapping[str, Any], most: int | None) -> Any:
        gone = self.read(query)[:most]
        for row in gone:
            del self._store.table(self._name)[row.document["_id"]]
        return SimpleNamespace(deleted_count=len(gone))


class SimulatedCursor:
    """A query that is yet to be asked."""

    def __init__(
        self,
        collection: SimulatedCollection,
        query: Mapping[str, Any],
        fields: Mapping[str, int] | Sequence[str] | None,
    ) -> None:
        self._collection = collection
        self._query = query
        self._fields = fields
        self._order: tuple[str, int] | None = None
        self._most: int | None = None
        self._skipped = 0

    def sort(self, name: str, direction: int = 1) -> Self:
        """Order by a field."""
        self._order = (name, direction)
        return self

    def limit(self, most: int) -> Self:
        """Give so many at most."""
        self._most = most
        return self

    def skip(self, count: int) -> Self:
        """Leave out the first ones."""
        self._skipped = count
        return self

    async def to_list(self) -> list[Any]:
        """Return all of it."""
        return list(await self._collection._call("find", self._read))

    async def __aiter__(self) -> AsyncIterator[Any]:
        for document in await self.to_list():
            yield document

    def _read(self) -> list[Any]:
        rows = self._collection.read(self._query)
        if self._order is not None:
            name, direction = self._order
            rows.sort(key=lambda row: order_of(row.document, name), reverse=direction < 0)
        end = None if self._most is None else self._skipped + self._most
        return [self._collection.decoded(row, self._fields) for row in rows[self._skipped : end]]


class _Insert:
    """An insert; its document is encoded when it is asked for, as the driver does it."""

    __slots__ = ("raw",)

    def __init__(self, document: Any) -> None:
        raw = isinstance(document, RawBSONDocument)
        self.raw = bytes(document.raw) if raw else bson.encode(document)


def _what(write: Any) -> str:
    return "insert" if isinstance(write, _Insert) else "update"
