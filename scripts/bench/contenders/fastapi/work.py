"""Read entries of the group, insert their events into the store, ack.

Settings: REDIS_URL, MONGO_URL, MONGO_DB, STREAM, GROUP.
"""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import datetime
from typing import Any

import orjson
import uvloop
from pymongo import AsyncMongoClient, WriteConcern
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import BulkWriteError
from redis.asyncio import Redis
from redis.exceptions import ResponseError

STREAM = os.environ["STREAM"]
GROUP = os.environ["GROUP"]
READ_EVENTS_TARGET = 2000
READ_ENTRIES_MAX = 1000
READ_BLOCK_MS = 1000
DUPLICATE_KEY = 11000


def documents_of(fields: dict[bytes, bytes]) -> list[dict[str, Any]]:
    """Return the documents of one entry."""
    received_at = datetime.fromisoformat(fields[b"received_at"].decode())
    documents: list[dict[str, Any]] = orjson.loads(fields[b"events"])
    for document in documents:
        document["_id"] = document.pop("id")
        document["time"] = datetime.fromisoformat(document["time"])
        document["received_at"] = received_at
    return documents


async def insert(events: AsyncCollection[dict[str, Any]], documents: list[dict[str, Any]]) -> None:
    """Insert documents; one that is there already was written by an earlier delivery."""
    try:
        await events.insert_many(documents, ordered=False)
    except BulkWriteError as error:
        if any(one["code"] != DUPLICATE_KEY for one in error.details["writeErrors"]):
            raise


async def work() -> None:
    """Work until told to stop."""
    redis: Redis = Redis.from_url(os.environ["REDIS_URL"])
    mongo: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(os.environ["MONGO_URL"])
    database = mongo.get_database(
        os.environ["MONGO_DB"], write_concern=WriteConcern("majority", j=True)
    )
    events = database["events"]
    try:
        await redis.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    except ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise

    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    # What was read before a restart and not acked comes first, then new entries.
    start: str | bytes = "0"
    count = 30
    while not stopped.is_set():
        reply = await redis.xreadgroup(
            GROUP, "worker-1", {STREAM: start}, count=count, block=READ_BLOCK_MS
        )
        entries = reply[0][1] if reply else []
        if not entries:
            start = ">"
            continue
        documents = [one for _, fields in entries for one in documents_of(fields)]
        await insert(events, documents)
        await redis.xack(STREAM, GROUP, *(entry_id for entry_id, _ in entries))
        count = min(READ_ENTRIES_MAX, 1 + READ_EVENTS_TARGET * len(entries) // len(documents))
        if start != ">":
            start = entries[-1][0]
    await mongo.close()
    await redis.aclose()


if __name__ == "__main__":
    uvloop.run(work())
