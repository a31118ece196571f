"""Getting events to a server that may be busy or away, in a bounded time.

What may pass is tried again: no answer, 408, 429, 502, 503, 504, never sooner
than `retry-after` says. An event should have an `id` (and a time): then sending it
twice stores one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TypeVar

import msgspec
from msgspec import Struct, field

from evp.batch.retry import Backoff
from evp.clock import monotonic_s
from evp.errors import ServerUnavailable
from evp.http import HttpConnection, Reply
from evp.limits import SEND_REQUESTS_MAX

T = TypeVar("T")

ACCEPTED = 202
JSON = "application/json"
NDJSON = "application/x-ndjson"

_MAY_PASS = frozenset((408, 429, 502, 503, 504))
#: Of these a single event may be the cause, if evp says so.
_ABOUT_EVENTS = frozenset((400, 413, 422, 500))
_TOO_LARGE = 413
#: Clients that were told the same wait come back within this share of it, later.
_LATER_SHARE_MAX = 0.25


class Rejected(Struct, frozen=True):
    """An event of a batch that was not accepted; `index` is its place in the batch, from 0."""

    index: int
    code: str
    detail: str


class Receipt(Struct, frozen=True):
    """An event is on disk. `receipt` is its place in the log, `event_id` its `_id` in the store."""

    event_id: str
    receipt: str
    durability: str


class BatchReceipt(Struct, frozen=True):
    """So many events of a batch are on disk; `rejected` names up to a thousand of the others."""

    accepted: int
    receipt: str
    durability: str
    rejected: list[Rejected] = field(default_factory=list)
    rejected_total: int = 0


class Settled(Struct, frozen=True):
    """What one answer says: these events of a batch are on disk, but for the rejected ones."""

    indexes: Sequence[int]
    rejected: Sequence[Rejected]


async def post(
    connection: HttpConnection,
    path: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    within_s: float,
    again_if_away: bool = True,
) -> Reply:
    """Send a request until there is an answer other than "try again", and return it.

    Raises ServerUnavailable where that takes longer than `within_s`, or would;
    without `again_if_away` also at once where there is no answer at all. What
    was sent may then have been accepted.
    """
    ends_at_s, backoff = monotonic_s() + within_s, Backoff()
    while True:
        left_s = ends_at_s - monotonic_s()
        try:
            reply = await connection.request("POST", path, body, headers, left_s)
        except ServerUnavailable as error:
            if not again_if_away:
                raise
            failure, wait_s = error, backoff.next_s()
        else:
            if reply.status not in _MAY_PASS:
                return reply
            asked_s = reply.retry_after_s
            failure = ServerUnavailable(
                f"evp keeps answering {reply.code}: {reply.detail}; try again in {asked_s:g} s"
            )
            wait_s = asked_s * random.uniform(1.0, 1.0 + _LATER_SHARE_MAX)  # noqa: S311 - jitter
        if monotonic_s() + wait_s >= ends_at_s:
            raise failure
        await asyncio.sleep(wait_s)


async def post_lines(
    connection: HttpConnection,
    key: str,
    lines: Sequence[bytes],
    *,
    within_s: float,
    again_if_away: bool = True,
) -> AsyncIterator[Settled]:
    """Send events, each as JSON text; say what became of them, answer by answer.

    A server that refuses a whole batch names its first culprit or, as a proxy,
    none: then the others go again without it, or each half by itself. An answer
    of which no event can be the cause goes for the whole batch, and so does any
    after SEND_REQUESTS_MAX requests.
    Raises as `post`, and if a 202 does not account for each event; what was not
    settled by then may have been accepted.
    """
    headers = {"content-type": NDJSON, "x-api-key": key}
    waiting: list[Sequence[int]] = [range(len(lines))]
    requests = 0
    while waiting:
        batch = waiting.pop()
        requests += 1
        reply = await post(
            connection,
            "/events/batch?on_error=skip",
            b"\n".join(lines[index] for index in batch),
            headers,
            within_s=within_s,
            again_if_away=again_if_away,
        )
        culprit = reply.culprit
        if reply.status == ACCEPTED:
            yield _settled(batch, read_batch(reply, len(batch)))
        elif len(batch) == 1 or requests >= SEND_REQUESTS_MAX or not _is_about_events(reply):
            yield Settled(batch, [Rejected(x, reply.code, reply.detail) for x in batch])
        elif culprit is not None and 0 <= culprit < len(batch):
            index = batch[culprit]
            yield Settled([index], [Rejected(index, reply.code, reply.detail)])
            waiting.append([x for x in batch if x != index])
        else:
            middle = len(batch) // 2
            waiting += [batch[middle:], batch[:middle]]


def _is_about_events(reply: Reply) -> bool:
    # A proxy can have a bound on bodies, too: halves may pass. What else it says, as that the
    # address is another one, goes for every event alike.
    return reply.status in _ABOUT_EVENTS and (reply.is_problem or reply.status == _TOO_LARGE)


def _settled(batch: Sequence[int], told: BatchReceipt) -> Settled:
    rejected = {one.index: one for one in told.rejected}
    if told.accepted + len(rejected) != len(batch) or not rejected.keys() <= set(range(len(batch))):
        raise ServerUnavailable("the answer does not say which events of a batch were rejected")
    return Settled(
        batch, [Rejected(batch[index], one.code, one.detail) for index, one in rejected.items()]
    )


def read_batch(reply: Reply, count: int) -> BatchReceipt:
    """Return what a 202 says of `count` events. Raises ServerUnavailable if no evp says so."""
    told = read(reply, BatchReceipt)
    told_count = told.accepted + max(told.rejected_total, len(told.rejected))
    if told_count != count:
        raise ServerUnavailable(
            f"whoever answered {reply.status} is no evp: of {count} events it tells {told_count}"
        )
    return told


def read(reply: Reply, kind: type[T]) -> T:
    """Return what a 202 says. Raises ServerUnavailable if no evp says so."""
    try:
        return msgspec.json.decode(reply.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ServerUnavailable(f"whoever answered {reply.status} is no evp: {error}") from error
