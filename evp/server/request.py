"""What of a request decides how it is read: path, media type, length, and what else is being read.

Both HTTP layers ask here, so that a request is treated alike by either.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterable
from itertools import count
from types import TracebackType
from typing import Self

from evp.cloudevents import REQUIRED_HEADERS
from evp.codec import Media
from evp.errors import Refusal
from evp.limits import BATCH_BODY_BYTES_MAX
from evp.server.answer import Headers
from evp.server.limits import (
    BODIES_BYTES_MAX,
    BODIES_IN_THREADS_MAX,
    PATH_BYTES_MAX,
    QUERY_BYTES_MAX,
    QUERY_PARAMETERS_MAX,
    REQUEST_ID_CHARS_MAX,
    SINGLE_BODY_BYTES_MAX,
)

EVENT_PATH = b"/events"
BATCH_PATH = b"/events/batch"

#: A request with two of one of these could be read in two ways.
SINGLE_HEADERS = frozenset((b"authorization", b"content-type", b"host", b"x-api-key"))

_EVENT, _ARRAY = Media.EVENT, Media.ARRAY
_JSON = b"application/json"
_OTHER_MODES = b"application/cloudevents"
_CHARSETS = (b"utf-8", b'"utf-8"', b"utf8")
_MEDIA_BY_PATH = {
    EVENT_PATH: {
        _JSON: Media.EVENT,
        b"application/cloudevents+json": Media.CLOUD_EVENT,
    },
    BATCH_PATH: {
        _JSON: Media.ARRAY,
        b"application/x-ndjson": Media.NDJSON,
        b"application/ndjson": Media.NDJSON,
        b"application/cloudevents-batch+json": Media.CLOUD_BATCH,
    },
}
_ID_PREFIX = f"{os.urandom(6).hex()}-".encode()
_numbers = count(1)
_SANE_ID = re.compile(rb"[\w.:/+=@-]{1,%d}" % REQUEST_ID_CHARS_MAX)


def media_of(path: bytes, content_type: bytes | None) -> Media:
    """Return the shape of the body. Raises Refusal `unsupported_media_type`."""
    if content_type == _JSON:
        return _EVENT if path == EVENT_PATH else _ARRAY
    kind, *parameters = (content_type or b"").lower().split(b";")
    media_by_kind = _MEDIA_BY_PATH[path]
    media = media_by_kind.get(kind.strip())
    if media is None:
        wanted = ", ".join(known.decode() for known in media_by_kind)
        raise Refusal("unsupported_media_type", f"send one of these as content-type: {wanted}")
    require_utf8(parameters)
    return media


def require_utf8(parameters: Iterable[bytes]) -> None:
    """Raise Refusal `unsupported_media_type` if a content type, in lower case, is not UTF-8."""
    for parameter in parameters:
        name, _, value = parameter.strip().partition(b"=")
        if name == b"charset" and value.strip() not in _CHARSETS:
            raise Refusal("unsupported_media_type", "the charset must be UTF-8")


def media_of_request(path: bytes, headers: Headers) -> Media:
    """Return the same for any request, in CloudEvents' binary mode too."""
    given = dict(headers)
    content_type = given.get(b"content-type")
    in_binary_mode = path == EVENT_PATH and not REQUIRED_HEADERS.isdisjoint(given)
    if in_binary_mode and not (content_type or b"").lower().startswith(_OTHER_MODES):
        return Media.BINARY
    return media_of(path, content_type)


def header_twice(headers: Iterable[tuple[bytes, bytes]]) -> Refusal | None:
    """Return why a request is refused that has a header twice of which there is one."""
    seen: set[bytes] = set()
    for name, _ in headers:
        if name in seen:
            return Refusal("invalid_request", f"the header {name.decode()} is there twice")
        if name in SINGLE_HEADERS:
            seen.add(name)
    return None


def target_too_large(path: bytes, query: bytes) -> Refusal | None:
    """Return why a request is refused whose path or query has more than any route takes."""
    if len(path) > PATH_BYTES_MAX:
        return Refusal("not_found", "there is nothing at this path")
    if len(query) > QUERY_BYTES_MAX:
        return Refusal("invalid_query", f"the query may have {QUERY_BYTES_MAX} bytes")
    if query.count(b"&") >= QUERY_PARAMETERS_MAX:
        return Refusal("invalid_query", f"the query may have {QUERY_PARAMETERS_MAX} parameters")
    return None


def sane_id(request_id: bytes | None) -> bytes | None:
    """Return the id that a client gave its request; None if there is none, or it is odd."""
    if request_id is not None and _SANE_ID.fullmatch(request_id):
        return request_id
    return None


def new_id() -> bytes:
    """Return an id for a request that has none: of this process, and numbered in it."""
    return b"%b%d" % (_ID_PREFIX, next(_numbers))


def body_bytes_max(path: bytes) -> int:
    """Return how large the body of a request may be, and how large what is packed in it."""
    return SINGLE_BODY_BYTES_MAX if path == EVENT_PATH else BATCH_BODY_BYTES_MAX


def too_large(most_bytes: int) -> Refusal:
    """Return the refusal of a body that is larger."""
    return Refusal("body_too_large", f"a body may have {most_bytes} bytes here")


class Bodies:
    """The bodies of one server process that are being read: so many bytes at most."""

    def __init__(self) -> None:
        self.held_bytes = 0
        self.threads = asyncio.Semaphore(BODIES_IN_THREADS_MAX)
        """Whoever works on a large body in a thread holds this."""

    def hold(self, size_bytes: int) -> None:
        """Count a part of a body. Raises Refusal `server_busy` if there are too many already."""
        if self.held_bytes + size_bytes > BODIES_BYTES_MAX:
            raise Refusal("server_busy", "too many bodies are on their way", retry_after_s=1)
        self.held_bytes += size_bytes

    def release(self, size_bytes: int) -> None:
        """Count parts no longer: the body was taken, or its client has gone."""
        self.held_bytes -= size_bytes


class Hold:
    """What one request holds of them, until it is left."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._held_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._bodies.release(self._held_bytes)

    def add(self, size_bytes: int) -> None:
        """Count a part more. Raises Refusal `server_busy`."""
        self._bodies.hold(size_bytes)
        self._held_bytes += size_bytes
