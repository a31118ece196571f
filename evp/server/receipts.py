"""What the server hands out and takes back: receipts of requests, cursors of pages.

A receipt is what `evp.receipt` says. A cursor is the place of the last event that was
told, in base64. Neither holds anything secret; what was changed is refused or leads
elsewhere in the same list.
"""

from __future__ import annotations

import struct
from base64 import b64decode, urlsafe_b64encode

from evp.clock import MS_MAX
from evp.errors import Refusal
from evp.receipt import Receipt, receipt_of
from evp.server.queries import invalid
from evp.storage.buckets import BUCKET_MS
from evp.storage.listing import Place

_CURSOR = struct.Struct(">Bq12sI")
_CURSOR_VERSION = 1


def read_receipt(text: str) -> Receipt:
    """Return a receipt. Raises Refusal `invalid_query`."""
    receipt = receipt_of(text)
    if receipt is None:
        raise invalid("receipt is no receipt of this server")
    return receipt


def write_cursor(place: Place) -> str:
    """Return a cursor that goes on behind a place."""
    fields = (_CURSOR_VERSION, place.bucket_ms, place.frame_id, place.index)
    return urlsafe_b64encode(_CURSOR.pack(*fields)).rstrip(b"=").decode()


def read_cursor(text: str) -> Place:
    """Return the place of a cursor. Raises Refusal `invalid_query`."""
    try:
        raw = b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        version, bucket_ms, frame_id, index = _CURSOR.unpack(raw)
    except (ValueError, struct.error) as error:
        raise _no_cursor() from error
    if version != _CURSOR_VERSION or not 0 <= bucket_ms <= MS_MAX or bucket_ms % BUCKET_MS:
        raise _no_cursor()
    return Place(bucket_ms, frame_id, index)


def _no_cursor() -> Refusal:
    return invalid("cursor is none of this server: take it as the page before gave it")
