"""POST /events and /events/batch: check, append to the stream, answer 202.

Settings: PORT, REDIS_URL, STREAM, API_KEY.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import uuid4

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Security
from fastapi.security import APIKeyHeader
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter
from redis.asyncio import BlockingConnectionPool, Redis

STREAM = os.environ["STREAM"]
API_KEY = os.environ["API_KEY"]

Attribute = Annotated[str, Field(min_length=1, max_length=2000)]


class Event(BaseModel):
    """An event as a client sends it."""

    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, Field(min_length=1, max_length=128)] = Field(
        default_factory=lambda: str(uuid4())
    )
    type: Attribute
    source: Attribute = "bench"
    subject: Attribute | None = None
    time: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    data: Any = None


Events = Annotated[list[Event], Field(min_length=1, max_length=10_000)]
events_adapter = TypeAdapter(list[Event])
# Whoever finds no connection free waits for one.
pool = BlockingConnectionPool.from_url(os.environ["REDIS_URL"], max_connections=32, timeout=None)
redis = Redis(connection_pool=pool)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Close the connections to the log at the end."""
    yield
    await redis.aclose()


async def check_key(key: Annotated[str | None, Security(APIKeyHeader(name="x-api-key"))]) -> None:
    """Refuse who has no key."""
    if key is None or not secrets.compare_digest(key.encode(), API_KEY.encode()):
        raise HTTPException(401, "unknown x-api-key")


async def append(events: list[Event]) -> None:
    """Append the events of one request as one entry."""
    fields = {
        "events": events_adapter.dump_json(events, exclude_none=True),
        "received_at": datetime.now(UTC).isoformat(),
    }
    await redis.xadd(STREAM, fields)


app = FastAPI(lifespan=lifespan, dependencies=[Depends(check_key)])


@app.post("/events", status_code=202)
async def post_event(event: Event) -> dict[str, str]:
    """Accept one event."""
    await append([event])
    return {"event_id": event.id}


@app.post("/events/batch", status_code=202)
async def post_events(events: Events) -> dict[str, int]:
    """Accept a batch of events."""
    await append(events)
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
