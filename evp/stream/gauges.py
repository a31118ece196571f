"""What the log tells for metrics: how far each group is, and how full the memory is.

Asked for at most once a second, however many ask; a log that is away or hangs costs
whoever asks no more than METRICS_LOOK_S_MAX.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from evp.clock import monotonic_s
from evp.errors import LogUnavailable
from evp.limits import METRICS_GROUPS_MAX, METRICS_LOOK_KEEP_S, METRICS_LOOK_S_MAX
from evp.logs import get
from evp.stream.client import KeptLink
from evp.stream.info import LogFacts, log_facts
from evp.stream.keys import Keys
from evp.stream.memory import Memory, memory

Told = Mapping[str, float | Mapping[str, float]]
"""Values by family; of some one for each group."""

_AWAY: Told = {"evp_log_up": 0}
_log = get("evp.metrics")


class LogGauges:
    """Looks at one stream over a connection of its own, opened when it is first asked."""

    def __init__(self, url: str, keys: Keys) -> None:
        self._keys = keys
        self._link = KeptLink(url, keys)
        self._told = _AWAY
        self._again_at_s = 0.0
        self._turn = asyncio.Lock()

    async def look(self) -> Told:
        """Return what the log tells now, or a moment ago. Does not raise."""
        async with self._turn:
            if monotonic_s() >= self._again_at_s:
                try:
                    async with asyncio.timeout(METRICS_LOOK_S_MAX):
                        self._told = await self._look()
                except (LogUnavailable, TimeoutError) as error:
                    _log.debug("metrics without the log", reason=str(error) or "no answer in time")
                    self._told = _AWAY
                self._again_at_s = monotonic_s() + METRICS_LOOK_KEEP_S
            return self._told

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()

    async def _look(self) -> Told:
        link = await self._link.get()
        return _told(await log_facts(link, self._keys), await memory(link))


def _told(facts: LogFacts, memory: Memory | None) -> Told:
    # Those that are furthest behind; somebody may have made any number of groups.
    groups = sorted(facts.groups, key=lambda group: -group.lag_s)[:METRICS_GROUPS_MAX]
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
