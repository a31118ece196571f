"""Asking the streams of all partitions which frames they still have."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from evp.clock import monotonic_s
from evp.errors import LogUnavailable
from evp.limits import PARTITION_AWAY_S
from evp.logs import get
from evp.settings import Settings
from evp.storage.sweep import Sought
from evp.stream.headers import in_log
from evp.stream.partitions import Partition, Partitions

_log = get("evp.worker")


class Streams:
    """Links to the streams, each dialled when it is first asked. Questions must not overlap.

    A server that is away is left alone for PARTITION_AWAY_S: it holds up nobody's sweep.
    """

    def __init__(self, settings: Settings) -> None:
        self._partitions = Partitions(settings)
        self._away_until_s: dict[int, float] = {}

    async def still_have(self, sought: Sequence[Sought]) -> set[bytes]:
        """Return which frames the log has, or may have because its server is away."""
        # A frame came by its partition, so there is one.
        self._partitions.grow(1 + max(one.partition for one in sought))
        of: dict[int, list[Sought]] = {}
        for one in sought:
            of.setdefault(one.partition, []).append(one)
        found = await asyncio.gather(*(self._ask(number, some) for number, some in of.items()))
        return set().union(*found)

    async def _ask(self, number: int, sought: list[Sought]) -> set[bytes]:
        there = {one.frame_id for one in sought}
        if number >= len(self._partitions) or monotonic_s() < self._away_until_s.get(number, 0.0):
            return there
        try:
            return await _have(self._partitions[number], sought)
        except LogUnavailable as error:
            self._away_until_s[number] = monotonic_s() + PARTITION_AWAY_S
            _log.debug("a sweep without a partition", partition=number, reason=str(error))
            return there

    async def close(self) -> None:
        """Close the links."""
        await self._partitions.close()


async def _have(partition: Partition, sought: Sequence[Sought]) -> set[bytes]:
    entries = [(one.entry_id, one.frame_id) for one in sought]
    return await in_log(await partition.link.get(), partition.keys, entries)
