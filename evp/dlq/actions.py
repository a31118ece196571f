"""Looking at dead letters, delivering them once more, and giving them up for good.

Everything goes letter by letter, in steps that can be done again: so it may end at
any moment, run twice, and run beside workers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from typing import Any

from msgspec import Struct, field

from evp.batch.raw import as_json
from evp.clock import monotonic_s
from evp.errors import NoSuchLetter
from evp.limits import DEAD_LETTERS_COUNTED_MAX, DEAD_LETTERS_NAMED_MAX
from evp.storage import dlq
from evp.storage.client import Database
from evp.storage.dead_letters import REASONS
from evp.storage.dlq import (
    DEAD,
    DELIVERED,
    PROVISIONAL,
    REOPENED,
    STATES,
    Filters,
    Letter,
    Reached,
)
from evp.storage.purge import give_up
from evp.storage.replay import Refused, Replayer

TO_REPLAY = frozenset((DEAD, DELIVERED, REOPENED, PROVISIONAL))
TO_PURGE = frozenset((DEAD, DELIVERED))
"""States of letters that are taken; those that settle may yet be stored without anyone's help.
One that is in doubt can be delivered, but not given up."""


class Listing(Struct):
    """Letters by reason, and the newest of them; `more` if there were too many to count."""

    counted: int = 0
    more: bool = False
    by_reason: dict[str, int] = field(default_factory=dict)
    letters: list[Letter] = field(default_factory=list)


class Shown(Struct):
    """One letter with what it holds: an event as JSON has it, or the bytes of what is none.

    `whole` tells whether that is all that was received, `mend` what to do about it.
    """

    letter: Letter
    mend: str
    whole: bool = False
    event: Any = None
    payload: bytes | None = None


class Account(Struct):
    """What became of letters: `done` were delivered or purged, the others stay as they are.

    `missing` are ids that were asked for and that no letter has in a state that
    could be changed. Of a replay, `stored` events were inserted, be it that the letter
    stays; `duplicate` ones were there already, and `dead` ones of entries are letters of
    their own now.
    """

    selected: int = 0
    by_reason: dict[str, int] = field(default_factory=dict)
    done: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    examples: list[Refused] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    dry_run: bool = False
    finished: bool = False
    stored: int = 0
    duplicate: int = 0
    dead: int = 0

    @property
    def refused_count(self) -> int:
        """How many letters stay."""
        return sum(self.refused.values())

    def refuse(self, refused: Sequence[Refused]) -> None:
        """Count letters that stay; the first ones are named."""
        for one in refused:
            self.refused[one.reason] = self.refused.get(one.reason, 0) + 1
        self.examples += refused[: DEAD_LETTERS_NAMED_MAX - len(self.examples)]


Notify = Callable[[Account], None]
"""Told after each portion."""


async def look(
    db: Database,
    filters: Filters,
    most: int,
    *,
    states: Collection[str] = (DEAD,),
    counted_max: int = DEAD_LETTERS_COUNTED_MAX,
) -> Listing:
    """Return how many letters there are, and the `most` newest. Raises StoreUnavailable."""
    listing = Listing()
    async for letters in dlq.walk(db, filters, states):
        for one in letters:
            if listing.counted == counted_max:
                listing.more = True
                return listing
            listing.counted += 1
            _count(listing.by_reason, one)
            if len(listing.letters) < most:
                listing.letters.append(one)
    return listing


async def show(db: Database, letter_id: str, *, payload_bytes_max: int | None = None) -> Shown:
    """Return one letter with all it holds, unless that is larger than `payload_bytes_max`.

    Raises NoSuchLetter and StoreUnavailable.
    """
    async for letters in dlq.walk(db, Filters(ids=(letter_id,)), STATES):
        for one in letters:
            shown = Shown(one, REASONS.get(one.reason, ""))
            if payload_bytes_max is not None and one.payload_bytes > payload_bytes_max:
                return shown
            body = (await dlq.bodies(db, [one])).get(one.id)
            if body is not None:
                shown.whole = body.is_whole(one)
                shown.event = as_json(body.raw) if one.frame_id is not None else None
                shown.payload = body.raw if shown.event is None else None
            return shown
    raise NoSuchLetter(f"no dead letter has the id {letter_id!r}; `evp dlq list` shows them")


async def select(
    db: Database, filters: Filters, states: Collection[str], *, dry_run: bool
) -> Account:
    """Return an account that tells how many letters there are to change, all of them counted.

    Raises StoreUnavailable.
    """
    account = Account(dry_run=dry_run)
    found: set[str] = set()
    async for letters in dlq.walk(db, filters, states):
        account.selected += len(letters)
        for one in letters:
            _count(account.by_reason, one)
            if filters.ids:
                found.add(one.id)
    account.missing = [one for one in dict.fromkeys(filters.ids) if one not in found]
    return account


async def replay(
    db: Database,
    filters: Filters,
    replayer: Replayer,
    account: Account,
    notify: Notify,
    *,
    letters_per_s: float | None = None,
    reached: Reached | None = None,
) -> None:
    """Deliver the events of letters once more; those that are stored then are letters no more.

    What is refused again stays, with one attempt more; so does, as letters of its own,
    what dies of an entry that is a frame now. Whoever ends it early learns from `reached` where
    to go on. Raises StoreUnavailable.
    """

    async def deliver(letters: list[Letter]) -> None:
        delivered = await replayer.deliver(letters)
        account.done += len(letters) - len(delivered.refused)
        account.stored += delivered.stored
        account.duplicate += delivered.duplicate
        account.dead += delivered.dead
        account.refuse(delivered.refused)
        if reached is not None:
            reached.note(letters[-1].last_at, letters[-1].id)

    letters = dlq.walk(db, filters, TO_REPLAY, reached)
    await _each_portion(letters, account, notify, deliver, letters_per_s)


async def purge(db: Database, filters: Filters, account: Account, notify: Notify) -> None:
    """Remove what letters hold for good; that they were dead stays in the account.

    A letter whose event is stored goes whole; one that turns out to hold the only copy
    of an event that nobody counts as dead stays. Raises StoreUnavailable.
    """

    async def purge_some(letters: list[Letter]) -> None:
        refused = await give_up(db, letters)
        account.done += len(letters) - len(refused)
        account.refuse(refused)

    await _each_portion(dlq.walk(db, filters, TO_PURGE), account, notify, purge_some, None)


async def _each_portion(
    pages: AsyncIterator[list[Letter]],
    account: Account,
    notify: Notify,
    change: Callable[[list[Letter]], Coroutine[Any, Any, None]],
    letters_per_s: float | None,
) -> None:
    """Change letters portion by portion, no more a second than `letters_per_s`."""
    started_at_s, changed = monotonic_s(), 0
    async for page in pages:
        for portion in dlq.portions_of(page, letters_per_s):
            await _to_its_end(change(portion))
            notify(account)
            changed += len(portion)
            if letters_per_s is not None:
                ahead_s = changed / letters_per_s - (monotonic_s() - started_at_s)
                await asyncio.sleep(max(0.0, ahead_s))
    account.finished = True


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Await work that is not left half done: told to end, it ends first."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _count(by_reason: dict[str, int], letter: Letter) -> None:
    by_reason[letter.reason] = by_reason.get(letter.reason, 0) + 1
