"""Finding values in an event by path, and comparing them as texts."""

from __future__ import annotations

from typing import Any

import bson
import pytest
from bson.raw_bson import RawBSONDocument

from evp.batch.paths import has_text
from tests.support.make import event, frame_of

DATA = {
    "order": {"id": 17, "paid": True, "note": None, "total": 20.0},
    "items": [{"sku": "a"}, {"sku": "b"}],
    "http.method": "GET",
    "big": 2**62,
    "empty": "",
}
EVENT = frame_of(event(1, type="paid", data=DATA, traceparent="x")).documents[0]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("data.order.id", "17"),
        ("data.order.paid", "true"),
        ("data.order.note", "null"),
        ("data.order.total", "20.0"),
        ("data.items.1.sku", "b"),
        ("data.items.1", '{"sku":"b"}'),
        ("data.http.method", "GET"),
        ("data.big", str(2**62)),
        ("data.empty", ""),
        ("type", "paid"),
        ("id", "e1"),
        ("traceparent", "x"),
        ("time", "2026-01-02T03:04:05.678Z"),
    ],
)
def test_a_value_equals_its_text(path: str, text: str) -> None:
    """A text is compared as it is, any other value as JSON writes it."""
    assert has_text(EVENT, path, text)
    assert not has_text(EVENT, path, f"{text} ")


@pytest.mark.parametrize("path", ["data.order", "data.order.", "data.items.2", "data.", "nope", ""])
def test_a_path_that_leads_nowhere(path: str) -> None:
    """What is not there equals nothing, an empty text neither."""
    assert not has_text(EVENT, path, "")


@pytest.mark.parametrize("data", [b"\x05\x00\x00\x00\x01", {"a": b"\xff\xfe"}, 3])
def test_documents_of_other_programs(data: Any) -> None:
    """Bytes, damaged or not, and data that is no object are looked into without harm."""
    whole = bson.encode({"_id": 1, "data": data})
    for raw in (whole, whole.replace(b"\x00\x00\x00\x02", b"\xff\x00\x00\x02")):
        assert not has_text(RawBSONDocument(whole), "data.a.b", "x")
        assert raw
