"""POST /events and /events/batch: check, publish to the stream, answer 202.

Settings: PORT, REDIS_URL, STREAM, API_KEY.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Security
from fastapi.security import APIKeyHeader
from faststream.redis import RedisBroker
from models import STREAM, Accepted, Event, now
from pydantic import Field

API_KEY = os.environ["API_KEY"]

# One connection for each request under way: the pool does not wait, it refuses.
broker = RedisBroker(os.environ["REDIS_URL"], max_connections=1000, logger=None)


async def check_key(key: Annotated[str | None, Security(APIKeyHeader(name="x-api-key"))]) -> None:
    """Refuse who has no key."""
    if key is None or not secrets.compare_digest(key.encode(), API_KEY.encode()):
        raise HTTPException(401, "unknown x-api-key")


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Hold the connections to the log."""
    async with broker:
        yield


app = FastAPI(lifespan=lifespan, dependencies=[Depends(check_key)])


@app.post("/events", status_code=202)
async def post_event(event: Event) -> dict[str, str]:
    """Accept one event."""
    await broker.publish(Accepted(received_at=now(), events=[event]), stream=STREAM)
    return {"event_id": event.id}


@app.post("/events/batch", status_code=202)
async def post_events(
    events: Annotated[list[Event], Field(min_length=1, max_length=10_000)],
) -> dict[str, int]:
    """Accept a batch of events."""
    await broker.publish(Accepted(received_at=now(), events=events), stream=STREAM)
    return {"accepted": len(events)}


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )
