"""What must hold for any bytes that a client may send: refused by a known code, or kept exactly."""

from __future__ import annotations

import bson
from bson import Binary
from bson.codec_options import CodecOptions
from msgspec import UNSET

from evp.codec import Decoded, Media, decode
from evp.documents import Admission
from evp.errors import STATUS_BY_CODE, Refusal
from evp.frame import Frame, OpenFrame, read_frame
from evp.server.problem import problem

MEDIA = tuple(Media)
_ADMISSION = Admission("fuzz", time_in_id=True)
_CODEC: CodecOptions[dict[str, object]] = CodecOptions(tz_aware=True)
_SRV = b"12345678"


def check(data: bytes) -> None:
    """Take the first byte for the shape of the body, the rest for the body.

    Raises AssertionError, or whatever the accept path raises that is no Refusal.
    """
    if not data:
        return
    media, body = MEDIA[data[0] % len(MEDIA)], data[1:]
    batch = media is not Media.EVENT
    frame = OpenFrame()
    try:
        decoded = decode(body, media)
        made, carrier = frame.encode(decoded, _ADMISSION, batch=batch)
    except Refusal as refusal:
        assert refusal.code in STATUS_BY_CODE
        assert problem(refusal).status == refusal.status < 500
        return
    frame.join(made, carrier)
    _compare(decoded, made.ids, read_frame("1-0", frame.fields(_SRV, 1)))


def _compare(decoded: Decoded, ids: list[bytes], frame: Frame) -> None:
    """Check that a worker finds what the client sent."""
    assert frame.ids == ids
    assert frame.count == len(decoded.events)
    assert sum(cell[2] for cell in frame.summary.cells) == frame.count
    for id_, event, raw in zip(ids, decoded.events, frame.documents, strict=True):
        document = bson.decode(raw.raw, _CODEC)
        assert document["_id"] == Binary(id_, 4)
        assert document["type"] == event.type
        if event.data is UNSET:
            assert "data" not in document
        else:
            assert document["data"] == event.data
