"""How far each server process got, as recorded in the log.

Whoever runs carries what stands in the log's hash to the store. There an epoch
stays recorded; in the log, once it is over and the store has it, for some days
more: a store that is put back to an older state does not know how far it got.

A record is up to four numbers as text: the last acknowledged `seq`, the `events` up to
there, the `unknown` ones, and when it was over. The last two are left out while they
are 0; what is over has all four.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from evp.limits import LEDGER_RETIRED_MAX, LEDGER_RETIRED_S
from evp.stream.client import Argument, Link, pairs
from evp.stream.keys import Keys
from evp.stream.producer import Epoch
from evp.stream.scripts import RETIRE_EPOCHS

_SRV_CHARS = 16
#: A number of so many digits fits into 64 bits.
_DIGITS_MAX = 18
_WORDS_MAX = 4


class Record(Struct, frozen=True):
    """An epoch's place in the ledger: its last acknowledged number, its events up to there.

    `unknown` are events of appends of unknown outcome: of the one that ended it; where `seq`
    is 0, of all those by which a process ended epochs that had nothing acknowledged.
    `retired_ms` is when it was over and the store had it, by the log's clock; 0 before.
    """

    srv: bytes
    seq: int
    events: int
    unknown: int = 0
    retired_ms: int = 0


def record_of(epoch: Epoch) -> Record:
    """Return what is recorded of an epoch."""
    return Record(epoch.srv, epoch.acknowledged_seq, epoch.events, epoch.unknown)


async def record_epochs(link: Link, keys: Keys, records: Iterable[Record]) -> None:
    """Record epochs of this process. Raises LogUnavailable."""
    flat = [item for one in records for item in (one.srv.hex(), _text(one))]
    if flat:
        await link.call("HSET", keys.servers, *flat)


async def recorded_epochs(link: Link, keys: Keys) -> list[Record]:
    """Return what the log has recorded of all processes. Raises LogUnavailable."""
    flat = await link.call("HGETALL", keys.servers)
    return [record for pair in pairs(flat) if (record := _read(*pair)) is not None]


async def retire_epochs(link: Link, keys: Keys, records: Iterable[Record]) -> None:
    """Mark epochs that are over and known to the store, unless they have grown since.

    They stay for LEDGER_RETIRED_S, up to LEDGER_RETIRED_MAX of them, and those without a
    frame leave first. Raises LogUnavailable.
    """
    flat: list[Argument] = [int(LEDGER_RETIRED_S * 1000), LEDGER_RETIRED_MAX]
    for one in records:
        flat += [one.srv.hex(), one.seq, one.events, one.unknown]
    await link.script(RETIRE_EPOCHS, (keys.servers,), flat)


def _text(record: Record) -> str:
    unknown = f" {record.unknown}" if record.unknown else ""
    return f"{record.seq} {record.events}{unknown}"


def _read(name: bytes, value: bytes) -> Record | None:
    """Return a record; None for a field that evp did not write."""
    words = value.split()
    numbers = [int(word) for word in words if word.isdigit() and len(word) <= _DIGITS_MAX]
    if len(name) != _SRV_CHARS or not 2 <= len(words) <= _WORDS_MAX or len(numbers) != len(words):
        return None
    try:
        return Record(bytes.fromhex(name.decode()), *numbers)
    except ValueError:
        return None
