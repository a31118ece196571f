"""The pure parts of the server: keys, media types, answers, problems."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from evp.codec import Media
from evp.errors import STATUS_BY_CODE, Refusal
from evp.identity import canonical
from evp.server.answer import Answer, on_the_wire
from evp.server.keys import Keys
from evp.server.problem import problem
from evp.server.request import media_of
from evp.server.told import BatchAccepted, EventAccepted, tell_batch, tell_event, telling


@pytest.mark.parametrize("key", [None, b"", b"wrong", "schlüssel".encode(), b"k" * 10_000])
def test_wrong_keys_are_all_answered_alike(key: bytes | None) -> None:
    """Missing, wrong, non-ASCII and huge keys can't be told apart."""
    keys = Keys({"app": "secret", "other": "geheim"})
    with pytest.raises(Refusal) as caught:
        keys.grant_of(key)
    assert caught.value.code == "unauthenticated"
    assert caught.value.detail == "send a valid key in the x-api-key header"


def test_keys_have_names() -> None:
    """A key that is right tells who sends."""
    keys = Keys({"app": "secret", "other": "schlüssel"})
    assert keys.grant_of(b"secret").name == "app"
    assert keys.grant_of("schlüssel".encode()).name == "other"


@pytest.mark.parametrize(
    ("path", "content_type", "media"),
    [
        (b"/events", b"application/json", Media.EVENT),
        (b"/events", b"Application/JSON; charset=UTF-8", Media.EVENT),
        (b"/events", b'application/json;charset="utf-8"', Media.EVENT),
        (b"/events/batch", b"application/json", Media.ARRAY),
        (b"/events/batch", b"application/x-ndjson", Media.NDJSON),
        (b"/events/batch", b"application/ndjson; charset=utf-8", Media.NDJSON),
        (b"/events", b"application/cloudevents+json; charset=UTF-8", Media.CLOUD_EVENT),
        (b"/events/batch", b"application/cloudevents-batch+json", Media.CLOUD_BATCH),
    ],
)
def test_media_types(path: bytes, content_type: bytes, media: Media) -> None:
    """JSON and, for batches, NDJSON are taken, in UTF-8."""
    assert media_of(path, content_type) is media


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        (b"/events", None),
        (b"/events", b""),
        (b"/events", b"text/plain"),
        (b"/events", b"multipart/form-data; boundary=x"),
        (b"/events", b"application/x-ndjson"),
        (b"/events", b"application/json; charset=utf-16"),
        (b"/events/batch", b"text/csv"),
        (b"/events", b"application/cloudevents-batch+json"),
        (b"/events/batch", b"application/cloudevents+json"),
    ],
)
def test_other_media_types_are_refused(path: bytes, content_type: bytes | None) -> None:
    """Whatever else the client says it sends is 415."""
    with pytest.raises(Refusal) as caught:
        media_of(path, content_type)
    assert caught.value.status == 415


@pytest.mark.parametrize("code", STATUS_BY_CODE)
def test_problems(code: str) -> None:
    """Each code becomes problem details with its status; 429 and 503 say when to come back."""
    answer = problem(Refusal(code, "why", path="$.data.a", index=3, retry_after_s=7))
    body = msgspec.json.decode(answer.body)
    headers = dict(answer.headers)
    assert body["code"] == code
    assert body["status"] == answer.status == STATUS_BY_CODE[code]
    assert (body["path"], body["index"]) == ("$.data.a", 3)
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"cache-control"] == b"no-store"
    assert (b"retry-after" in headers) is (answer.status in {429, 503})


def test_answer_on_the_wire() -> None:
    """An answer has its length, the id of its request, and says when the connection closes."""
    answer = Answer(202, b"{}", ((b"content-type", b"application/json"),))
    assert on_the_wire(answer, b"id-1", keep_alive=True) == (
        b"HTTP/1.1 202 Accepted\r\ncontent-type: application/json\r\n"
        b"x-content-type-options: nosniff\r\nx-request-id: id-1\r\ncontent-length: 2\r\n\r\n{}"
    )
    assert b"connection: close\r\n" in on_the_wire(answer, b"id-1", keep_alive=False)


@given(
    ids=st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=3),
    rejected=st.dictionaries(st.integers(0, 9), st.just(Refusal("invalid_id", 'a "detail"'))),
    skips=st.booleans(),
    with_ids=st.booleans(),
)
def test_what_a_202_says(
    ids: list[bytes], rejected: dict[int, Refusal], *, skips: bool, with_ids: bool
) -> None:
    """What is put together by hand is what the types say, with and without what may be asked."""
    event = msgspec.json.decode(tell_event(ids, "0.5-1", 3, "fsync"), type=EventAccepted)
    assert event == EventAccepted(canonical(ids[0]), "0.5-1.3", "fsync")
    whole = msgspec.json.decode(tell_batch(ids, "0.5-1", 3, "fsync"), type=BatchAccepted)
    assert whole == BatchAccepted(len(ids), [], "0.5-1.3", "fsync")
    count = len(ids) + len(rejected)
    placed = {index % count: one for index, one in rejected.items()}
    if len(placed) < len(rejected):
        return
    tell = telling(placed, skips=skips, with_ids=with_ids)
    told = msgspec.json.decode(tell(ids, "0.5-1", 3, "fsync"), type=BatchAccepted)
    assert {one.index for one in told.rejected} == set(placed)
    assert told.rejected_total == (len(placed) if skips else UNSET)
    if not with_ids:
        assert told.event_ids is UNSET
        return
    assert isinstance(told.event_ids, list)
    assert [id_ for id_ in told.event_ids if id_] == [canonical(id_) for id_ in ids]
    assert {index for index, id_ in enumerate(told.event_ids) if id_ is None} == set(placed)
