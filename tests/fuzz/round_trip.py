"""What must hold for any bytes that a client may send: refused by a known code, or kept exactly."""

from __future__ import annotations

import bson
from bson import Binary
from bson.codec_options import CodecOptions
from msgspec import UNSET

from evp.clock import from_ms, now, to_ms
from evp.cloudevents import decode_binary
from evp.codec import Decoded, Media, decode
from evp.documents import Admission
from evp.errors import STATUS_BY_CODE, Refusal
from evp.events import ATTRIBUTES, Event
from evp.frame import Frame, OpenFrame, read_frame
from evp.server.problem import problem
from evp.sift import sift

MEDIA = tuple(Media)
_BATCHES = (Media.ARRAY, Media.NDJSON, Media.CLOUD_BATCH)
_ADMISSION = Admission("fuzz", time_in_id=True)
_CODEC: CodecOptions[dict[str, object]] = CodecOptions(tz_aware=True)
_SRV = b"12345678"
_KEPT = sorted(ATTRIBUTES - {"data", "source", "time", "timestamp", "specversion"})


def check(data: bytes) -> None:
    """Take the first byte for the shape of the body, the rest for the body.

    Raises AssertionError, or whatever the accept path raises that is no Refusal.
    """
    if not data:
        return
    media, body = MEDIA[data[0] % len(MEDIA)], data[1:]
    frame = OpenFrame()
    try:
        decoded = _decoded(body, media)
        made, carrier = frame.encode(decoded, _ADMISSION, batch=media in _BATCHES)
    except Refusal as refusal:
        _check_refusal(refusal)
        if media in _BATCHES:
            _check_sifted(body, media)
        return
    frame.join(made, carrier)
    _compare(decoded, made.ids, read_frame("1-0", frame.fields(_SRV, 1)))


def _decoded(body: bytes, media: Media) -> Decoded:
    """Return what a body holds; in binary mode its first line is the value of a header."""
    if media is not Media.BINARY:
        return decode(body, media)
    value, _, data = body.partition(b"\n")
    attributes = {b"ce-specversion": b"1.0", b"ce-id": b"1", b"ce-source": b"s", b"ce-type": b"t"}
    return decode_binary([*attributes.items(), (b"ce-subject", value)], data)


def _check_refusal(refusal: Refusal) -> None:
    assert refusal.code in STATUS_BY_CODE
    assert problem(refusal).status == refusal.status < 500


def _check_sifted(body: bytes, media: Media) -> None:
    """Check that what is good in a batch that was refused can be taken alone."""
    try:
        good, rejected = sift(body, media, now(), _ADMISSION)
    except Refusal as refusal:
        _check_refusal(refusal)
        return
    assert rejected
    assert list(rejected) == sorted(rejected)
    assert {refusal.index for refusal in rejected.values()} == set(rejected)
    assert max(rejected) < len(rejected) + len(good.events)
    frame = OpenFrame()
    made, carrier = frame.encode(good, _ADMISSION, batch=True)
    frame.join(made, carrier)
    _compare(good, made.ids, read_frame("1-0", frame.fields(_SRV, 1)))


def _compare(decoded: Decoded, ids: list[bytes], frame: Frame) -> None:
    """Check that a worker finds what the client sent."""
    assert frame.ids == ids
    assert frame.count == len(decoded.events)
    assert sum(cell[2] for cell in frame.summary.cells) == frame.count
    for index, (id_, event, raw) in enumerate(
        zip(ids, decoded.events, frame.documents, strict=True)
    ):
        document = bson.decode(raw.raw, _CODEC)
        received_at = document.pop("received_at")
        assert document.pop("_id") == Binary(id_, 4)
        assert document.pop("frame_id") == frame.frame_id
        time = event.time or event.timestamp
        assert document.pop("time") == (from_ms(to_ms(time)) if time else received_at)
        assert document.pop("source") == (event.source or _ADMISSION.default_source)
        assert document == _as_sent(event) | decoded.extensions.get(index, {})


def _as_sent(event: Event) -> dict[str, object]:
    """Return what of an event is kept under its own name."""
    given = {name: getattr(event, name) for name in _KEPT}
    sent = {name: value for name, value in given.items() if value is not None}
    # Only of data, null is something else than nothing.
    return sent if event.data is UNSET else sent | {"data": event.data}
