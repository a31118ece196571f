"""The pure parts of the server: keys, media types, answers, problems."""

from __future__ import annotations

import msgspec
import pytest

from evp.codec import Media
from evp.errors import STATUS_BY_CODE, Refusal
from evp.server.answer import Answer, on_the_wire
from evp.server.keys import Keys
from evp.server.problem import problem
from evp.server.request import media_of, only


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
    ],
)
def test_other_media_types_are_refused(path: bytes, content_type: bytes | None) -> None:
    """Whatever else the client says it sends is 415."""
    with pytest.raises(Refusal) as caught:
        media_of(path, content_type)
    assert caught.value.status == 415


def test_header_that_is_there_twice() -> None:
    """A header is taken where it is there once; twice, even if alike, is a bad request."""
    headers = [(b"x-api-key", b"a"), (b"host", b"h"), (b"accept", b"1"), (b"accept", b"1")]
    assert only(b"x-api-key", headers) == b"a"
    assert only(b"x-other", headers) is None
    with pytest.raises(Refusal) as caught:
        only(b"accept", headers)
    assert (caught.value.status, caught.value.code) == (400, "invalid_request")


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
    """An answer has its length, and says when the connection closes."""
    answer = Answer(202, b"{}", ((b"content-type", b"application/json"),))
    assert on_the_wire(answer, keep_alive=True) == (
        b"HTTP/1.1 202 Accepted\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
    )
    assert b"connection: close\r\n" in on_the_wire(answer, keep_alive=False)
