"""The live view of `evp stats`: looks again and again, draws, and hears keys."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime

from msgspec import Struct

from evp.cli.output import Output
from evp.cli.screen import Screen
from evp.cli.steering import press
from evp.clock import monotonic_s, now
from evp.errors import LogUnavailable
from evp.history import History
from evp.signals import end
from evp.stats import STORE_WAIT_S, Collector, Stats
from evp.views.live import Away, LiveView, Picture, Steering
from evp.views.stats_parts import Seen

#: Drawn anew this often whatever happens, for the ages of things.
_DRAW_S = 1.0


async def watch_live(output: Output, collector: Collector, first: Stats, every_s: float) -> None:
    """Show the live view, from a first look on, until `q` is pressed or a signal comes."""
    watch = Watch(first, every_s)
    screen = Screen(output, watch.press, watch.changed)
    watch.steering.has_keys = screen.has_keys
    looking = asyncio.create_task(watch.look_on(collector))
    looking.add_done_callback(lambda _: watch.changed.set())
    try:
        with screen:
            while output.is_heard and not watch.is_over and not screen.ended_by:
                screen.draw(LiveView(watch.picture()))
                await watch.wait()
                if looking.done():
                    looking.result()
    finally:
        await end(looking)
    screen.die()


class _Look(Struct):
    """What was seen last, and when, by both clocks."""

    seen: Seen
    at: datetime
    at_s: float


class Watch:
    """What was seen, what the keys have chosen, and `changed` where either is new."""

    def __init__(self, first: Stats, every_s: float) -> None:
        self.steering = Steering()
        self.changed = asyncio.Event()
        self.is_over = False
        self._every_s = every_s
        self._history = History()
        self._away: Away | None = None
        self._away_at_s = 0.0
        self._last = self._held = self._remember(first)

    def press(self, key: str) -> None:
        """Do what a key means."""
        was_paused = self.steering.is_paused
        self.is_over = not press(self.steering, key)
        if self.steering.is_paused and not was_paused:
            self._held = self._last
        self.changed.set()

    def picture(self) -> Picture:
        """Return what is to be shown now."""
        now_s, look = monotonic_s(), self._held if self.steering.is_paused else self._last
        if self._away is not None:
            self._away.for_s = now_s - self._away_at_s
            if not self.steering.is_paused:
                # What nobody sees leaves a gap.
                look.seen.until_s = now_s
        return Picture(
            look.seen, look.at, now_s - look.at_s, self._every_s, self._away, self.steering
        )

    async def wait(self) -> None:
        """Wait until there is something new to show, or for a second."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAW_S):
                await self.changed.wait()
        self.changed.clear()

    async def look_on(self, collector: Collector) -> None:
        """Look again and again until cancelled; a log that is away is told."""
        wait_s = min(self._every_s, _DRAW_S)
        while True:
            await asyncio.sleep(wait_s)
            began_at_s = monotonic_s()
            try:
                self._last = self._remember(await collector.look(STORE_WAIT_S))
                self._away = None
            except LogUnavailable as error:
                self._history.interrupt()
                if self._away is None:
                    self._away, self._away_at_s = Away(now(), 0.0, ""), began_at_s
                self._away.reason = str(error)
            self.changed.set()
            wait_s = max(0.0, self._every_s - (monotonic_s() - began_at_s))

    def _remember(self, stats: Stats) -> _Look:
        at_s = monotonic_s()
        return _Look(Seen(stats, self._history.add(stats, at_s), at_s), now(), at_s)
