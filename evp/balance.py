"""The balance: accepted = stored + duplicate + dead + in the log. A quick look, no proof.

What was accepted is read first and what became of it last, so an event that moves
meanwhile is counted twice rather than not at all: `unaccounted` is never too
large. Under load it may be too small. And an append of unknown outcome that the log
took after all is in what became of events and not in what was accepted: it hides as
many losses. So there is a greatest number as well, `unaccounted_max`, which holds
while nothing moves. `evp verify` tells exactly, and names them.
"""

from __future__ import annotations

from datetime import datetime
from itertools import chain

from msgspec import Struct

from evp.clock import now
from evp.settings import Settings
from evp.storage import groups
from evp.storage.account import Totals, totals
from evp.storage.acknowledged import acknowledged_events
from evp.storage.client import Database
from evp.storage.evidence import epoch_rows
from evp.storage.partitions import known_partitions
from evp.stream.everywhere import Everywhere
from evp.stream.info import unsettled
from evp.stream.ledger import recorded_epochs


class Balance(Struct, kw_only=True):
    """Events, as they stood at a moment.

    `accepted` is what server processes have recorded, `source` where: "log",
    "store" or "log and store"; so it outlives either. `unknown` ones were answered
    with `ack_unknown`: the log may have some of them, or all. `in_log` is at most what
    is not settled yet. `external` ones, plain entries of other programs, are counted in
    nothing else. `acknowledged` ones are lost, and somebody took note of that
    (`evp verify --acknowledge`). Of what else was accepted, `unaccounted` at least and
    `unaccounted_max` at most are nowhere.
    """

    at: datetime
    accepted: int
    unknown: int
    source: str
    stored: int
    duplicate: int
    dead: int
    in_log: int
    external: int
    acknowledged: int
    unaccounted: int
    unaccounted_max: int


async def look(log: Everywhere, db: Database, group: str) -> tuple[Balance, Totals]:
    """Return the balance of all streams now, and the totals it was made of.

    `group` is whose progress counts as long as no group has begun to write.
    Raises LogUnavailable, also if one stream is away, and StoreUnavailable.
    """
    at = now()
    log.grow(await known_partitions(db))
    accepted, unknown, source = await _accepted(log, db)
    writer = await groups.writer(db)
    name = writer[1] if writer else group
    waiting = await log.ask_each(lambda link, keys: unsettled(link, keys, name))
    in_log = sum(one.events for one in waiting)
    sums = await totals(db)
    settled = sums.stored + sums.duplicate + sums.dead - sums.external
    known = await acknowledged_events(db)
    missing = accepted - settled - in_log - known
    balance = Balance(
        at=at,
        accepted=accepted,
        unknown=unknown,
        source=source,
        stored=sums.stored,
        duplicate=sums.duplicate,
        dead=sums.dead,
        in_log=in_log,
        external=sums.external,
        acknowledged=known,
        unaccounted=max(0, missing),
        unaccounted_max=max(0, missing + unknown),
    )
    return balance, sums


async def look_once(settings: Settings, db: Database) -> Balance:
    """Return the balance now, over connections of its own; raises as `look`."""
    async with Everywhere.opened(settings) as log:
        found, _ = await look(log, db, settings.consumer_group)
    return found


async def _accepted(log: Everywhere, db: Database) -> tuple[int, int, str]:
    """Return what was accepted, what may have been as well, and where that was recorded."""
    # A record leaves the log when the store has it, so the log comes first.
    records = await log.ask_each(recorded_epochs)
    in_log = {one.srv: (one.events, one.unknown) for one in chain.from_iterable(records)}
    places = ["log"] if in_log else []
    accepted, unknown, is_in_store = 0, 0, False
    async for row in epoch_rows(db):
        is_in_store = True
        events, doubtful = in_log.pop(row.srv, (0, 0))
        accepted += max(row.events, events)
        unknown += max(row.unknown, doubtful)
    accepted += sum(events for events, _ in in_log.values())
    unknown += sum(doubtful for _, doubtful in in_log.values())
    return accepted, unknown, " and ".join(places + ["store"] * is_in_store)
