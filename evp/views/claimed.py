"""What `evp claim-stale` did, in a line."""

from __future__ import annotations

from evp.naming import named
from evp.worker.stale import Claimed


def claimed_line(account: Claimed) -> str:
    """Return the account; what is zero and not asked for by everyone is left out."""
    parts = [
        f"{account.frames:,} frames claimed",
        f"{account.events:,} events",
        f"{account.stored:,} stored",
        f"{account.duplicate:,} duplicate",
        f"{account.dead:,} dead",
    ]
    rare = (
        (account.settled_before, "frames settled before"),
        (account.corrupt, "entries unreadable, now dead letters"),
        (account.deleted, "entries DELETED from the log, may be lost: evp verify"),
        (account.left, "entries left: of a newer evp, or the log was lost; see the log lines"),
        (len(account.removed), "consumers removed"),
    )
    parts += [f"{count:,} {what}" for count, what in rare if count]
    if account.away:
        parts.append(f"left alone, as their servers are away: {named(account.away)}")
    return ", ".join(parts)
