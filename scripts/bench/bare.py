"""The limit that the store sets: the same documents, inserted by nobody but drivers."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient, WriteConcern

from engines import start_store
from evp.documents import Admission
from evp.plain import read_entry
from evp.storage.schema import EVENTS
from evp.stream.client import Link
from processes import Processes
from systems import System

BATCH_EVENTS = 1000
WRITERS = (1, 2, 3)
DOCUMENTS_MAX = 100_000
ENTRIES_READ = 20


def sample(system: System) -> list[RawBSONDocument]:
    """Return documents that evp stores, in the order of its log, which is taken from it."""

    async def read() -> list[RawBSONDocument]:
        documents: list[RawBSONDocument] = []
        link = await Link.open(system.redis_url)
        start = "-"
        while len(documents) < DOCUMENTS_MAX:
            entries = await link.call("XRANGE", system.stream, start, "+", "COUNT", ENTRIES_READ)
            if not entries:
                break
            for raw_id, flat in entries:
                fields = dict(zip(flat[::2], flat[1::2], strict=True))
                entry_id = raw_id.decode()
                admission = Admission("evp", time_in_id=True)
                documents += read_entry(system.stream, entry_id, fields, admission).documents
                start = f"({entry_id}"
        await link.close()
        return documents[:DOCUMENTS_MAX]

    return asyncio.run(read())


def bare_store(
    folder: Path, documents: Sequence[RawBSONDocument], seconds: float
) -> dict[int, float]:
    """Return events a second that a fresh store takes, by the number of writers."""
    with Processes(folder) as processes:
        url, _ = start_store(processes, folder)
        return {writers: _inserted_per_s(url, documents, writers, seconds) for writers in WRITERS}


def _inserted_per_s(
    url: str, documents: Sequence[RawBSONDocument], writers: int, seconds: float
) -> float:
    """Insert into an empty collection until the time is up, or all is there."""
    client: MongoClient[RawBSONDocument] = MongoClient(url)
    name = f"bare_{secrets.token_hex(4)}"
    database = client.get_database(name, write_concern=WriteConcern("majority", j=True))
    database.create_collection(EVENTS, clusteredIndex={"key": {"_id": 1}, "unique": True})
    batches = iter(range(0, len(documents), BATCH_EVENTS))
    taking = threading.Lock()
    inserted = [0] * writers
    ends_at_s = time.monotonic() + seconds

    def write(number: int) -> None:
        while time.monotonic() < ends_at_s:
            with taking:
                start = next(batches, None)
            if start is None:
                return
            batch = documents[start : start + BATCH_EVENTS]
            database[EVENTS].insert_many(batch, ordered=False)
            inserted[number] += len(batch)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    started_at_s = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took_s = time.monotonic() - started_at_s
    client.drop_database(name)
    client.close()
    return sum(inserted) / took_s
