"""What the clients of a fault run did and were told: a log of their own, on disk before they send.

Each request is an `Invoke`, on disk before its first byte leaves, and then an
`Answer`; a request without an answer counts as unknown. `read` makes the sets
of it that the checker works on.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

DIGEST_BYTES = 16
_LENGTH_BYTES = 4

NOTHING_WRITTEN = frozenset((400, 401, 403, 404, 405, 409, 411, 413, 415, 422, 429))
"""Statuses that promise that nothing of the request was kept."""
NOTHING_WRITTEN_CODES = frozenset(("backlog_full", "log_not_durable"))
"""Codes of a 503 that promise it."""


class Invoke(Struct, tag="invoke"):
    """A request about to be sent: the events `<prefix>-<first>` and so on, one digest for each."""

    request: int
    at_s: float
    prefix: str
    first: int
    digests: bytes

    @property
    def events(self) -> Iterator[tuple[str, bytes]]:
        """Id and digest of each event."""
        for start in range(0, len(self.digests), DIGEST_BYTES):
            number = self.first + start // DIGEST_BYTES
            yield f"{self.prefix}-{number}", self.digests[start : start + DIGEST_BYTES]


class Answer(Struct, tag="answer"):
    """What a request was told: `ok`, `fail` (nothing was written), or `info` (nobody knows)."""

    request: int
    at_s: float
    verdict: str
    code: str = ""


class Seen(Struct, tag="seen"):
    """An event that was answered with 202 at `ok_at_s` and found in the store at `at_s`."""

    id: str
    ok_at_s: float
    at_s: float


Record = Invoke | Answer | Seen
_decoder = msgspec.msgpack.Decoder(Record)
_encoder = msgspec.msgpack.Encoder()
_sorted = msgspec.json.Encoder(order="sorted")


def content_digest(type_: str, subject: str, data: Any) -> bytes:
    """Return the digest of what must come back unchanged; the order of keys doesn't matter."""
    content = _sorted.encode([type_, subject, data])
    return sha256(content).digest()[:DIGEST_BYTES]


def verdict_of(status: int, code: str) -> str:
    """Return what an answer means for the events of its request; status 0 is no answer."""
    if status == 202:
        return "ok"
    if status in NOTHING_WRITTEN or (status == 503 and code in NOTHING_WRITTEN_CODES):
        return "fail"
    return "info"


class Log:
    """The clients' log. Many requests share one fsync."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._waiting: list[bytes] = []
        self._written = asyncio.Event()
        self._writing = asyncio.Lock()

    async def invoke(self, invoke: Invoke) -> None:
        """Write an invocation; returns when the disk has it."""
        self.note(invoke)
        written = self._written
        async with self._writing:
            if written.is_set():
                return
            content, self._waiting = b"".join(self._waiting), []
            self._written = asyncio.Event()
            await asyncio.to_thread(self._put, content)
            written.set()

    def note(self, record: Record) -> None:
        """Write something with the next invocation."""
        content = _encoder.encode(record)
        self._waiting.append(len(content).to_bytes(_LENGTH_BYTES, "big") + content)

    def close(self) -> None:
        """Write what is left."""
        self._put(b"".join(self._waiting))
        self._file.close()

    def _put(self, content: bytes) -> None:
        self._file.write(content)
        os.fdatasync(self._file.fileno())


def records(path: Path) -> Iterator[Record]:
    """Return what a log holds; a torn end, of a client that was killed, is left out."""
    content = path.read_bytes()
    for start, end in _framed(content):
        yield _decoder.decode(content[start:end])


def _framed(content: bytes) -> Iterator[tuple[int, int]]:
    """Give where each whole record begins and ends."""
    at = 0
    while at + _LENGTH_BYTES <= len(content):
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(content[at:start], "big")
        if at > len(content):
            return
        yield start, at


class Follower:
    """Counts the requests that were accepted, while the log grows: each part is read once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0
        self._accepted = 0

    def accepted(self) -> int:
        """Return how many were so far."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._at)
                content = file.read()
            for start, end in _framed(content):
                record = _decoder.decode(content[start:end])
                self._accepted += isinstance(record, Answer) and record.verdict == "ok"
                self._at += end - start + _LENGTH_BYTES
        return self._accepted


@dataclass
class History:
    """The log as sets of event ids.

    `contents` has every event that was ever sent (A), and what it held: more
    than one digest is one id for different events, on purpose. `ok` are those
    answered with 202 (K), by id the digests that were; `refused` those that got
    nothing else than a promise that nothing was written (F).
    """

    contents: dict[str, tuple[bytes, ...]] = field(default_factory=dict)
    ok: dict[str, tuple[bytes, ...]] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    seen: dict[str, float] = field(default_factory=dict)
    """Events that were looked for: seconds from their 202 until the store had them."""
    ok_at_s: list[float] = field(default_factory=list)
    codes: dict[str, int] = field(default_factory=dict)
    """How many requests got which answer."""


def read(all_records: Iterable[Record]) -> History:
    """Return the history that records tell."""
    history = History()
    open_: dict[int, Invoke] = {}
    unsure: set[str] = set()
    for record in all_records:
        if isinstance(record, Invoke):
            open_[record.request] = record
            for id_, digest in record.events:
                known = history.contents.get(id_, ())
                if digest not in known:
                    history.contents[id_] = (*known, digest)
        elif isinstance(record, Answer):
            _answered(history, unsure, open_.pop(record.request), record)
        else:
            history.seen[record.id] = record.at_s - record.ok_at_s
    for invoke in open_.values():
        unsure.update(id_ for id_, _ in invoke.events)
    history.refused -= unsure
    history.refused -= history.ok.keys()
    return history


def _answered(history: History, unsure: set[str], invoke: Invoke, answer: Answer) -> None:
    told = f"{answer.verdict} {answer.code}".strip()
    history.codes[told] = history.codes.get(told, 0) + 1
    if answer.verdict == "ok":
        history.ok_at_s.append(answer.at_s)
        for id_, digest in invoke.events:
            known = history.ok.get(id_, ())
            if digest not in known:
                history.ok[id_] = (*known, digest)
    else:
        ids = [id_ for id_, _ in invoke.events]
        (history.refused if answer.verdict == "fail" else unsure).update(ids)
