"""Heads that repeat: whatever is taken without the parser, the parser would have read alike."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evp.codec import Media
from evp.server.keys import Grant
from evp.server.limits import REPEATED_HEAD_BYTES_MAX
from evp.server.repeated import RepeatedHead, head_of

GRANT = Grant("app", b"", ("ingest",))
HEADERS = (
    b"host: evp",
    b"Content-Type: application/json",
    b"x-api-key: secret",
    b"user-agent: a client",
    b"x-note: content-length: 7",
    b"x-empty:",
)
LENGTHS = (
    b"content-length: %d",
    b"Content-Length:%d",
    b"CONTENT-LENGTH:\t%d",
    b"content-length: %d ",
    b"content-length: 0%d",
)


class Message:
    """What the parser reads of a request."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.complete = 0

    def on_url(self, url: bytes) -> None:
        """Collect the target."""
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header."""
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        """Collect the body."""
        self.body += body

    def on_message_complete(self) -> None:
        """Count whole requests."""
        self.complete += 1


def parsed(data: bytes) -> tuple[Message, bytes] | None:
    """Return what the parser reads, and the method; None if it is not one whole request."""
    message = Message()
    parser = httptools.HttpRequestParser(message)
    try:
        parser.feed_data(data)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    return (message, parser.get_method()) if message.complete == 1 else None


def request(lines: list[bytes], body: bytes, target: bytes = b"/events") -> bytes:
    """Return a request of these header lines."""
    return b"\r\n".join([b"POST " + target + b" HTTP/1.1", *lines, b"", body])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Requests as clients send them, and some that are wrong."""
    body = draw(st.binary(max_size=30))
    lines = draw(st.lists(st.sampled_from(HEADERS), max_size=4))
    for line in draw(st.lists(st.sampled_from(LENGTHS), max_size=2)) or [LENGTHS[0]]:
        length = len(body) + draw(st.sampled_from((0, 0, 0, 1, -1)))
        lines.insert(draw(st.integers(0, len(lines))), line % max(0, length))
    target = draw(st.sampled_from((b"/events", b"/events/batch", b"/other")))
    return request(lines, body, target)


@st.composite
def followers(draw: st.DrawFn, first: bytes) -> bytes:
    """What may come after a request: the same with another body, something mutilated, two of it."""
    head, _, body = first.partition(b"\r\n\r\n")
    other = draw(st.binary(max_size=30))
    kind = draw(st.integers(0, 4))
    if kind == 0:
        return head.replace(b"%d" % len(body), b"%d" % len(other)) + b"\r\n\r\n" + other
    if kind == 1:
        at = draw(st.integers(0, len(first)))
        return first[:at] + draw(st.binary(max_size=3)) + first[at + draw(st.integers(0, 3)) :]
    if kind == 2:
        return first + first
    if kind == 3:
        return first[: draw(st.integers(0, len(first)))]
    return draw(requests())


@given(st.data())
def test_what_is_taken_is_what_the_parser_reads(data: st.DataObject) -> None:
    """A body that is taken by its repeated head is the one that the parser gives, head included."""
    first = data.draw(requests())
    before = parsed(first)
    head = head_of(first, b"/events", Media.EVENT, GRANT)
    if before is None or head is None:
        return
    second = data.draw(followers(first))
    body = head.body_of(second)
    if body is None:
        return
    after = parsed(second)
    assert after is not None
    (one, one_method), (other, other_method) = before, after
    assert other.body == body
    assert (other.url, other_method) == (one.url, one_method)
    assert _without_length(other) == _without_length(one)


def _without_length(message: Message) -> list[tuple[bytes, bytes]]:
    return [pair for pair in message.headers if pair[0] != b"content-length"]


@given(st.binary(max_size=200))
@example(b"")
@example(b"\r\n\r\n")
def test_same_head_with_another_body_is_taken(body: bytes) -> None:
    """Only the length and the body differ between the requests of one client: they are taken."""
    first = request([b"host: evp", b"content-length: 4", b"x-api-key: k"], b"body")
    head = head_of(first, b"/events", Media.EVENT, GRANT)
    assert isinstance(head, RepeatedHead)
    lines = [b"host: evp", b"content-length: %d" % len(body), b"x-api-key: k"]
    assert head.body_of(request(lines, body)) == body


@pytest.mark.parametrize(
    ("lines", "body"),
    [
        ([b"x-api-key: k"], b""),
        ([b"content-length: 4", b"content-length: 4"], b"body"),
        ([b"content-length: 3"], b"body"),
        ([b"content-length: 5"], b"body"),
        ([b"content-length: 4 "], b"body"),
        ([b"content-length: 4", b"x-long: " + b"a" * REPEATED_HEAD_BYTES_MAX], b"body"),
    ],
    ids=["no length", "two lengths", "more behind", "not whole", "a blank", "a long head"],
)
def test_what_is_not_kept(lines: list[bytes], body: bytes) -> None:
    """A head is kept only if it has one length, is short, and its request is all that came."""
    assert head_of(request(lines, body), b"/events", Media.EVENT, GRANT) is None
