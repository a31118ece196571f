"""What waits in the log during a drill."""

from __future__ import annotations

import contextlib

from evp.clock import monotonic_s
from evp.errors import EngineFailed, LogUnavailable
from evp.settings import Settings
from evp.stream.everywhere import Everywhere
from evp.stream.groups import drop_group
from evp.stream.info import LogFacts, log_facts


class Backlog:
    """All partitions of the log, as the group stands in them that writes to the store."""

    def __init__(self, settings: Settings) -> None:
        self._group = settings.consumer_group
        self._log = Everywhere(settings)

    async def drop_group(self) -> None:
        """Destroy the group in all partitions, as an accident would.

        Raises LogUnavailable, and EngineFailed if there was none in any of them.
        """
        if not any(
            await self._log.ask_each(lambda link, keys: drop_group(link, keys, self._group))
        ):
            raise EngineFailed(f"there was no group {self._group} to destroy")

    async def is_settled(self, upto_s: float) -> bool:
        """Return whether the group has done with all that was accepted before a moment.

        A log that is away, or has no such group, is not settled. The moment is monotonic.
        """
        asked_at_s = monotonic_s()
        with contextlib.suppress(LogUnavailable):
            seen = await self._log.ask_each(log_facts)
            return all(self._is_settled(facts, asked_at_s - upto_s) for facts in seen)
        return False

    async def close(self) -> None:
        """Close the connections."""
        await self._log.close()

    def _is_settled(self, facts: LogFacts, age_s: float) -> bool:
        for group in facts.groups:
            if group.name == self._group:
                return group.lag_s < age_s
        return facts.length == 0
