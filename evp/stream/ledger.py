"""How far each server process got, as recorded in the log.

The log's hash is a place of passage: what stands in it is carried to the store
by whoever runs, and leaves it once the store has it. So it stays small, and an
epoch is recorded somewhere at any time.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from evp.stream.client import Link, pairs
from evp.stream.keys import Keys
from evp.stream.producer import Epoch
from evp.stream.scripts import FORGET_EPOCHS

_SRV_CHARS = 16
#: A number of so many digits fits into 64 bits.
_DIGITS_MAX = 18


class Record(Struct, frozen=True):
    """An epoch's place in the ledger: its last acknowledged number, its events up to there."""

    srv: bytes
    seq: int
    events: int


def record_of(epoch: Epoch) -> Record:
    """Return what is recorded of an epoch."""
    return Record(epoch.srv, epoch.acknowledged_seq, epoch.events)


async def record_epochs(link: Link, keys: Keys, records: Iterable[Record]) -> None:
    """Record epochs of this process. Raises LogUnavailable."""
    flat = [item for one in records for item in (one.srv.hex(), f"{one.seq} {one.events}")]
    if flat:
        await link.call("HSET", keys.servers, *flat)


async def recorded_epochs(link: Link, keys: Keys) -> list[Record]:
    """Return what the log has recorded of all processes. Raises LogUnavailable."""
    flat = await link.call("HGETALL", keys.servers)
    return [record for pair in pairs(flat) if (record := _read(*pair)) is not None]


async def forget_epochs(link: Link, keys: Keys, records: Iterable[Record]) -> None:
    """Remove records that the store has, unless they have grown since. Raises LogUnavailable."""
    flat = [item for one in records for item in (one.srv.hex(), f"{one.seq} {one.events}")]
    if flat:
        await link.script(FORGET_EPOCHS, (keys.servers,), flat)


def _read(name: bytes, value: bytes) -> Record | None:
    """Return a record; None for a field that evp did not write."""
    words = value.split()
    numbers = [word for word in words if word.isdigit() and len(word) <= _DIGITS_MAX]
    if len(name) != _SRV_CHARS or len(words) != 2 or len(numbers) != 2:
        return None
    try:
        return Record(bytes.fromhex(name.decode()), int(numbers[0]), int(numbers[1]))
    except ValueError:
        return None
