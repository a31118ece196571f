"""What every answer has, whatever the route; requests with two meanings; other origins."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from evp.http import Reply
from evp.server import accept
from evp.server.limits import (
    HEADER_BYTES_MAX,
    PATH_BYTES_MAX,
    QUERY_BYTES_MAX,
    QUERY_PARAMETERS_MAX,
    REQUEST_ID_CHARS_MAX,
)
from tests.support.server import (
    JSON,
    InProcess,
    remove_traces,
    request,
    serving,
    settings_of,
)

both_ways = pytest.mark.parametrize("chunked", [False, True], ids=["plain", "asgi"])

ONE = b'{"type": "t", "id": "1"}'
MADE = re.compile(r"[0-9a-f]{12}-[0-9]+")
ORIGIN = "https://app.example.com"

EVERY_ANSWER = {
    "202": request(ONE),
    "202 by the app": request(ONE, chunked=True),
    "400": request(b"{"),
    "400 by the app": request(b"{", chunked=True),
    "401": request(ONE, headers={}),
    "404": request(b"", method="GET", path="/nowhere"),
    "405": request(b"", method="PUT"),
    "200": request(b"", method="GET", path="/api/live"),
    "options": request(b"", method="OPTIONS"),
    "a page": request(b"", method="GET", path="/docs", headers={}),
    "a document": request(b"", method="GET", path="/openapi.json", headers={}),
    "metrics": request(b"", method="GET", path="/metrics", headers={}),
    "events": request(b"", method="GET"),
    "a login": request(b"{}", path="/auth/login"),
    "413": request(ONE, headers=JSON | {"content-length": str(1 << 40)}),
    "not HTTP": b"GARBAGE\r\n\r\n",
    "431": request(ONE, headers=JSON | {"x": "a" * HEADER_BYTES_MAX}),
    "header twice": request(ONE, headers=JSON | {"X-Api-Key": "test-key"}),
}


@pytest.mark.parametrize("sent", EVERY_ANSWER.values(), ids=EVERY_ANSWER)
async def test_every_answer_is_guarded(server: InProcess, sent: bytes) -> None:
    """Whatever is answered has an id, once, and tells browsers not to guess its type."""
    async with server.wire() as wire:
        await wire.send(sent)
        head = (await wire.head()).decode().lower()
    names = Counter(line.partition(":")[0] for line in head.split("\r\n")[1:])
    assert names["x-request-id"] == names["x-content-type-options"] == 1
    assert "x-content-type-options: nosniff" in head
    found = re.search(r"x-request-id: (.*)", head)
    assert found
    assert MADE.fullmatch(found[1].strip())


@both_ways
async def test_made_ids_are_unlike(server: InProcess, *, chunked: bool) -> None:
    """No two requests have the same id, on one connection or on two."""
    seen = set()
    for _ in range(2):
        async with server.wire() as wire:
            for _ in range(3):
                await wire.send(request(ONE, chunked=chunked))
                seen.add((await wire.reply()).headers["x-request-id"])
    assert len(seen) == 6


@both_ways
@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("7b1f0d9e-6f4c-4f57-9a55-0b6f3f1f2a11", True),
        ("Root=1-67891233-abcdef012345678912345678", True),
        ("a" * REQUEST_ID_CHARS_MAX, True),
        ("a" * (REQUEST_ID_CHARS_MAX + 1), False),
        ("a b", False),
        ('"x"', False),
        ("<script>", False),
        ("\xfc", False),
        ("", False),
    ],
)
async def test_id_of_the_client_is_kept(
    server: InProcess, given: str, *, kept: bool, chunked: bool
) -> None:
    """A sane id comes back, request by request, in the place of one that is made; others don't."""
    numbered = [given, given[:-1] + "2"] if kept else [given]
    async with server.wire() as wire:
        for id_ in numbered:
            await wire.send(request(ONE, headers=JSON | {"x-request-id": id_}, chunked=chunked))
            told = (await wire.reply()).headers["x-request-id"]
            assert (told == id_) if kept else MADE.fullmatch(told)
        await wire.send(request(ONE, chunked=chunked))
        assert MADE.fullmatch((await wire.reply()).headers["x-request-id"])


@both_ways
async def test_of_two_ids_the_first_counts(server: InProcess, *, chunked: bool) -> None:
    """A proxy that adds an id after the client's changes nothing, whichever way is taken."""
    headers = JSON | {"x-request-id": "first", "X-Request-Id": "second"}
    reply = await server.ask(request(ONE, headers=headers, chunked=chunked))
    assert reply.headers["x-request-id"] == "first"


@both_ways
async def test_refusals_and_faults_are_logged_by_id(
    server: InProcess, monkeypatch: pytest.MonkeyPatch, *, chunked: bool
) -> None:
    """What the log says of a request has the id that its client was told."""

    def fails(*_arguments: object) -> None:
        raise ZeroDivisionError

    with capture_logs(processors=[merge_contextvars]) as logs:
        refused = await server.ask(request(b"{", chunked=chunked))
        monkeypatch.setattr(accept, "decode_one", fails)
        failed = await server.ask(request(ONE, chunked=chunked))
    assert failed.code == "internal_error"
    told = {line["event"]: line["request_id"] for line in logs if "request_id" in line}
    assert told == {
        "refused": refused.headers["x-request-id"],
        "unexpected error in a request": failed.headers["x-request-id"],
    }
    assert "test-key" not in str(logs)


async def test_answers_of_the_app_are_not_kept(server: InProcess) -> None:
    """No cache keeps an answer, unless a route says that it may."""
    assert (await server.get("/api/live")).headers["cache-control"] == "no-store"


@both_ways
@pytest.mark.parametrize("name", ["authorization", "content-type", "host", "x-api-key"])
async def test_header_with_two_meanings(server: InProcess, name: str, *, chunked: bool) -> None:
    """A header that is there twice, and of which one counts, is refused by any route."""
    line = f"{name}: {(JSON | {'host': 'test'}).get(name, 'x')}\r\n".encode()
    twice = line + line if name == "authorization" else line
    for sent in (request(ONE, chunked=chunked), request(b"", method="GET", path="/api/live")):
        async with server.wire() as wire:
            await wire.send(sent.replace(b"\r\n\r\n", b"\r\n" + twice + b"\r\n", 1))
            reply = await wire.reply()
        assert (reply.status, reply.code) == (400, "invalid_request")


async def test_header_that_may_be_there_twice(server: InProcess) -> None:
    """Proxies add headers of their own; those may come twice."""
    sent = request(ONE).replace(b"\r\n\r\n", b"\r\nvia: 1.1 a\r\nvia: 1.1 b\r\n\r\n", 1)
    assert (await server.ask(sent)).status == 202


@pytest.mark.parametrize(
    ("path", "status"),
    [("/api/live", 200), ("/api/ready", 200), ("/api/health", 200), ("/metrics", 200),
     ("/nowhere", 404), ("/events/batch", 405)],
)  # fmt: skip
async def test_head_is_get_without_a_body(server: InProcess, path: str, status: int) -> None:
    """Probes that ask by HEAD see what GET would tell them, but for the body."""
    async with server.wire() as wire:
        for _ in range(2):
            await wire.send(request(b"", method="HEAD", path=path, headers={}))
            head = (await wire.head()).decode().lower()
            assert head.startswith(f"http/1.1 {status} ")
            assert "content-length: 0" not in head
        await wire.send(request(b"", method="GET", path="/api/live", headers={}))
        assert (await wire.reply()).body == b'{"status":"live"}'


@pytest.mark.parametrize("path", ["/events", "/api/live", "/nowhere", "/events/a"])
@pytest.mark.parametrize(
    "query",
    ["a" * (QUERY_BYTES_MAX + 1), "a&" * 15_000, "&" * QUERY_PARAMETERS_MAX],
    ids=["long", "many", "one too many"],
)
async def test_query_that_is_too_large(server: InProcess, path: str, query: str) -> None:
    """Nobody makes the server parse, and keep, a query without end; a key is not needed to try."""
    async with server.wire() as wire:
        await wire.send(request(b"", method="GET", path=f"{path}?{query}", headers={}))
        reply = await wire.reply()
        assert (reply.status, reply.code) == (422, "invalid_query")
        assert await wire.rest() == b""


async def test_path_that_is_too_long(server: InProcess) -> None:
    """A path that is longer than any is nowhere, and no router keeps it."""
    for path in ("/events/", "/nowhere/", "/events/%20"):
        async with server.wire() as wire:
            long = path + "a" * PATH_BYTES_MAX
            await wire.send(request(b"", method="GET", path=long, headers={}))
            reply = await wire.reply()
            assert (reply.status, reply.code) == (404, "not_found")
            assert await wire.rest() == b""
    assert (await server.get("/events/".ljust(PATH_BYTES_MAX, "a"), {})).status == 401


async def test_query_that_is_large_enough(server: InProcess) -> None:
    """A query at both limits gets to its route."""
    parameters = [f"a{number}=" for number in range(QUERY_PARAMETERS_MAX)]
    query = "&".join(parameters).ljust(QUERY_BYTES_MAX, "a")
    assert (await server.get(f"/api/live?{query}")).status == 200


@pytest.fixture(scope="module")
async def listed(
    log_url: str, store_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[InProcess]:
    """A server that lets pages of one origin in."""
    settings = settings_of(
        log_url, store_url, tmp_path_factory.mktemp("cors"), EVP_CORS_ORIGINS=ORIGIN
    )
    async with serving(settings) as server:
        yield server
    await remove_traces(settings)


def cors(reply: Reply) -> dict[str, str]:
    """Return what an answer says to browsers about origins."""
    return {
        name: value
        for name, value in reply.headers.items()
        if name.startswith("access-control-") or name == "vary"
    }


def page(origin: str = ORIGIN, **headers: str) -> dict[str, str]:
    """Return the headers of a page's request."""
    return JSON | {"origin": origin} | headers


def asking(origin: str = ORIGIN, *, path: str = "/events", headers: str = "x-api-key") -> bytes:
    """Return what a browser asks before it lets a page send."""
    asked = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": headers,
    }
    return request(b"", method="OPTIONS", path=path, headers=asked)


@both_ways
@pytest.mark.parametrize("body", [ONE, b"{"])
async def test_listed_origin_sees_the_answer(
    listed: InProcess, body: bytes, *, chunked: bool
) -> None:
    """A page of a listed origin may read what it is told, refusals too, and without cookies."""
    told = cors(await listed.ask(request(body, headers=page(), chunked=chunked)))
    assert told["access-control-allow-origin"] == ORIGIN
    assert told["vary"] == "origin"
    assert "access-control-allow-credentials" not in told


@both_ways
@pytest.mark.parametrize(
    "origin",
    ["https://evil.example.com", "http://app.example.com", f"{ORIGIN}.evil.com", "null",
     f"{ORIGIN}:444", ORIGIN.upper(), "*", ""],
)  # fmt: skip
async def test_other_origins_are_not_let_in(
    listed: InProcess, origin: str, *, chunked: bool
) -> None:
    """An origin that is not listed, or looks alike, is not allowed, nor asked for its headers."""
    for sent in (request(ONE, headers=page(origin), chunked=chunked), asking(origin)):
        assert cors(await listed.ask(sent)) == {"vary": "origin"}


async def test_browser_that_asks_first(listed: InProcess) -> None:
    """A preflight is answered without a key, with the headers that evp reads, and no others."""
    asked = "Content-Type, x-api-key,ce-id, cookie, x-other, ce-a\xfc"
    for path in ("/events", "/events/batch"):
        reply = await listed.ask(asking(path=path, headers=asked))
        assert reply.status == 204
        told = cors(reply)
        assert told["access-control-allow-origin"] == ORIGIN
        assert "POST" in told["access-control-allow-methods"]
        assert told["access-control-allow-headers"] == "content-type, x-api-key, ce-id"
        assert int(told["access-control-max-age"]) > 0
        assert "access-control-allow-credentials" not in told


async def test_other_routes_are_for_nobody(listed: InProcess) -> None:
    """Only the event routes are open to pages of another origin."""
    for path in ("/api/live", "/eventsx", "/"):
        assert cors(await listed.ask(asking(path=path))) == {}
        assert cors(await listed.ask(request(b"", method="GET", path=path, headers=page()))) == {}


async def test_answer_without_an_origin_is_for_all(listed: InProcess) -> None:
    """What depends on the origin says so where none came, but for the plain case."""
    assert cors(await listed.ask(request(ONE, chunked=True))) == {"vary": "origin"}
    assert cors(await listed.ask(request(ONE))) == {}


async def test_origins_are_off_by_default(server: InProcess) -> None:
    """Unless origins are set, no page of another one is let in."""
    for sent in (request(ONE, headers=page()), asking()):
        assert cors(await server.ask(sent)) == {}


async def test_every_origin(log_url: str, store_url: str, tmp_path: Path) -> None:
    """With * every page is let in, never with credentials."""
    settings = settings_of(log_url, store_url, tmp_path, EVP_CORS_ORIGINS="*")
    async with serving(settings) as server:
        for sent in (
            request(ONE, headers=page("https://any.example")),
            asking("https://any.example"),
        ):
            told = cors(await server.ask(sent))
            assert told["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in told
    await remove_traces(settings)
