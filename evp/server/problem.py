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

from evp.errors import Refusal
from evp.logs import get
from evp.server.answer import Answer

_TYPE = "urn:evp:problem:"
_RETRY_AFTER_S = 1
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


def problem(refusal: Refusal) -> Answer:
    """Return the answer that tells a refusal."""
    PROBLEMS[refusal.code] += 1
    body = Problem(
        type=_TYPE + refusal.code,
        title=HTTPStatus(refusal.status).phrase,
        status=refusal.status,
        code=refusal.code,
        detail=refusal.detail,
        path=UNSET if refusal.path is None else refusal.path,
        index=UNSET if refusal.index is None else refusal.index,
    )
    headers = [(b"content-type", b"application/problem+json")]
    if refusal.status == HTTPStatus.SERVICE_UNAVAILABLE:
        retry_after_s = refusal.retry_after_s or _RETRY_AFTER_S
        headers.append((b"retry-after", b"%d" % retry_after_s))
    if refusal.status == HTTPStatus.UNAUTHORIZED:
        headers.append((b"www-authenticate", b'ApiKey realm="evp"'))
    return Answer(refusal.status, _encode(body), tuple(headers))


def fault(error: BaseException | None) -> Answer:
    """Return the answer after an error that nobody foresaw; only evp's own log tells it."""
    _log.error("unexpected error in a request", exc_info=error)
    return problem(Refusal("internal_error", "evp failed; the log of the server says why"))
