"""What a 202 says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice

import msgspec
from msgspec import UNSET, Struct, UnsetType

from evp.errors import Refusal
from evp.identity import canonical
from evp.server.limits import REJECTED_NAMED_MAX


class EventAccepted(Struct, frozen=True):
    """The event is in the log."""

    event_id: str
    """The `_id` under which it will be stored, a UUID."""
    receipt: str
    """Its place in the log; opaque."""
    durability: str
    """What that is worth: fsync, declared (by the operator) or memory."""


class Rejected(Struct, frozen=True):
    """An event of a batch that was not taken."""

    index: int
    code: str
    detail: str


class BatchAccepted(Struct, frozen=True):
    """The events of a batch are in the log, but for those that are rejected."""

    accepted: int
    rejected: list[Rejected]
    """The first thousand of them."""
    receipt: str
    """The place of the first one in the log; opaque."""
    durability: str
    """What that is worth: fsync, declared (by the operator) or memory."""
    rejected_total: int | UnsetType = UNSET
    """With `on_error=skip`: how many were rejected."""
    event_ids: list[str | None] | UnsetType = UNSET
    """With `ids=1`: the `_id` of each event of the batch, null for a rejected one."""


Tell = Callable[[list[bytes], str, int, str], bytes]
"""Makes the body of a 202 from ids, entry, index of the first event in it, and durability.

The entry is `<partition>.<entry id>`.
"""

_encode = msgspec.json.Encoder().encode


def tell_event(ids: list[bytes], entry: str, first: int, durability: str) -> bytes:
    """Return an EventAccepted; none of its texts has anything to escape."""
    return (
        f'{{"event_id":"{canonical(ids[0])}","receipt":"{entry}.{first}",'
        f'"durability":"{durability}"}}'
    ).encode()


def tell_batch(ids: list[bytes], entry: str, first: int, durability: str) -> bytes:
    """Return a BatchAccepted of a batch that was taken whole."""
    return (
        f'{{"accepted":{len(ids)},"rejected":[],"receipt":"{entry}.{first}",'
        f'"durability":"{durability}"}}'
    ).encode()


def telling(rejected: Mapping[int, Refusal], *, skips: bool, with_ids: bool) -> Tell:
    """Return what makes a BatchAccepted that says more; `rejected` is by index."""

    def tell(ids: list[bytes], entry: str, first: int, durability: str) -> bytes:
        named = islice(rejected.items(), REJECTED_NAMED_MAX)
        answer = BatchAccepted(
            accepted=len(ids),
            rejected=[Rejected(index, one.code, one.detail) for index, one in named],
            receipt=f"{entry}.{first}",
            durability=durability,
            rejected_total=len(rejected) if skips else UNSET,
            event_ids=_by_index(ids, rejected) if with_ids else UNSET,
        )
        return _encode(answer)

    return tell


def _by_index(ids: list[bytes], rejected: Mapping[int, Refusal]) -> list[str | None]:
    accepted = iter(ids)
    return [
        None if index in rejected else canonical(next(accepted))
        for index in range(len(ids) + len(rejected))
    ]
