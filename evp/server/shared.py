"""Equal questions, asked at the same time or shortly after each other, get one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from evp.clock import monotonic_s
from evp.server.limits import ANSWERS_MAX
from evp.signals import end

T = TypeVar("T")


class Shared(Generic[T]):
    """Answers by question. One is made once at a time, and kept for `keep_s` after that.

    Whoever asks may leave: the answer is made all the same, for the others.
    """

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        self._making: dict[Hashable, asyncio.Task[T]] = {}
        self._made: dict[Hashable, tuple[float, T]] = {}

    async def get(self, question: Hashable, make: Callable[[], Awaitable[T]]) -> T:
        """Return the answer to a question; raises what `make` raises, to all who wait for it."""
        now_s = monotonic_s()
        self._made = {key: one for key, one in self._made.items() if now_s < one[0]}
        if question in self._made:
            return self._made[question][1]
        task = self._making.get(question)
        if task is None:
            task = self._making[question] = asyncio.create_task(self._make(question, make))
            task.add_done_callback(_look_at)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """End what is under way."""
        await end(*self._making.values())

    async def _make(self, question: Hashable, make: Callable[[], Awaitable[T]]) -> T:
        try:
            answer = await make()
        finally:
            del self._making[question]
        if len(self._made) >= ANSWERS_MAX:
            del self._made[next(iter(self._made))]
        self._made[question] = (monotonic_s() + self._keep_s, answer)
        return answer


def _look_at(task: asyncio.Task[T]) -> None:
    """Take note of how a task ended, where nobody waits for it any more."""
    if not task.cancelled():
        task.exception()
