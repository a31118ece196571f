"""Refusals as problem details (RFC 9457), `application/problem+json`.

`code` is stable and for programs; `detail` is for people; `path` and `index`
point at the culprit. What the client sent is never echoed but for the names on
the path.
"""

from __future__ import annotations

from collections import Counter
from http import HTTPStatus

import msgspec
from msgspec import UNSET, Struct, UnsetType

from evp.errors import Refusal, StoreUnavailable
from evp.logs import get
from evp.server.answer import Answer

PROBLEM_JSON = "application/problem+json"
_TYPE = "urn:evp:problem:"
_HEADER = (b"content-type", PROBLEM_JSON.encode())
_RETRY_AFTER_S = 1
_COME_BACK = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
_WANTED = b'ApiKey realm="evp", Bearer realm="evp"'
_INVALID_TOKEN = b'Bearer realm="evp", error="invalid_token"'
_log = get("evp.server")

PROBLEMS: Counter[str] = Counter()
"""How many problems this process has answered with, by code."""


class Problem(Struct, frozen=True):
    """The body of every answer that is no success."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    path: str | UnsetType = UNSET
    index: int | UnsetType = UNSET


_encode = msgspec.json.Encoder().encode


def type_of(code: str) -> str:
    """Return the URI that names a kind of problem."""
    return _TYPE + code


def problem(refusal: Refusal) -> Answer:
    """Return the answer that tells a refusal."""
    PROBLEMS[refusal.code] += 1
    body = Problem(
        type=type_of(refusal.code),
        title=HTTPStatus(refusal.status).phrase,
        status=refusal.status,
        code=refusal.code,
        detail=refusal.detail,
        path=UNSET if refusal.path is None else refusal.path,
        index=UNSET if refusal.index is None else refusal.index,
    )
    headers = [_HEADER, (b"cache-control", b"no-store")]
    if refusal.status in _COME_BACK:
        retry_after_s = refusal.retry_after_s or _RETRY_AFTER_S
        headers.append((b"retry-after", b"%d" % retry_after_s))
    if refusal.status == HTTPStatus.UNAUTHORIZED:
        is_token = refusal.code == "invalid_token"
        headers.append((b"www-authenticate", _INVALID_TOKEN if is_token else _WANTED))
    if refusal.code == "unsupported_encoding":
        headers.append((b"accept-encoding", b"gzip, zstd"))
    return Answer(refusal.status, _encode(body), tuple(headers), refusal)


def store_away(error: StoreUnavailable) -> Refusal:
    """Return the refusal of what needs the store; only evp's own log tells where that is."""
    _log.warning("a request needs the store", reason=str(error))
    return Refusal("store_unavailable", "the store can't be reached now")


def fault(error: BaseException | None) -> Answer:
    """Return the answer after an error that nobody foresaw; only evp's own log tells it."""
    told = problem(Refusal("internal_error", "evp failed; the log of the server says why"))
    return Answer(told.status, told.body, told.headers, error)


def note(answer: Answer, **request: str) -> None:
    """Log that a request is refused, or that it failed, with what `request` says of it."""
    error = answer.error
    if isinstance(error, Refusal):
        _log.debug("refused", code=error.code, status=error.status, detail=error.detail, **request)
    else:
        _log.error("unexpected error in a request", exc_info=error, **request)
