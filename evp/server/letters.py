"""Dead letters at the server: what a page shows of them, and what it may have delivered.

`evp.dlq` does the work; here are the bounds. A server that accepts events does little
of this at a time, and delivers nothing that could end it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from msgspec import Meta, Struct

from evp.clock import now
from evp.dlq import actions
from evp.dlq.actions import TO_REPLAY, Account, Listing
from evp.dlq.top import By, Top, top
from evp.documents import Admission
from evp.errors import NoSuchLetter, Refusal
from evp.limits import DEAD_LETTER_SHOWN_BYTES_MAX
from evp.server.limits import (
    ANSWER_KEEP_S,
    LETTER_GROUPS_MAX,
    LETTER_HERE_BYTES_MAX,
    LETTERS_COUNTED_MAX,
    READ_REACH_S_MAX,
    REPLAY_IDS_MAX,
    REPLAY_LETTERS_PER_S,
    REPLAY_S_MAX,
)
from evp.server.reading import Reading
from evp.server.shared import Shared
from evp.server.turns import Turns
from evp.settings import Settings
from evp.signals import end
from evp.storage.client import opened, reach
from evp.storage.dlq import Filters, Letter, Reached
from evp.storage.isolation import POISON
from evp.storage.replay import Delivered, Refused, Replayer

_LETTER_ID = r"^([0-9a-f]{24}:[0-9]{1,9}|[0-9a-f]{32})$"
_IS_LETTER_ID = re.compile(_LETTER_ID)

Id = Annotated[str, Meta(pattern=_LETTER_ID)]


class LetterShown(Struct):
    """One letter. `event` is what it holds, `payload_hex` the beginning of what is no event.

    `whole` tells whether that is all that was received; a large one is not shown here at all.
    """

    letter: Letter
    what_to_do: str
    whole: bool
    event: Any
    payload_hex: str | None


class ReplayAsked(Struct, frozen=True, kw_only=True):
    """Which letters to deliver once more; without `"dry_run": false` they are only counted.

    `until` and `after` of an answer, given again, go on where that one ended.
    """

    reason: str | None = None
    error: str | None = None
    type: str | None = None
    source: str | None = None
    since: Annotated[datetime, Meta(tz=True)] | None = None
    until: Annotated[datetime, Meta(tz=True)] | None = None
    after: Id | None = None
    ids: Annotated[list[Id], Meta(max_length=REPLAY_IDS_MAX)] = []
    dry_run: bool = True


class Replay(Struct):
    """What became of letters; `more` if not all were counted.

    Unless the account is `finished`, the same request with this `until` and `after` goes on, with
    those that were last refused before: what stayed is not tried again.
    """

    until: datetime
    more: bool
    account: Account
    after: str | None = None


class Letters:
    """The dead letters as one server process shows and delivers them."""

    def __init__(self, settings: Settings, reading: Reading, draining: asyncio.Event) -> None:
        self._settings = settings
        self._reading = reading
        self._draining = draining
        self._listings: Shared[Listing] = Shared(ANSWER_KEEP_S)
        self._tops: Shared[Top] = Shared(ANSWER_KEEP_S)
        self._replays = Turns(1, 0)
        self._changes = 0

    async def listing(self, filters: Filters, most: int) -> Listing:
        """Return how many there are, by reason, and the `most` newest.

        LETTERS_COUNTED_MAX are counted, the newest. Raises as `Reading.metrics`.
        """

        async def look() -> Listing:
            async with self._reading.asking() as db:
                return await actions.look(db, filters, most, counted_max=LETTERS_COUNTED_MAX)

        return await self._listings.get((self._changes, filters, most), look)

    async def top(self, filters: Filters, by: By) -> Top:
        """Return what died alike, the largest groups first; counts and raises as `listing`."""

        async def look() -> Top:
            async with self._reading.asking() as db:
                return await top(
                    db,
                    filters,
                    by,
                    LETTER_GROUPS_MAX,
                    (),
                    _nobody,
                    counted_max=LETTERS_COUNTED_MAX,
                )

        return await self._tops.get((self._changes, filters, by), look)

    async def show(self, letter_id: str) -> LetterShown:
        """Return one letter; raises as `Reading.metrics`, and Refusal `not_found`."""
        if not _IS_LETTER_ID.fullmatch(letter_id):
            raise _unknown()
        try:
            async with self._reading.asking() as db:
                shown = await actions.show(db, letter_id, payload_bytes_max=LETTER_HERE_BYTES_MAX)
        except NoSuchLetter:
            raise _unknown() from None
        payload = shown.payload
        part = None if payload is None else payload[:DEAD_LETTER_SHOWN_BYTES_MAX].hex()
        return LetterShown(shown.letter, shown.mend, shown.whole, shown.event, part)

    async def replay(self, asked: ReplayAsked) -> Replay:
        """Count letters, or deliver them for REPLAY_S_MAX, and not once the server is to stop.

        Raises Refusal `server_busy` while somebody else's are delivered, `shutting_down`, and
        StoreUnavailable.
        """
        until = asked.until or now()
        filters = Filters(
            reason=asked.reason,
            error=asked.error,
            type=asked.type,
            source=asked.source,
            since=asked.since,
            until=until,
            after=asked.after,
            ids=tuple(asked.ids),
        )
        if asked.dry_run:
            return await self._count(filters, until)
        async with self._replays.one():
            if self._draining.is_set():
                raise Refusal("shutting_down", "this server is stopping")
            reached = Reached(until, asked.after)
            try:
                account = await self._deliver(filters, reached)
                if filters.ids:  # These come in no order that one could go on in.
                    return Replay(until, more=False, account=account)
                return Replay(reached.until, more=False, account=account, after=reached.after)
            finally:
                # What was listed before is not what there is.
                self._changes += 1

    async def close(self) -> None:
        """End what is under way."""
        await self._listings.close()
        await self._tops.close()

    async def _count(self, filters: Filters, until: datetime) -> Replay:
        async with self._reading.asking() as db:
            if filters.ids:
                account = await actions.select(db, filters, TO_REPLAY, dry_run=True)
                more = False
            else:
                found = await actions.look(
                    db, filters, 0, states=TO_REPLAY, counted_max=LETTERS_COUNTED_MAX
                )
                account = Account(found.counted, found.by_reason, dry_run=True)
                more = found.more
        account.finished = True
        return Replay(until, more, account)

    async def _deliver(self, filters: Filters, reached: Reached) -> Account:
        settings = self._settings
        admission = Admission(settings.default_source, settings.time_in_id)
        account = Account()
        async with opened(settings, connections_max=1) as db:
            replayer = CarefulReplayer(db, admission, settings.write_timeout_ms)

            async def deliver() -> None:
                await reach(db, READ_REACH_S_MAX)
                await actions.replay(
                    db,
                    filters,
                    replayer,
                    account,
                    _nobody,
                    letters_per_s=REPLAY_LETTERS_PER_S,
                    reached=reached,
                )

            work = asyncio.create_task(deliver())
            stopping = asyncio.create_task(self._draining.wait())
            try:
                await asyncio.wait(
                    {work, stopping}, timeout=REPLAY_S_MAX, return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                # What is being written is written.
                await end(work, stopping, again_s=settings.write_timeout_ms / 1000)
            if not work.cancelled():
                work.result()
        account.selected = account.done + account.refused_count
        return account


class CarefulReplayer(Replayer):
    """Delivers what can't harm the process that it runs in; the rest is for the command."""

    async def deliver(self, letters: Sequence[Letter]) -> Delivered:
        """Deliver letters as `Replayer` does, but none that killed workers, or is large."""
        kept = {one.id: why for one in letters if (why := _why_not_here(one)) is not None}
        rest = [one for one in letters if one.id not in kept]
        done = await super().deliver(rest) if rest else Delivered()
        for one in letters:
            if one.id in kept:
                detail = f"{kept[one.id]}: `evp dlq replay {one.id}` delivers it"
                done.refused.append(Refused(one.id, one.reason, detail))
        return done


def _why_not_here(letter: Letter) -> str | None:
    if letter.reason == POISON:
        return "workers died while they wrote it, and this process accepts events"
    if letter.payload_bytes > LETTER_HERE_BYTES_MAX:
        return f"it has {letter.payload_bytes:,} bytes, and a server takes little at a time"
    return None


def _nobody(_progress: object) -> None:
    """Tell nobody: the answer does."""


def _unknown() -> Refusal:
    return Refusal("not_found", "no dead letter has this id")
