"""The client of `evp send` against servers that do what a real one rarely does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from evp import http, sender
from evp.client import delivery
from evp.errors import ServerUnavailable
from evp.http import HttpConnection
from evp.sender import Account, Line, Sender
from tests.support.answers import Answer, accepted, answering, busy, problem, scripted

LINES = [Line(number, b'{"type": "t", "n": %d}' % number) for number in range(1, 9)]


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> None:
    """Let it block: its HTTP library imports parts of itself late, and it serves nobody."""


async def sent(url: str) -> Account:
    """Send all lines; return the account."""
    account = Account()
    async with HttpConnection(url) as connection:
        await Sender(connection, "key", account, lambda _account: None).send(iter(LINES))
    return account


def choosy(*, tells_index: bool) -> tuple[Callable[[bytes], Answer], list[int]]:
    """Refuse every batch with the third or sixth line in it; also return the sizes that came."""
    sizes = []

    def answer(body: bytes) -> Answer:
        lines = body.splitlines()
        sizes.append(len(lines))
        bad = [at for at, line in enumerate(lines) if line in {LINES[2].text, LINES[5].text}]
        if not bad:
            return accepted(body)
        return problem(422, "invalid_event", **({"index": bad[0]} if tells_index else {}))

    return answer, sizes


async def test_culprit_that_is_named() -> None:
    """A batch is sent again without the event that the refusal names."""
    answer, sizes = choosy(tells_index=True)
    async with answering(answer) as url:
        account = await sent(url)
    assert (account.accepted, account.refused) == (6, {"invalid_event": 2})
    assert [one.line for one in account.examples] == [3, 6]
    assert sizes == [8, 7, 6]


async def test_culprit_that_is_not_named() -> None:
    """A batch that is refused as a whole is halved, down to the culprits."""
    answer, sizes = choosy(tells_index=False)
    async with answering(answer) as url:
        account = await sent(url)
    assert (account.accepted, account.refused) == (6, {"invalid_event": 2})
    assert [one.line for one in account.examples] == [3, 6]
    assert sizes == [8, 4, 2, 2, 1, 1, 4, 2, 1, 1, 2]


@pytest.mark.parametrize(
    "answer",
    [
        (308, {"location": "https://127.0.0.1/"}, b""),
        (400, {}, b"<html>The plain HTTP request was sent to HTTPS port</html>"),
        (402, {}, b""),
        (421, {}, b'{"message": "Misdirected"}'),
        (500, {}, b"<html>"),
        problem(401, "unauthenticated"),
    ],
)
async def test_answer_that_goes_for_all(answer: Answer) -> None:
    """What no event can be the cause of is asked once, and told of all."""
    sizes = []

    def noted(body: bytes) -> Answer:
        sizes.append(len(body.splitlines()))
        return answer

    async with answering(noted) as url:
        account = await sent(url)
    assert sizes == [8]
    assert list(account.refused.values()) == [8]


@pytest.mark.parametrize(
    ("members", "sizes_wanted"), [({}, [8, 4, 2, 1, 1, 2, 4]), ({"index": 0}, [8, 7, 6, 5])]
)
async def test_requests_of_a_batch(
    members: dict[str, int], sizes_wanted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server in a bad hour is not asked about each event: all are told, in few requests."""
    monkeypatch.setattr(delivery, "SEND_REQUESTS_MAX", 4)
    sizes = []

    def noted(body: bytes) -> Answer:
        sizes.append(len(body.splitlines()))
        return problem(500, "internal_error", **members)

    async with answering(noted) as url:
        account = await sent(url)
    assert sizes == sizes_wanted
    assert account.refused == {"internal_error": 8}


@pytest.mark.parametrize(
    "first",
    [
        (503, {"retry-after": "0"}, b'{"code": "backlog_full"}'),
        (429, {"retry-after": "0.1"}, b"no problem at all"),
    ],
)
async def test_asked_to_wait(first: Answer) -> None:
    """A server that asks to wait gets the same batch again."""
    async with answering(scripted(first, first)) as url:
        account = await sent(url)
    assert (account.accepted, account.refused) == (8, {})


async def test_server_that_always_asks_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while it gives up, and tells what the server says."""
    monkeypatch.setattr(sender, "SEND_RETRY_S", 0.3)
    async with answering(lambda _body: busy()) as url:
        with pytest.raises(ServerUnavailable, match="keeps answering backlog_full: too much"):
            await sent(url)


async def test_connection_that_breaks_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a server has accepted something, a lost answer is a reason to send it again."""
    monkeypatch.setattr(sender, "SEND_EVENTS_MAX", 4)
    async with answering(scripted(accepted(b"1\n2\n3\n4"), None)) as url:
        account = await sent(url)
    assert account.accepted == 8


@pytest.mark.parametrize(
    "answer",
    [
        None,
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 -\r\ncontent-length: nine\r\n\r\n",
        b"HTTP/1.1 200 -\r\ncontent-length: 99999999999\r\n\r\n",
        b"x" * 100_000,
    ],
)
async def test_what_is_no_server_of_evp(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else listens there is told as no answer from evp, in time, not as a traceback."""
    monkeypatch.setattr(http, "HTTP_ANSWER_S_MAX", 0.3)
    async with answering(lambda _body: answer) as url:
        with pytest.raises(ServerUnavailable, match="no answer from evp at http://"):
            await sent(url)


async def test_refusal_without_a_code() -> None:
    """A proxy's own answer is counted by its status."""
    async with answering(lambda _body: (413, {"connection": "close"}, b"<html>")) as url:
        account = await sent(url)
    assert account.refused == {"http_413": 8}
    assert account.examples[0].detail == "answered with status 413"


async def test_answer_in_chunks() -> None:
    """A proxy may send a body piece by piece, and headers after it."""
    head = b"HTTP/1.1 202 -\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = head + b'3;x=1\r\n{"a\r\n10\r\n": "0123456789a"\r\n1\r\n}\r\n0\r\nlast: 1\r\n\r\n'
    async with answering(lambda _body: chunks) as url, HttpConnection(url) as connection:
        for _ in range(2):
            reply = await connection.request("POST", "/")
            assert (reply.status, reply.body) == (202, b'{"a": "0123456789a"}')
