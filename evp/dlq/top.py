"""Dead letters in groups: what died alike, how many, since when, and how to take hold of them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from datetime import datetime
from enum import StrEnum

from msgspec import Struct, field

from evp.fingerprint import fingerprint, pattern_of
from evp.limits import DEAD_LETTER_GROUPS_MAX, DEAD_LETTERS_GROUPED_MAX
from evp.storage import dlq
from evp.storage.client import Database
from evp.storage.dead_letters import REASONS
from evp.storage.dlq import DEAD, Filters, Letter

Notify = Callable[[int], None]
"""Told how many letters were looked at."""


class By(StrEnum):
    """By what letters are grouped; an error is a reason and what was said, without what varies."""

    ERROR = "error"
    REASON = "reason"
    TYPE = "type"
    SOURCE = "source"


class DeadGroup(Struct):
    """Letters that are alike in `key`, null where they have no such attribute.

    `pattern` is what was said about them, of all only if they are grouped by error;
    `example` is the newest one. `select` are flags of `evp dlq list`, `replay` and `purge`
    that choose this group; null if none do.
    """

    key: str | None
    letters: int
    first_at: datetime
    last_at: datetime
    example: str
    reason: str
    error: str
    pattern: str
    mend: str
    select: str | None


class Top(Struct):
    """Groups, the largest first; `more` if there were too many letters to look at all.

    `counted` letters were looked at, newest first. `others` of them are in none of the
    groups that were found: there were too many groups.
    """

    by: By
    counted: int = 0
    more: bool = False
    others: int = 0
    groups_total: int = 0
    groups: list[DeadGroup] = field(default_factory=list)


async def top(
    db: Database,
    filters: Filters,
    by: By,
    most: int,
    flags: Sequence[str],
    notify: Notify,
    *,
    counted_max: int = DEAD_LETTERS_GROUPED_MAX,
) -> Top:
    """Return the `most` largest groups of letters that count as dead.

    `flags` are those that made the filters. Raises StoreUnavailable.
    """
    found = Top(by)
    groups: dict[str | None, DeadGroup] = {}
    async for letters in dlq.walk(db, filters, (DEAD,)):
        for one in letters[: counted_max - found.counted]:
            found.counted += 1
            found.others += not _add(groups, one, by, flags)
        notify(found.counted)
        if found.counted == counted_max:
            found.more = True
            break
    largest = sorted(groups.values(), key=lambda group: (-group.letters, group.key or ""))
    found.groups_total, found.groups = len(groups), largest[:most]
    return found


def _add(groups: dict[str | None, DeadGroup], letter: Letter, by: By, flags: Sequence[str]) -> bool:
    """Count a letter in its group; False if that would be one group too many."""
    key = _key(letter, by)
    group = groups.get(key)
    if group is not None:
        group.letters += 1
        group.first_at = min(group.first_at, letter.first_at)
        return True
    if len(groups) == DEAD_LETTER_GROUPS_MAX:
        return False
    groups[key] = DeadGroup(
        key=key,
        letters=1,
        first_at=letter.first_at,
        last_at=letter.last_at,
        example=letter.id,
        reason=letter.reason,
        error=letter.error,
        pattern=pattern_of(letter.detail),
        mend=REASONS.get(letter.reason, ""),
        select=None if key is None else _flags(by, key, flags),
    )
    return True


def _flags(by: By, key: str, flags: Sequence[str]) -> str:
    mine = f"--{by.value}"
    return shlex.join(flags if mine in flags else (*flags, mine, key))


def _key(letter: Letter, by: By) -> str | None:
    if by is By.ERROR:
        return fingerprint(letter.reason, letter.error, letter.detail)
    value: str | None = getattr(letter, by.value)
    return value
