"""Partitions on servers of their own, without a cluster: one is dialled elsewhere."""

from __future__ import annotations

import pytest
from redis.asyncio.connection import AbstractConnection

from evp.settings import Settings
from evp.stream import client
from evp.stream.dial import dial
from evp.stream.keys import Keys
from tests.support.servers import Server


def move(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, partition: int, server: Server
) -> None:
    """Have one partition dialled on another server, as a cluster would."""
    stream = Keys(settings.stream, partition).stream

    async def dial_there(url: str, wanted: str | None) -> AbstractConnection:
        return await dial(server.url if wanted == stream else url, wanted)

    monkeypatch.setattr(client, "dial", dial_there)
