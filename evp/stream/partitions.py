"""The streams of one deployment: how many there are, and a connection to each.

Servers spread requests over the first PARTITIONS of them, and note beforehand, with
partition 0, how many that is. The number only grows: workers and whoever looks follow
every stream that there ever was, also after servers were started with fewer. The
store knows it too (`evp.storage.partitions`), as the log can lose its memory.
"""

from __future__ import annotations

from collections.abc import Iterator

from evp.errors import LogUnavailable
from evp.limits import DURABLE_WAIT_MS_MAX, PARTITIONS_MAX
from evp.settings import Settings
from evp.stream.client import KeptLink, Link, LogRefused, Reply
from evp.stream.keys import Keys
from evp.stream.scripts import RAISE_PARTITIONS


class Partition:
    """One stream: its keys, and a link of the holder's own to the server that has it."""

    def __init__(self, settings: Settings, number: int) -> None:
        self.number = number
        self.keys = Keys(settings.stream, number)
        self.link = KeptLink(settings.redis_url, self.keys)


class Partitions:
    """All streams that are known: those of the settings, and those that `look` or `grow` found."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._all: list[Partition] = []
        self.grow(settings.partitions)

    def __iter__(self) -> Iterator[Partition]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, number: int) -> Partition:
        return self._all[number]

    async def look(self) -> None:
        """Find those that servers have noted in the log. Raises LogUnavailable."""
        first = self._all[0]
        self.grow(await known(await first.link.get(), first.keys))

    def grow(self, count: int) -> None:
        """Know of `count` streams at least."""
        for number in range(len(self._all), min(count, PARTITIONS_MAX)):
            self._all.append(Partition(self._settings, number))

    async def close(self) -> None:
        """Close all links."""
        for one in self._all:
            await one.link.close()


async def known(link: Link, keys: Keys) -> int:
    """Return how many streams servers have noted; `keys` are of partition 0.

    Raises LogUnavailable.
    """
    return _bounded(await link.call("GET", keys.partitions))


async def note(link: Link, keys: Keys, count: int, replicas: int = 0) -> int:
    """Note that there are `count` streams; return how many there ever were.

    `keys` are of partition 0. Call it before anything is appended to them. When it returns
    the log has it on disk, and so many of its replicas; a log that does not know or may not
    tell is taken at its word, as under DURABILITY=declared. Raises LogUnavailable.
    """
    script = (RAISE_PARTITIONS, (keys.partitions,), (count,))
    wait = ("WAITAOF", 1, replicas, DURABLE_WAIT_MS_MAX)
    try:
        most, (local, remote) = await link.script_then(
            *script, wait, wait_s=DURABLE_WAIT_MS_MAX / 1000
        )
    except LogRefused as error:
        if error.number == 0:
            raise
        most = await link.script(*script)
    else:
        if local < 1 or remote < replicas:
            raise LogUnavailable("the number of partitions is not on enough disks yet")
    return _bounded(most)


def _bounded(told: Reply) -> int:
    """Return a number that the log told; anybody may have written anything there."""
    try:
        return max(1, min(int(told or 1), PARTITIONS_MAX))
    except ValueError:
        return 1
