"""What a request is answered with, whichever HTTP layer it came by."""

from __future__ import annotations

from functools import lru_cache
from http import HTTPStatus

from msgspec import Struct

Headers = tuple[tuple[bytes, bytes], ...]

_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}

JSON = ((b"content-type", b"application/json"),)
"""Of every 202."""
REQUEST_ID = b"x-request-id"
CLOSE = ((b"connection", b"close"),)
"""Of the last answer on a connection."""
SAFE = ((b"x-content-type-options", b"nosniff"),)
"""Headers of every answer."""


class Answer(Struct, frozen=True):
    """A whole answer; `headers` lack what every answer has: length, id of the request, SAFE."""

    status: int
    body: bytes
    headers: Headers
    error: BaseException | None = None
    """Why it is no success: a Refusal, or what nobody foresaw."""

    def plus(self, headers: Headers) -> Answer:
        """Return the same answer with more headers."""
        return Answer(self.status, self.body, self.headers + headers, self.error)


def on_the_wire(answer: Answer, request_id: bytes, *, keep_alive: bool) -> bytes:
    """Return an answer as HTTP/1.1."""
    body, headers = answer.body, answer.headers
    if headers is JSON and keep_alive:
        head = _ACCEPTED
    else:
        head = _head(answer.status, headers, keep_alive)
    return b"%b%b\r\ncontent-length: %d\r\n\r\n%b" % (head, request_id, len(body), body)


@lru_cache(maxsize=256)
def _head(status: int, headers: Headers, keep_alive: bool) -> bytes:  # noqa: FBT001 - is a part of the key
    """Return all that comes before the id of the request: there are few such."""
    lines = [_STATUS_LINES[status], *(b"%b: %b\r\n" % header for header in (*headers, *SAFE))]
    if not keep_alive:
        lines.append(b"connection: close\r\n")
    return b"".join([*lines, REQUEST_ID, b": "])


_ACCEPTED = _head(202, JSON, keep_alive=True)
