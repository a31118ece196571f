"""The metrics of one process, and of those that were started with it: whoever is asked tells all.

Each process counts for itself. Where there are several, each puts what it has
counted on their board once a second, and the one that is asked reads it. What it
tells is told for a second: its own numbers are at most so old, those of the others
two.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Mapping

import evp
from evp.clock import monotonic_s
from evp.limits import METRICS_SHARE_S, METRICS_TEXT_KEEP_S
from evp.logs import get
from evp.metrics.board import Note, Place, Reading
from evp.metrics.exposition import format_of, readings_of, readings_of_process, told
from evp.metrics.families import Values

LookAtLog = Callable[[], Awaitable[Mapping[str, Values]]]
"""Returns what the log tells, by partition; does not raise."""

_log = get("evp.metrics")


class Exporter:
    """Tells the metrics. `count` returns what this process has counted; it is called in a thread.

    `place` is where it meets the others; None if it is alone, as `process`.
    """

    def __init__(
        self,
        process: str,
        count: Callable[[], Values],
        look_at_log: LookAtLog,
        place: Place | None = None,
    ) -> None:
        self._process = place.process if place is not None else process
        self._count = count
        self._look_at_log = look_at_log
        self._place = place
        self._making = asyncio.Lock()
        self._made: dict[str, tuple[float, tuple[bytes, str]]] = {}

    async def run(self) -> None:
        """Put what was counted on the board, until cancelled; returns at once without one."""
        place = self._place
        while place is not None:
            try:
                await asyncio.to_thread(lambda: place.write(self._readings()))
            except (OSError, ValueError) as error:
                _log.warning("metrics are not shared", reason=str(error))
            await asyncio.sleep(METRICS_SHARE_S)

    async def told(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics as text, and its content type; `accept` is what the client prefers.

        It is made once a second in each format, however many ask.
        """
        format_ = format_of(accept)
        async with self._making:
            until_s, text = self._made.get(format_, (0.0, (b"", "")))
            if monotonic_s() >= until_s:
                log = await self._look_at_log()
                text = await asyncio.to_thread(lambda: told(self._notes(), log, format_))
                self._made[format_] = (monotonic_s() + METRICS_TEXT_KEEP_S, text)
        return text

    def _notes(self) -> list[Note]:
        others = self._place.others() if self._place is not None else []
        mine = Note(self._process, 0.0, self._readings())
        return sorted([mine, *others], key=lambda note: note.process)

    def _readings(self) -> list[Reading]:
        build = {"evp_build_info": {evp.__version__: 1}}
        return [*readings_of(self._count()), *readings_of(build), *readings_of_process()]


def may_read(token: str | None, authorization: str | None) -> bool:
    """Return whether a client may read metrics, by its authorization header."""
    if token is None:
        return True
    given = (authorization or "").encode("latin-1", "replace")
    return hmac.compare_digest(given, f"Bearer {token}".encode())
