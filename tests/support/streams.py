"""Putting frames into a stream, and reading it, as servers and workers do."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from evp.settings import Settings
from evp.stream.consumer import Consumer
from evp.stream.keys import Keys
from evp.stream.producer import Producer
from tests.support.make import ADMISSION, event, open_frame


@contextlib.asynccontextmanager
async def connected(settings: Settings, **changes: Any) -> AsyncIterator[Producer]:
    """Run a producer that is connected; closed at the end."""
    producer = Producer(
        changes.get("url", settings.redis_url),
        Keys(settings.stream, changes.get("partition", 0)),
        changes.get("policy", "auto"),
        changes.get("replicas", 0),
    )
    try:
        await producer.connect()
        yield producer
    finally:
        await producer.close()


async def append(
    settings: Settings, *frames: list[dict[str, Any]], partition: int = 0
) -> list[str]:
    """Append one frame for each list of events; return their entry ids."""
    async with connected(settings, partition=partition) as producer:
        return [await producer.append(open_frame(*events), 1) for events in frames]


async def append_events(
    settings: Settings, count: int, *, first: int = 0, each: int = 1, partition: int = 0
) -> None:
    """Append `count` events with the ids e<first>…, `each` in a frame."""
    numbers = range(first, first + count)
    await append(
        settings,
        *([event(n) for n in numbers[start : start + each]] for start in range(0, count, each)),
        partition=partition,
    )


def consumer(settings: Settings, name: str = "c-1", **changes: Any) -> Consumer:
    """Return a consumer of the configured group."""
    return Consumer(
        changes.get("url", settings.redis_url),
        Keys(settings.stream, changes.get("partition", 0)),
        changes.get("group", settings.consumer_group),
        name,
        block_ms=changes.get("block_ms", 100),
        claim_idle_ms=changes.get("claim_idle_ms", settings.claim_idle_ms),
        admission=ADMISSION,
    )
