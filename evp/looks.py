"""Looks at the log, one after the other: each of its streams by itself, and all of them together.

A stream whose server is away counts as it was when it was seen last, and is told as away.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from evp.clock import monotonic_s
from evp.errors import LogUnavailable
from evp.limits import DRAIN_WINDOW_LOOKS, ENGINES_LOOK_S, PARTITION_ANSWER_S_MAX
from evp.settings import Settings
from evp.state import LogState, log_state
from evp.stream.client import Link
from evp.stream.everywhere import Everywhere
from evp.stream.info import LogFacts, log_facts
from evp.stream.keys import Keys
from evp.stream.sums import drain_s, summed

#: A group whose oldest entry is the same for so long is stuck: longer than a usual write takes.
STUCK_S = 8.0
#: The log tells times in milliseconds.
_SAME_S = 0.0015


class PartitionRow(Struct):
    """One of several streams, on `server` (`host:port`).

    `waiting_events` and `lag_s`, the age of the oldest of them, are of the group that is set;
    null where it does not exist. `away` is why the server does not answer: then the rest is what
    it told last.
    """

    partition: int
    stream: str
    server: str
    length: int = 0
    size_bytes: int = 0
    events_accepted: int = 0
    waiting_events: int | None = None
    lag_s: float | None = None
    away: str | None = None


class ServerRow(Struct):
    """One of several servers, and which partitions it has."""

    server: str
    partitions: list[int]
    state: LogState


class LogLook(NamedTuple):
    """One look: sums, the state of the server that needs attention first, and what each told.

    `partitions` and `servers` are empty where there is one.
    """

    facts: LogFacts
    accepted_per_s: float
    state: LogState
    partitions: list[PartitionRow]
    servers: list[ServerRow]


class LogLooks:
    """Looks at all streams of a deployment, over a connection of its own to each."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._everywhere = Everywhere(settings)
        self._seen: defaultdict[int, deque[LogFacts]] = defaultdict(
            lambda: deque(maxlen=DRAIN_WINDOW_LOOKS)
        )
        self._states: dict[str, LogState] = {}
        self._states_again_at_s = 0.0

    @property
    def partitions(self) -> int:
        """How many streams are known."""
        return len(self._everywhere)

    def grow(self, count: int) -> None:
        """Know of `count` streams at least."""
        self._everywhere.grow(count)

    async def close(self) -> None:
        """Close the connections."""
        await self._everywhere.close()

    async def look(self) -> LogLook:
        """Return how the log is now. Raises LogUnavailable if no stream can be looked at."""
        away = await self._ask()
        fresh = [looks for number, looks in self._seen.items() if number not in away]
        for looks in fresh:
            _add_drain_times(looks)
        rows = [self._row(number, away.get(number)) for number in range(len(self._everywhere))]
        servers = self._servers(rows)
        return LogLook(
            self._sum(away),
            sum(map(_accepted_per_s, fresh)),
            min(self._states.values(), key=_fitness, default=LogState()),
            rows if len(rows) > 1 else [],
            servers if len(servers) > 1 else [],
        )

    async def _ask(self) -> dict[int, str]:
        """Look at all streams; return why some are away. Raises LogUnavailable if all are."""
        states: dict[str, LogState] = {}
        asked: set[str] = set()
        is_due = monotonic_s() >= self._states_again_at_s

        async def look(link: Link, keys: Keys) -> LogFacts:
            facts = await log_facts(link, keys)
            server = str(link.node)
            if is_due and server not in asked:
                asked.add(server)
                states[server] = await log_state(link, self._settings)
            return facts

        several = len(self._everywhere) > 1
        answers = await self._everywhere.ask(look, PARTITION_ANSWER_S_MAX if several else None)
        away = {}
        for number, answer in enumerate(answers):
            if isinstance(answer, LogUnavailable):
                away[number] = str(answer)
            else:
                self._seen[number].append(answer)
        if len(away) == len(answers):
            raise LogUnavailable(away[0])
        if is_due:
            self._states, self._states_again_at_s = states, monotonic_s() + ENGINES_LOOK_S
        return away

    def _row(self, number: int, away: str | None) -> PartitionRow:
        stream = Keys(self._settings.stream, number).stream
        row = PartitionRow(number, stream, self._everywhere.server_of(number), away=away)
        if looks := self._seen.get(number):
            facts, name = looks[-1], self._settings.consumer_group
            row.length, row.size_bytes = facts.length, facts.size_bytes
            row.events_accepted = facts.events_accepted
            group = next((one for one in facts.groups if one.name == name), None)
            if group is not None:
                row.waiting_events, row.lag_s = group.waiting_events, group.lag_s
        return row

    def _servers(self, rows: Sequence[PartitionRow]) -> list[ServerRow]:
        servers = [
            ServerRow(server, [one.partition for one in rows if one.server == server], state)
            for server, state in self._states.items()
        ]
        return sorted(servers, key=lambda one: one.partitions)

    def _sum(self, away: Mapping[int, str]) -> LogFacts:
        """Return what all streams hold, by the clock of the first one that answered."""
        last = {number: looks[-1] for number, looks in sorted(self._seen.items())}
        at_ms = next(facts.at_ms for number, facts in last.items() if number not in away)
        seen = [_stopped(facts) if number in away else facts for number, facts in last.items()]
        return summed(seen, at_ms)


def _stopped(facts: LogFacts) -> LogFacts:
    """Return facts of a stream that is away: nobody knows how it goes on there."""
    groups = [replace(one, change_per_s=None, stuck=False) for one in facts.groups]
    return replace(facts, groups=groups)


def _fitness(state: LogState) -> tuple[bool, float]:
    """Return what is less for a server that needs attention sooner."""
    used = (state.used_bytes or 0) / state.mark_bytes if state.mark_bytes else 0.0
    return not state.detail, -used


def _accepted_per_s(looks: Sequence[LogFacts]) -> float:
    if len(looks) < 2:
        return 0.0
    before, facts = looks[-2], looks[-1]
    if facts.at_ms <= before.at_ms:
        return 0.0
    fresh = max(0, facts.events_accepted - before.events_accepted)
    return fresh / (facts.at_ms - before.at_ms) * 1000


def _add_drain_times(looks: Sequence[LogFacts]) -> None:
    """Say of each group of the last look when nothing waits for it, as it went in all looks."""
    first, last = looks[0], looks[-1]
    elapsed_s = (last.at_ms - first.at_ms) / 1000
    before = {group.name: group for group in first.groups}
    for group in last.groups:
        waiting, then = group.waiting_events, before.get(group.name)
        if then is not None and elapsed_s > 0:
            group.change_per_s = (waiting - then.waiting_events) / elapsed_s
            grew_older_s = group.lag_s - then.lag_s
            group.stuck = elapsed_s >= STUCK_S and abs(grew_older_s - elapsed_s) < _SAME_S
        group.drain_s = drain_s(waiting, group.change_per_s)
