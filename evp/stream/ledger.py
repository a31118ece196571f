"""How far each server process got, as recorded in the log."""

from __future__ import annotations

from evp.stream.client import Link
from evp.stream.keys import Keys
from evp.stream.producer import Epoch


async def record_epochs(url: str, keys: Keys, epochs: list[Epoch]) -> None:
    """Record the epochs of one server process. Raises LogUnavailable.

    A connection of its own: the one that appends must not wait for this.
    """
    if not epochs:
        return
    flat = [
        item
        for epoch in epochs
        for item in (epoch.srv.hex(), f"{epoch.acknowledged_seq} {epoch.events}")
    ]
    link = await Link.open(url)
    try:
        await link.call("HSET", keys.servers, *flat)
    finally:
        await link.close()


async def forget_epochs(url: str, keys: Keys, epochs: list[Epoch]) -> None:
    """Remove epochs that the store has recorded for good. Raises LogUnavailable."""
    if not epochs:
        return
    link = await Link.open(url)
    try:
        await link.call("HDEL", keys.servers, *(epoch.srv.hex() for epoch in epochs))
    finally:
        await link.close()
