"""What a request is answered with, whichever HTTP layer it came by."""

from __future__ import annotations

from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

from msgspec import Struct

Headers = tuple[tuple[bytes, bytes], ...]

_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


class Accepted(Struct):
    """The body of a 202 to one event. `evp.server.accept` writes it by hand, for speed."""

    event_id: str
    receipt: str
    """Where it stands in the log; opaque, for `GET /events/{event_id}?receipt=`."""
    durability: str


class Rejected(Struct):
    """An event of a batch that was left out."""

    index: int
    code: str
    detail: str


class AcceptedBatch(Struct):
    """The body of a 202 to a batch."""

    accepted: int
    rejected: list[Rejected]
    receipt: str
    durability: str


class Answer(NamedTuple):
    """A whole answer; `headers` lack the content length, which follows from the body."""

    status: int
    body: bytes
    headers: Headers


def on_the_wire(answer: Answer, *, keep_alive: bool) -> bytes:
    """Return an answer as HTTP/1.1."""
    head, body = _head(answer.status, answer.headers, keep_alive), answer.body
    return b"%b%d\r\n\r\n%b" % (head, len(body), body)


@lru_cache(maxsize=256)
def _head(status: int, headers: Headers, keep_alive: bool) -> bytes:  # noqa: FBT001 - is a part of the key
    """Return all that comes before the length of the body: there are few such."""
    lines = [_STATUS_LINES[status], *(b"%b: %b\r\n" % header for header in headers)]
    if not keep_alive:
        lines.append(b"connection: close\r\n")
    return b"".join([*lines, b"content-length: "])
