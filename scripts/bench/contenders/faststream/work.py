"""Store the events of the stream: a batch of messages is acked once it is written.

Settings: REDIS_URL, MONGO_URL, MONGO_DB, STREAM, GROUP.
"""

from __future__ import annotations

import os
from typing import Any

import uvloop
from faststream import AckPolicy, FastStream
from faststream.redis import RedisBroker, StreamSub
from models import STREAM, Accepted
from pymongo import AsyncMongoClient, WriteConcern
from pymongo.errors import BulkWriteError

READ_MESSAGES_MAX = 30
DUPLICATE_KEY = 11000

broker = RedisBroker(os.environ["REDIS_URL"], logger=None)
app = FastStream(broker, logger=None)
mongo: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(os.environ["MONGO_URL"])
database = mongo.get_database(
    os.environ["MONGO_DB"], write_concern=WriteConcern("majority", j=True)
)


@broker.subscriber(
    stream=StreamSub(
        STREAM,
        group=os.environ["GROUP"],
        consumer="worker-1",
        last_id="0",
        batch=True,
        max_records=READ_MESSAGES_MAX,
    ),
    ack_policy=AckPolicy.NACK_ON_ERROR,
)
async def store(messages: list[Accepted]) -> None:
    """Insert all events; one that is there already was written by an earlier delivery."""
    documents = []
    for message in messages:
        for event in message.events:
            document = event.model_dump(exclude_none=True)
            document["_id"] = document.pop("id")
            document["received_at"] = message.received_at
            documents.append(document)
    try:
        await database["events"].insert_many(documents, ordered=False)
    except BulkWriteError as error:
        if any(one["code"] != DUPLICATE_KEY for one in error.details["writeErrors"]):
            raise


@app.after_shutdown
async def close() -> None:
    """Close the connections to the store."""
    await mongo.close()


if __name__ == "__main__":
    uvloop.run(app.run())
