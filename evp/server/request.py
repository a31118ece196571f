"""What of a request decides how it is read: path, media type, length, and what else is being read.

Both HTTP layers ask here, so that a request is treated alike by either.
"""

from __future__ import annotations

from collections.abc import Iterable

from evp.codec import Media
from evp.errors import Refusal
from evp.limits import BATCH_BODY_BYTES_MAX, BODIES_BYTES_MAX, SINGLE_BODY_BYTES_MAX

EVENT_PATH = b"/events"
BATCH_PATH = b"/events/batch"

_EVENT, _ARRAY = Media.EVENT, Media.ARRAY
_JSON = b"application/json"
_NDJSON = (b"application/x-ndjson", b"application/ndjson")
_CHARSETS = (b"utf-8", b'"utf-8"', b"utf8")


def media_of(path: bytes, content_type: bytes | None) -> Media:
    """Return the shape of the body. Raises Refusal `unsupported_media_type`."""
    if content_type == _JSON:
        return _EVENT if path == EVENT_PATH else _ARRAY
    kind, *parameters = (content_type or b"").lower().split(b";")
    for parameter in parameters:
        name, _, value = parameter.strip().partition(b"=")
        if name == b"charset" and value.strip() not in _CHARSETS:
            raise Refusal("unsupported_media_type", "the charset must be UTF-8")
    kind = kind.strip()
    if kind == _JSON:
        return Media.EVENT if path == EVENT_PATH else Media.ARRAY
    if kind in _NDJSON and path == BATCH_PATH:
        return Media.NDJSON
    wanted = (
        "application/json" if path == EVENT_PATH else "application/json or application/x-ndjson"
    )
    raise Refusal("unsupported_media_type", f"send content-type {wanted}")


def only(name: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """Return the value of a header. Raises Refusal `invalid_request` if it is there twice.

    Of two that differ, a proxy in front may have looked at the other one.
    """
    values = [value for one, value in headers if one == name]
    if len(values) > 1:
        raise Refusal("invalid_request", f"the header {name.decode()} is there twice")
    return values[0] if values else None


def body_bytes_max(path: bytes) -> int:
    """Return how large the body of a request may be."""
    return SINGLE_BODY_BYTES_MAX if path == EVENT_PATH else BATCH_BODY_BYTES_MAX


def too_large(path: bytes) -> Refusal:
    """Return the refusal of a body that is larger."""
    return Refusal("body_too_large", f"a body may have {body_bytes_max(path)} bytes here")


class Bodies:
    """The bodies of one server process of which a part has come: so many bytes at most."""

    def __init__(self) -> None:
        self.held_bytes = 0

    def hold(self, size_bytes: int) -> None:
        """Count a part of a body. Raises Refusal `server_busy` if there are too many already."""
        if self.held_bytes + size_bytes > BODIES_BYTES_MAX:
            raise Refusal("server_busy", "too many bodies are on their way", retry_after_s=1)
        self.held_bytes += size_bytes

    def release(self, size_bytes: int) -> None:
        """Count parts no longer: the body was taken, or its client has gone."""
        self.held_bytes -= size_bytes
