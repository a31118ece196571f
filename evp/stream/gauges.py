"""What the log tells for metrics: how far each group is, and how full the memory is.

Asked for at most once a second, however many ask; a stream whose server is away or hangs
costs whoever asks no more than METRICS_LOOK_S_MAX, and the others are told all the same.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Collection, Iterable, Mapping

from evp.clock import monotonic_s
from evp.errors import LogUnavailable
from evp.limits import METRICS_GROUPS_MAX, METRICS_LOOK_KEEP_S, METRICS_LOOK_S_MAX
from evp.logs import get
from evp.settings import Settings
from evp.stream.client import Link
from evp.stream.everywhere import Everywhere
from evp.stream.info import LogFacts, log_facts
from evp.stream.keys import Keys
from evp.stream.memory import Memory, memory

Told = Mapping[str, float | Mapping[str, float]]
"""Values by family; of some one for each group."""

_AWAY: Told = {"evp_log_up": 0}
_log = get("evp.metrics")


class LogGauges:
    """Looks at all streams over connections of its own, opened when it is first asked."""

    def __init__(self, settings: Settings) -> None:
        self._log = Everywhere(settings)
        self._told: Mapping[str, Told] = {}
        self._again_at_s = 0.0
        self._turn = asyncio.Lock()

    async def look(self) -> Mapping[str, Told]:
        """Return by partition what the log tells now, or a moment ago. Does not raise."""
        async with self._turn:
            if monotonic_s() >= self._again_at_s:
                self._told = await self._look()
                self._again_at_s = monotonic_s() + METRICS_LOOK_KEEP_S
            return self._told

    async def close(self) -> None:
        """Close the connections."""
        await self._log.close()

    async def _look(self) -> Mapping[str, Told]:
        answers = await self._log.ask(_seen, METRICS_LOOK_S_MAX)
        seen = {}
        for number, answer in enumerate(answers):
            if isinstance(answer, LogUnavailable):
                _log.debug("metrics without the log", partition=number, reason=str(answer))
            else:
                seen[number] = answer
        names = _furthest_behind(facts for facts, _ in seen.values())
        return {
            str(number): _told(*seen[number], names) if number in seen else _AWAY
            for number in range(len(answers))
        }


async def _seen(link: Link, keys: Keys) -> tuple[LogFacts, Memory | None]:
    return await log_facts(link, keys), await memory(link)


def _furthest_behind(seen: Iterable[LogFacts]) -> set[str]:
    """Return the groups that are told of: somebody may have made any number of them."""
    behind_s: dict[str, float] = {}
    for facts in seen:
        for group in facts.groups:
            behind_s[group.name] = max(behind_s.get(group.name, 0.0), group.lag_s)
    return set(heapq.nlargest(METRICS_GROUPS_MAX, behind_s, key=behind_s.__getitem__))


def _told(facts: LogFacts, memory: Memory | None, names: Collection[str]) -> Told:
    groups = [one for one in facts.groups if one.name in names]
    told: dict[str, float | Mapping[str, float]] = {
        "evp_log_up": 1,
        "evp_stream_entries": facts.length,
        "evp_stream_accepted_events_total": facts.events_accepted,
        "evp_stream_lag_events": {one.name: one.lag_events for one in groups},
        "evp_stream_pending_entries": {one.name: one.pending for one in groups},
        "evp_stream_pending_events": {one.name: one.pending_events for one in groups},
        "evp_stream_oldest_age_seconds": {one.name: one.lag_s for one in groups},
    }
    if memory is not None:
        told["evp_stream_memory_bytes"] = memory.used_bytes
        if memory.mark_bytes is not None:
            told["evp_stream_memory_limit_bytes"] = memory.mark_bytes
    return told
