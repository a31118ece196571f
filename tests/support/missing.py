"""A partition whose server is away, while the others are there."""

from __future__ import annotations

import pytest
from redis.asyncio.connection import AbstractConnection

from evp.settings import Settings
from evp.stream import client
from evp.stream.dial import dial
from evp.stream.keys import Keys


def take_away(monkeypatch: pytest.MonkeyPatch, settings: Settings, partition: int) -> None:
    """Let nobody dial a partition from now on; `monkeypatch.undo` brings it back."""
    away = Keys(settings.stream, partition).stream

    async def dial_others(url: str, stream: str | None) -> AbstractConnection:
        if stream == away:
            raise ConnectionError("nobody is there")
        return await dial(url, stream)

    monkeypatch.setattr(client, "dial", dial_others)
