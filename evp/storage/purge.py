"""Giving dead letters up for good, never the last copy of what is not known to be dead.

The state of a letter is what its frame's outcome said when somebody last judged
it. So before anything is removed the store is asked for the event itself: a
letter goes whole only if its event is there, and one that counts loses what it
holds only if it still counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from bson import ObjectId

from evp.storage.client import Database
from evp.storage.dlq import DEAD, DELIVERED, PURGED, Letter, bodies, look_again, purge, remove
from evp.storage.failures import Failure
from evp.storage.presence import standing_letters
from evp.storage.replay import LEFT_ALONE, Refused
from evp.storage.sweep import judge_again

_NOT_STORED = Failure("not_stored", "its frame does not count it, but it is not stored; replay it")


async def give_up(db: Database, letters: Sequence[Letter]) -> list[Refused]:
    """Remove what letters hold, and whole letters whose events are stored; return those that stay.

    `letters` are DEAD or DELIVERED by what was last read of them. Raises
    StoreUnavailable; calling again with the same is safe.
    """
    stored = await standing_letters(db, letters, await bodies(db, letters))
    outdated = {one.frame_id for one in letters if one.state == DEAD and one.id in stored}
    # Else a letter that its outcome lists would be gone.
    await judge_again(db, sorted(ObjectId(frame_id) for frame_id in outdated))
    states = await look_again(db, letters)
    # One that is gone was delivered by somebody else.
    present = [one for one in letters if one.id in states]
    kept = {one.id: _why_kept(one, states[one.id], is_stored=one.id in stored) for one in present}
    refused = {id_: why for id_, why in kept.items() if why is not None}
    taken = [one for one in present if one.id not in refused]
    await purge(db, [one for one in taken if states[one.id] == DEAD])
    await remove(db, [one for one in taken if states[one.id] == DELIVERED])
    return [Refused(id_, one.reason, one.detail) for id_, one in refused.items()]


def _why_kept(letter: Letter, state: str, *, is_stored: bool) -> Failure | None:
    """Return why a letter stays that is in a state now; None if it may go."""
    if state == DEAD:
        # What was said to be stored was not meant to be given up.
        return None if letter.state == DEAD else _NOT_STORED
    if state == DELIVERED:
        return None if is_stored else _NOT_STORED
    return None if state == PURGED else LEFT_ALONE[state]
