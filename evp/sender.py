"""Sending NDJSON to a server: batches, retries as the server asks, and an account by code.

A batch is refused as a whole. Where the refusal names one event, the rest is
sent again without it; where it doesn't, halves are sent, down to the culprit.
Events should have an `id` (and a time): then sending one twice stores one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import msgspec
from msgspec import Struct, field

from evp.errors import ServerUnavailable
from evp.http import HttpConnection, Reply
from evp.limits import EVENT_BYTES_MAX, SEND_ATTEMPTS_MAX, SEND_BYTES_MAX, SEND_EVENTS_MAX

_REFUSED_LINES_MAX = 20
_LINE_BYTES_MAX = EVENT_BYTES_MAX + 2
_UNAVAILABLE = 503
_TOO_MANY = 429
_ACCEPTED = 202
_NOT_WITH_THIS_KEY = frozenset((401, 403))


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
        self._headers = {"content-type": "application/x-ndjson", "x-api-key": key}
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
        waiting = [batch]
        while waiting:
            lines = waiting.pop()
            reply = await self._post(lines)
            if reply.status == _ACCEPTED:
                self.account.accepted += len(lines)
            elif reply.status in _NOT_WITH_THIS_KEY:
                for line in lines:
                    self.account.refuse(line, reply.code, reply.detail)
            elif len(lines) == 1:
                self.account.refuse(lines[0], reply.code, reply.detail)
            else:
                culprit = _index(reply)
                if culprit is not None and culprit < len(lines):
                    self.account.refuse(lines[culprit], reply.code, reply.detail)
                    waiting.append(lines[:culprit] + lines[culprit + 1 :])
                else:
                    middle = len(lines) // 2
                    waiting += [lines[middle:], lines[:middle]]

    async def _post(self, lines: list[Line]) -> Reply:
        """Send one batch until there is an answer other than "try again"."""
        body = b"\n".join(line.text for line in lines)
        why = ""
        for attempt in range(SEND_ATTEMPTS_MAX):
            try:
                reply = await self._connection.request("POST", "/events/batch", body, self._headers)
            except ServerUnavailable:
                # The first request says whether there is a server at all.
                if self.account.accepted == 0 or attempt + 1 == SEND_ATTEMPTS_MAX:
                    raise
                wait_s = float(attempt + 1)
            else:
                if reply.status not in {_UNAVAILABLE, _TOO_MANY}:
                    return reply
                wait_s = reply.retry_after_s
                why = f"{reply.code}: {reply.detail}"
            await asyncio.sleep(wait_s * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
        raise ServerUnavailable(f"evp keeps answering {why}")


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


def _index(reply: Reply) -> int | None:
    try:
        found = msgspec.json.decode(reply.body).get("index")
    except (msgspec.DecodeError, AttributeError):
        return None
    return found if isinstance(found, int) else None
