"""Asking all streams of a deployment at once.

One whose server is away keeps nobody waiting for long, and is told by its number.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Self, TypeVar

from evp.clock import monotonic_s
from evp.errors import LogUnavailable
from evp.limits import PARTITIONS_LOOK_S
from evp.settings import Settings
from evp.stream.asking import asked
from evp.stream.client import Link
from evp.stream.keys import Keys
from evp.stream.partitions import Partition, Partitions, known

T = TypeVar("T")

Ask = Callable[[Link, Keys], Awaitable[T]]
"""Asks one stream; raises LogUnavailable. Asked again from its beginning if the stream moves."""


class Everywhere:
    """All streams that there ever were, over a connection of its own to each.

    Its questions must not overlap.
    """

    def __init__(self, settings: Settings) -> None:
        self._partitions = Partitions(settings)
        self._look_again_at_s = 0.0

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, settings: Settings) -> AsyncIterator[Self]:
        """Give them for a while."""
        everywhere = cls(settings)
        try:
            yield everywhere
        finally:
            await everywhere.close()

    def __len__(self) -> int:
        return len(self._partitions)

    @property
    def partitions(self) -> Sequence[Partition]:
        """Those that are known."""
        return list(self._partitions)

    def grow(self, count: int) -> None:
        """Know of `count` streams at least; the store may know more than the log."""
        self._partitions.grow(count)

    async def close(self) -> None:
        """Close all connections."""
        await self._partitions.close()

    async def ask(self, ask: Ask[T], within_s: float | None = None) -> list[T | LogUnavailable]:
        """Return by number what each stream answers, or why it does not.

        An answer is waited for `within_s` at most.
        """
        answers: list[T | LogUnavailable] = []
        # Partition 0 may tell that there are more.
        while fresh := self.partitions[len(answers) :]:
            answers += await asyncio.gather(*(self._ask(one, ask, within_s) for one in fresh))
        return answers

    async def ask_each(self, ask: Ask[T]) -> list[T]:
        """Return by number what each stream answers.

        Raises LogUnavailable if one does not, with its number if there are several.
        """
        answers = []
        for number, answer in enumerate(await self.ask(ask)):
            if isinstance(answer, LogUnavailable):
                raise self.named(answer, number)
            answers.append(answer)
        return answers

    def named(self, error: LogUnavailable, number: int) -> LogUnavailable:
        """Return why a stream does not answer; among several with its number."""
        if len(self) == 1:
            return error
        named = LogUnavailable(f"partition {number}: {error}")
        named.__cause__ = error
        return named

    def server_of(self, number: int) -> str:
        """Return which server has a stream, as `host:port`; empty before it was dialled."""
        node = self._partitions[number].link.node
        return "" if node is None else str(node)

    async def _ask(self, one: Partition, ask: Ask[T], within_s: float | None) -> T | LogUnavailable:
        async def look_and_ask(link: Link) -> T:
            if one.number == 0 and monotonic_s() >= self._look_again_at_s:
                self.grow(await known(link, one.keys))
                self._look_again_at_s = monotonic_s() + PARTITIONS_LOOK_S
            return await ask(link, one.keys)

        try:
            async with asyncio.timeout(within_s):
                return await asked(one.link, look_and_ask)
        except LogUnavailable as error:
            return error
        except TimeoutError:
            return LogUnavailable(f"the log did not answer within {within_s:g} s")
