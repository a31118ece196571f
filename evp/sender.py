"""Sending NDJSON to a server: batches, and an account of what was refused, by code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from msgspec import Struct, field

from evp.client.delivery import post_lines
from evp.http import HttpConnection
from evp.limits import EVENT_BYTES_MAX, SEND_BYTES_MAX, SEND_EVENTS_MAX, SEND_RETRY_S

_REFUSED_LINES_MAX = 20
_LINE_BYTES_MAX = EVENT_BYTES_MAX + 2


class Line(Struct, frozen=True):
    """One event's JSON text and its place in the input, from 1."""

    number: int
    text: bytes


class Refused(Struct, frozen=True):
    """One event that was refused."""

    line: int
    code: str
    detail: str


class Account(Struct):
    """What became of the events; `examples` are the first that were refused."""

    accepted: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    examples: list[Refused] = field(default_factory=list)

    def refuse(self, line: Line, code: str, detail: str) -> None:
        """Count one refused event."""
        self.refused[code] = self.refused.get(code, 0) + 1
        if len(self.examples) < _REFUSED_LINES_MAX:
            self.examples.append(Refused(line.number, code, detail))

    @property
    def refused_count(self) -> int:
        """How many were refused."""
        return sum(self.refused.values())


class Sender:
    """Sends lines over one connection."""

    def __init__(
        self,
        connection: HttpConnection,
        key: str,
        account: Account,
        progress: Callable[[Account], None],
    ) -> None:
        self.account = account
        self._connection = connection
        self._key = key
        self._progress = progress

    async def send(self, lines: Iterable[Line]) -> None:
        """Send all lines; the account tells what became of them.

        Raises ServerUnavailable if the server stays away.
        """
        for batch in batches(self._sendable(lines)):
            await self._send_batch(batch)
            self._progress(self.account)

    def _sendable(self, lines: Iterable[Line]) -> Iterator[Line]:
        """Return the lines that a server may accept; one that is too long would block a batch."""
        for line in lines:
            if len(line.text) > EVENT_BYTES_MAX:
                self.account.refuse(line, "event_too_large", f"more than {EVENT_BYTES_MAX} bytes")
            else:
                yield line

    async def _send_batch(self, batch: list[Line]) -> None:
        # The first request says whether there is a server at all.
        reached = self.account.accepted > 0
        texts = [line.text for line in batch]
        async for settled in post_lines(
            self._connection, self._key, texts, within_s=SEND_RETRY_S, again_if_away=reached
        ):
            self.account.accepted += len(settled.indexes) - len(settled.rejected)
            for one in settled.rejected:
                self.account.refuse(batch[one.index], one.code, one.detail)


def batches(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Group lines into requests, by count and bytes."""
    batch: list[Line] = []
    size_bytes = 0
    for line in lines:
        full = len(batch) >= SEND_EVENTS_MAX or size_bytes + len(line.text) > SEND_BYTES_MAX
        if batch and full:
            yield batch
            batch, size_bytes = [], 0
        batch.append(line)
        size_bytes += len(line.text) + 1
    if batch:
        yield batch


def lines_of(file: BinaryIO) -> Iterator[Line]:
    """Return the lines of an input with their numbers, without blank ones.

    Of a line that is longer than any event may be, only the beginning is kept.
    """
    number = 0
    while piece := file.readline(_LINE_BYTES_MAX):
        number += 1
        rest = piece
        while not rest.endswith(b"\n") and (rest := file.readline(_LINE_BYTES_MAX)):
            pass
        text = piece.strip()
        if text:
            yield Line(number, text)
