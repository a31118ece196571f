"""What a request is answered with, whichever HTTP layer it came by."""

from __future__ import annotations

from http import HTTPStatus
from typing import NamedTuple

Headers = tuple[tuple[bytes, bytes], ...]

_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}


class Answer(NamedTuple):
    """A whole answer; `headers` lack the content length, which follows from the body."""

    status: int
    body: bytes
    headers: Headers


def on_the_wire(answer: Answer, *, keep_alive: bool) -> bytes:
    """Return an answer as HTTP/1.1."""
    lines = [_STATUS_LINES[answer.status]]
    lines += [b"%b: %b\r\n" % header for header in answer.headers]
    lines.append(b"content-length: %d\r\n" % len(answer.body))
    lines.append(b"\r\n" if keep_alive else b"connection: close\r\n\r\n")
    lines.append(answer.body)
    return b"".join(lines)
