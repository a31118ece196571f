"""Events go into a frame and come out as documents, unchanged, or are refused by name."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import bson
import msgspec
import pytest
from bson.codec_options import CodecOptions
from hypothesis import given
from hypothesis import strategies as st

from evp.documents import Admission
from evp.errors import CorruptFrame, Refusal
from evp.frame import NOT_CARRIERS, OpenFrame, read_frame, split, summarize
from evp.limits import (
    EVENT_BYTES_MAX,
    EVENT_KEYS_MAX,
    FRAME_EVENTS_CLOSE,
    KEY_BYTES_MAX,
    MIB,
    NESTING_MAX,
)
from tests.support.frames import with_crc
from tests.support.make import SRV, event, frame_of, join, open_frame

_AWARE: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)

ENTRY = "1767323045678-0"
keys = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=20),
    lambda children: st.lists(children, max_size=5) | st.dictionaries(keys, children, max_size=5),
    max_leaves=25,
)


def read_back(frame: OpenFrame) -> list[dict[str, Any]]:
    """Return the documents of a frame as the store would hold them."""
    raw = read_frame(ENTRY, frame.fields(SRV, 1)).documents
    return [bson.decode(document.raw, codec_options=_AWARE) for document in raw]


def refusal(*events: dict[str, Any]) -> Refusal:
    """Return why a batch of these events is refused."""
    with pytest.raises(Refusal) as caught:
        open_frame(*events)
    return caught.value


@given(st.lists(values, min_size=1, max_size=6))
def test_every_json_value_that_bson_can_hold_comes_out_as_it_went_in(data: list[Any]) -> None:
    """JSON → frame → documents loses nothing, for any data."""
    made = open_frame(*(event(n) | {"data": value} for n, value in enumerate(data)))
    out = [document["data"] for document in read_back(made)]
    assert msgspec.json.encode(out, enc_hook=int) == msgspec.json.encode(data)


@given(values, st.sampled_from([2**63, -(2**63) - 1, 2**64, 10**30]), st.data())
def test_what_bson_cannot_hold_is_refused_with_its_path(
    around: Any, culprit: int, draw: st.DataObject
) -> None:
    """An integer of more than 64 bits is named by index and path."""
    place = draw.draw(st.integers(0, 3))
    data = {"a": [around] * place + [culprit]}
    if msgspec.json.encode(data).count(b"[") > NESTING_MAX - 5:
        return
    found = refusal(event(0), event(1, data=data))
    assert found.code in {"number_out_of_range", "too_deep"}
    if found.code == "number_out_of_range":
        assert (found.index, found.path) == (1, f"$[1].data.a[{place}]")


def test_a_nul_in_a_key_is_refused_and_in_a_value_kept() -> None:
    """BSON ends a key at a NUL; it may stand in a value."""
    assert refusal(event(0, data={"a": {"b\0": 1}})).code == "invalid_key"
    assert read_back(open_frame(event(0, data={"a": "b\0c"})))[0]["data"] == {"a": "b\0c"}


@pytest.mark.parametrize("dense", ["1", "0.5", "{}", "[]", '""', "null", "true", "[[]]"])
def test_an_event_within_its_limit_is_no_document_too_large(dense: str) -> None:
    """However an event grows in BSON, up to six times, it stays far below the store's 16 MiB."""
    count = (EVENT_BYTES_MAX - 300) // (len(dense) + 1)
    body = msgspec.json.encode(
        event(0, data=msgspec.Raw(f"[{','.join([dense] * count)}]".encode()))
    )
    assert EVENT_BYTES_MAX - 400 < len(body) <= EVENT_BYTES_MAX
    frame = open_frame(msgspec.json.decode(body))
    assert frame.size_bytes <= 6.5 * EVENT_BYTES_MAX < 16 * MIB / 8


@pytest.mark.parametrize("name", ["$current_url", "a.b", "", "__proto__", "constructor", "ключ"])
def test_awkward_keys_are_kept(name: str) -> None:
    """Within data any key that BSON can hold is the client's business."""
    assert read_back(open_frame(event(0, data={name: 1})))[0]["data"] == {name: 1}


def test_document_has_all_attributes_and_its_frame() -> None:
    """A document holds the event's attributes, its frame and when it was received."""
    sent = event(
        1,
        dataschema="https://e/s",
        datacontenttype="application/json",
        specversion="1.0",
        traceparent="00-x",
        tracestate="a=b",
        partitionkey="p",
    )
    frame = open_frame(sent)
    [document] = read_back(frame)
    assert list(document)[:2] == ["_id", "frame_id"]
    assert document["frame_id"] == frame.frame_id
    assert document["time"] == datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
    assert abs(datetime.now(UTC) - document["received_at"]).total_seconds() < 60
    kept = {name: value for name, value in sent.items() if name not in {"time", "specversion"}}
    assert {name: document[name] for name in kept} == kept
    assert "specversion" not in document


def test_defaults() -> None:
    """Without source, time and data: the default source, the time of arrival, no data."""
    [document] = read_back(open_frame({"type": "a"}, admission=Admission("shop", True)))
    assert document["source"] == "shop"
    assert document["time"] == document["received_at"]
    assert "data" not in document
    assert "id" not in document


def test_id_from_source_and_id() -> None:
    """With ID_FROM=source+id the same id is the same event whatever its time."""
    admission = Admission("evp", time_in_id=False)
    one = open_frame(event(1), admission=admission).fields(SRV, 1)
    other = open_frame(event(1, time="2026-06-01T00:00:00Z"), admission=admission).fields(SRV, 1)
    assert read_frame(ENTRY, one).ids == read_frame(ENTRY, other).ids


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"time": "1969-12-31T23:59:59.999Z"}, "timestamp_out_of_range"),
        ({"time": "2999-01-01T00:00:00Z"}, "timestamp_out_of_range"),
        ({"timestamp": "2026-01-02T03:04:05Z"}, "invalid_timestamp"),
        ({"specversion": "0.3"}, "invalid_attribute"),
        ({"id": "é" * 65}, "invalid_id"),
        ({"id": "a\nb"}, "invalid_id"),
        ({"id": "a\x85b"}, "invalid_id"),
        ({"data": {str(number): 1 for number in range(EVENT_KEYS_MAX + 1)}}, "too_many_fields"),
        ({"data": [{"k" * (KEY_BYTES_MAX + 1): 1}]}, "too_many_fields"),
        ({"data": {"é" * (KEY_BYTES_MAX // 2 + 1): 1}}, "too_many_fields"),
    ],
)
def test_refused_by_content(members: dict[str, Any], code: str) -> None:
    """What a type can't say is checked before the event is taken."""
    found = refusal(event(0), event(1, **members))
    assert (found.code, found.index) == (code, 1)


def test_nesting_is_bounded_exactly() -> None:
    """32 levels are taken, the event being the first; 33 are not."""

    def nested(levels: int) -> Any:
        return [nested(levels - 1)] if levels > 1 else []

    open_frame(event(0, data=nested(NESTING_MAX - 1)))
    assert refusal(event(0, data=nested(NESTING_MAX))).code == "too_deep"
    assert refusal(event(0, data={"a": nested(NESTING_MAX)})).code == "too_deep"


def test_same_identity_twice_in_one_request_is_refused() -> None:
    """One request can't hold an event twice; the second one is named."""
    found = refusal(event(0), event(1), event(0, data="other"))
    assert (found.code, found.index) == ("duplicate_id", 2)


def test_refused_request_leaves_the_frame_as_it_was() -> None:
    """A frame that refused a request holds what it held before."""
    frame = open_frame(event(0))
    before = (frame.count, frame.size_bytes)
    with pytest.raises(Refusal):
        join(frame, [event(1), event(2, data=2**63)])
    assert (frame.count, frame.size_bytes) == before
    assert len(read_back(frame)) == 1


def test_requests_of_a_frame_stand_one_after_the_other() -> None:
    """A frame of several requests reads back all events in order."""
    frame = OpenFrame()
    for number in range(3):
        join(frame, [event(number * 2), event(number * 2 + 1)])
    assert [one["data"]["n"] for one in read_back(frame)] == list(range(6))
    assert frame.count == 6


def test_a_frame_is_full_by_count_or_bytes() -> None:
    """A frame that has passed its size takes no further request."""
    assert not open_frame(event(0)).full
    assert open_frame(*(event(number) for number in range(FRAME_EVENTS_CLOSE))).full
    assert open_frame(*(event(number, data="x" * 200_000) for number in range(6))).full


def test_every_flipped_byte_is_found() -> None:
    """No damaged byte of an entry is ever taken for an event, a number or a count."""
    fields = open_frame(event(0), event(1)).fields(SRV, 1)
    for name in fields.keys() - {b"v"}:
        value = fields[name]
        for place in range(len(value)):
            damaged = value[:place] + bytes((value[place] ^ 0x41,)) + value[place + 1 :]
            with pytest.raises(CorruptFrame):
                read_frame(ENTRY, fields | {name: damaged})


def test_damage_under_a_right_crc_is_found_or_harmless() -> None:
    """With a matching CRC, damaged bytes are refused or give documents of the right count."""
    fields = open_frame(event(0), event(1)).fields(SRV, 1)
    docs = fields[b"docs"]
    for place in range(len(docs)):
        damaged = docs[:place] + bytes((docs[place] ^ 0xFF,)) + docs[place + 1 :]
        try:
            frame = read_frame(ENTRY, with_crc(fields | {b"docs": damaged}))
        except CorruptFrame:
            continue
        assert frame.count == 2


@given(st.binary(max_size=300))
def test_any_bytes_are_carriers_or_refused(docs: bytes) -> None:
    """Reading carriers raises only what its reader expects."""
    try:
        ids, documents = split(docs)
    except NOT_CARRIERS:
        return
    assert len(ids) == len(documents)


@pytest.mark.parametrize("name", [b"id", b"srv", b"seq", b"n", b"crc", b"sum", b"docs"])
def test_missing_or_senseless_fields_are_corrupt(name: bytes) -> None:
    """An entry without a field, or with nonsense in it, is a corrupt frame."""
    fields = open_frame(event(0)).fields(SRV, 1)
    with pytest.raises(CorruptFrame):
        read_frame(ENTRY, {key: value for key, value in fields.items() if key != name})
    senseless = fields | {name: b"\xff?"}
    with pytest.raises(CorruptFrame):
        read_frame(ENTRY, senseless)
    if name not in {b"srv", b"crc"}:
        with pytest.raises(CorruptFrame):
            read_frame(ENTRY, with_crc(senseless))


@pytest.mark.parametrize("seq", [b"0", b"-1", b"9223372036854775808"])
def test_numbers_that_no_server_gives_are_corrupt(seq: bytes) -> None:
    """A number that the store could not hold would be written again and again."""
    fields = open_frame(event(0)).fields(SRV, 1)
    with pytest.raises(CorruptFrame):
        read_frame(ENTRY, with_crc(fields | {b"seq": seq}))


@pytest.mark.parametrize("place", range(4))
def test_counts_that_no_server_makes_are_corrupt(place: int) -> None:
    """A summary with a number that the store could not hold is refused as well."""
    summary: list[object] = [[[1, "t", 1]], {"s": 1}, 0, 0]
    summary[place] = [[[2**63, "t", 1]], {"s": 2**63}, 2**63, -1][place]
    fields = open_frame(event(0)).fields(SRV, 1)
    with pytest.raises(CorruptFrame):
        read_frame(ENTRY, with_crc(fields | {b"sum": msgspec.msgpack.encode(summary)}))


def test_document_without_id_in_front_is_corrupt() -> None:
    """A document without `_id` would get a random one at each delivery, so it is refused."""
    docs = bson.encode({"d": [{"type": "a"}]})
    fields = open_frame(event(0)).fields(SRV, 1)
    with pytest.raises(CorruptFrame):
        read_frame(ENTRY, with_crc(fields | {b"docs": docs}))


def test_summary_counts_by_minute_type_and_source() -> None:
    """The summary is what the worker would count if it parsed the events."""
    frame = frame_of(
        event(0),
        event(1, time="2026-01-02T03:04:59Z"),
        event(2, time="2026-01-02T03:05:00Z", type="click", source="other-one"),
    )
    minute = 1767323045678 // 60_000
    assert sorted(frame.summary.cells) == [
        (minute, "page_view", 2),
        (minute + 1, "click", 1),
    ]
    assert frame.summary.sources == {"test": 2, "other-one": 1}
    assert frame.summary.first_ms == 1767323045678
    assert frame.summary.last_ms == 1767323100000
    assert sorted(frame.summary.source_cells) == [
        (minute, "test", 2),
        (minute + 1, "other-one", 1),
    ]


def test_sources_of_one_minute_are_counted_once() -> None:
    """A frame of one minute has its sources without minutes: nearly every frame is one."""
    frame = frame_of(event(0), event(1, time="2026-01-02T03:04:59Z"))
    assert frame.summary.source_cells == []


def test_summary_of_many_sources_is_bounded() -> None:
    """The 50 most frequent sources are named, the rest are counted as other."""
    sources = [f"s{number}" for number in range(60)] + ["s1"] * 5
    summary = summarize(["t"] * len(sources), sources, [0] * len(sources))
    assert len(summary.sources) == 51
    assert summary.sources["s1"] == 6
    assert sum(summary.sources.values()) == len(sources)
    times_ms = [n % 2 * 60_000 for n in range(len(sources))]
    cells = summarize(["t"] * len(sources), sources, times_ms).source_cells
    assert {source for _, source, _ in cells} <= set(summary.sources)
    assert sum(count for _, _, count in cells) == len(sources)
