"""What several streams hold together: sums, and of ages the greatest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from evp.stream.info import ConsumerFacts, GroupFacts, LogFacts


def summed(seen: Sequence[LogFacts], at_ms: int) -> LogFacts:
    """Return the facts of all streams together, at a moment of one of their clocks."""
    if len(seen) == 1:
        return seen[0]
    by_name: dict[str, list[GroupFacts]] = {}
    for facts in seen:
        for group in facts.groups:
            by_name.setdefault(group.name, []).append(group)
    return LogFacts(
        length=sum(one.length for one in seen),
        size_bytes=sum(one.size_bytes for one in seen),
        events_accepted=sum(one.events_accepted for one in seen),
        frames_accepted=sum(one.frames_accepted for one in seen),
        requests_accepted=sum(one.requests_accepted for one in seen),
        bytes_accepted=sum(one.bytes_accepted for one in seen),
        groups=[summed_group(by_name[name]) for name in sorted(by_name)],
        at_ms=at_ms,
    )


def summed_group(parts: Sequence[GroupFacts]) -> GroupFacts:
    """Return how a group stands in all streams that have it; it is stuck if it is in one."""
    if len(parts) == 1:
        return parts[0]
    group = GroupFacts(
        name=parts[0].name,
        pending=sum(one.pending for one in parts),
        pending_events=sum(one.pending_events for one in parts),
        lag_events=sum(one.lag_events for one in parts),
        lag_s=max(one.lag_s for one in parts),
        consumers=summed_consumers(parts),
        stuck=any(one.stuck for one in parts),
    )
    changes = [one.change_per_s for one in parts if one.change_per_s is not None]
    group.change_per_s = sum(changes) if changes else None
    group.drain_s = drain_s(group.waiting_events, group.change_per_s)
    return group


def summed_consumers(groups: Iterable[GroupFacts]) -> list[ConsumerFacts]:
    """Return the consumers of a group; one of the same name in several streams is one."""
    found: dict[str, ConsumerFacts] = {}
    for group in groups:
        for one in group.consumers:
            known = found.setdefault(one.name, ConsumerFacts(one.name, 0, one.idle_ms))
            known.pending += one.pending
            known.idle_ms = min(known.idle_ms, one.idle_ms)
    return list(found.values())


def drain_s(waiting_events: int, change_per_s: float | None) -> float | None:
    """Return how long it takes until nothing waits; None if it does not get less, or who knows."""
    if not waiting_events:
        return 0.0
    return waiting_events / -change_per_s if change_per_s is not None and change_per_s < 0 else None
