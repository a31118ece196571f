"""The balance: accepted = stored + duplicate + dead + in the log. A quick look, no proof.

What was accepted is read first and what became of it last, so an event that moves
meanwhile is counted twice rather than not at all: `unaccounted` is never too
large. Under load it may be too small; `evp verify` tells exactly, and names them.
"""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from evp.clock import now
from evp.settings import Settings
from evp.storage import groups
from evp.storage.account import Totals, totals
from evp.storage.client import Database
from evp.storage.evidence import epoch_rows
from evp.stream.client import Link
from evp.stream.info import backlog_events
from evp.stream.keys import Keys
from evp.stream.ledger import recorded_epochs


class Balance(Struct, kw_only=True):
    """Events, as they stood at a moment.

    `accepted` is what server processes have recorded, `source` where: "log",
    "store" or "log and store"; so it outlives either. `in_log` is at most what
    is not settled yet. `external` ones, plain entries of other programs, are counted in
    nothing else.
    """

    at: datetime
    accepted: int
    source: str
    stored: int
    duplicate: int
    dead: int
    in_log: int
    external: int
    unaccounted: int


async def look(link: Link, db: Database, keys: Keys, group: str) -> tuple[Balance, Totals]:
    """Return the balance now, and the totals it was made of.

    `group` is whose progress counts as long as no group has begun to write.
    Raises LogUnavailable and StoreUnavailable.
    """
    at = now()
    accepted, source = await _accepted(link, db, keys)
    writer = await groups.writer(db)
    in_log = await backlog_events(link, keys, writer[1] if writer else group)
    sums = await totals(db)
    settled = sums.stored + sums.duplicate + sums.dead - sums.external
    unaccounted = max(0, accepted - settled - in_log)
    balance = Balance(
        at=at,
        accepted=accepted,
        source=source,
        stored=sums.stored,
        duplicate=sums.duplicate,
        dead=sums.dead,
        in_log=in_log,
        external=sums.external,
        unaccounted=unaccounted,
    )
    return balance, sums


async def look_once(settings: Settings, db: Database) -> Balance:
    """Return the balance now, over a connection of its own; raises as `look`."""
    async with Link.opened(settings.redis_url) as link:
        found, _ = await look(link, db, Keys(settings.stream), settings.consumer_group)
    return found


async def _accepted(link: Link, db: Database, keys: Keys) -> tuple[int, str]:
    """Return what was accepted, and where that was recorded."""
    # A record leaves the log when the store has it, so the log comes first.
    in_log = {one.srv: one.events for one in await recorded_epochs(link, keys)}
    in_store = {row.srv: row.events for row in await epoch_rows(db)}
    every = in_log.keys() | in_store.keys()
    accepted = sum(max(in_log.get(srv, 0), in_store.get(srv, 0)) for srv in every)
    places = [name for name, known in (("log", in_log), ("store", in_store)) if known]
    return accepted, " and ".join(places)
