"""What the log holds, without sending payloads: frame id, epoch, number and count by entry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from functools import partial

from msgspec import Struct

from evp.limits import HEADERS_BYTES_TARGET, HEADERS_MAX, LOG_LOOK_BYTES_MAX
from evp.stream.asking import asked
from evp.stream.client import Argument, KeptLink, Link, clock_of
from evp.stream.header_scripts import CARRIERS, DELIVER_AGAIN, HEADERS
from evp.stream.keys import Keys

_FRAME_ID_BYTES = 12
#: A consumer without a lease: what is pending under its name is claimed by any worker, and then
#: it is removed.
_NOBODY = "verify-repair"
#: XCLAIM IDLE: long ago, so that whoever claims next takes the entry at once.
_AT_ONCE_IDLE_MS = 24 * 3600 * 1000


class Header(Struct, frozen=True, gc=False):
    """One entry. `frame_id`, `srv` are empty and `seq`, `count` 0 for a plain entry.

    It is `acked` if the group that was asked about was given it and has done with it.
    `partition` is the number of its stream.
    """

    entry_id: str
    frame_id: bytes
    srv: bytes
    seq: int
    count: int
    acked: bool = False
    partition: int = 0


async def headers(
    link: Link, keys: Keys, after: str, most: int = HEADERS_MAX, *, group: str = ""
) -> list[Header]:
    """Return up to `most` entries behind `after`, an entry id or "-"; fewer where they are large.

    The server goes through whole entries meanwhile: at least one, and as many as
    have HEADERS_BYTES_TARGET together by the index. Raises LogUnavailable.
    """
    first = after if after == "-" else f"({after}"
    bounds = (first, "+", most, HEADERS_BYTES_TARGET, group)
    rows = await link.script(HEADERS, (keys.stream, keys.index), bounds)
    return [_header(row, keys.partition) for row in rows]


async def all_headers(link: KeptLink, keys: Keys, group: str = "") -> AsyncIterator[list[Header]]:
    """Give all entries, oldest first, a page at a time. Raises LogUnavailable."""
    after = "-"
    while page := await asked(link, partial(headers, keys=keys, after=after, group=group)):
        yield page
        after = page[-1].entry_id


async def header_of(link: Link, keys: Keys, entry_id: str, group: str = "") -> Header | None:
    """Return what an entry holds; None if the log doesn't have it. Raises LogUnavailable."""
    rows = await link.script(HEADERS, (keys.stream, keys.index), (entry_id, entry_id, 1, 1, group))
    return _header(rows[0], keys.partition) if rows else None


async def carriers_of(link: Link, keys: Keys, entry_id: str) -> bytes:
    """Return the carriers in an entry (`evp.frame.split` reads them).

    None, which is no bytes, if the log doesn't have it, it is a plain one, or they have more
    than LOG_LOOK_BYTES_MAX. Raises LogUnavailable.
    """
    return bytes(await link.script(CARRIERS, (keys.stream,), (entry_id, LOG_LOOK_BYTES_MAX)))


async def deliver_again(link: Link, keys: Keys, group: str, entry_ids: Sequence[str]) -> int:
    """Have entries that a group has acked delivered to it once more; return how many will be.

    What is not acked, or not there any more, is left alone. Up to HEADERS_MAX at a
    time. Raises LogUnavailable.
    """
    given: list[Argument] = [group, _NOBODY, _AT_ONCE_IDLE_MS, *entry_ids]
    return int(await link.script(DELIVER_AGAIN, (keys.stream,), given))


async def clock_ms(link: Link) -> int:
    """Return the log's time, by which entries get their ids. Raises LogUnavailable."""
    return clock_of(await link.call("TIME"))


async def in_log(link: Link, keys: Keys, entries: Iterable[tuple[str, bytes]]) -> set[bytes]:
    """Return which of these frames, (entry id, frame id), the log still has.

    Entry ids may be issued again after a failover, so both must be the same.
    Raises LogUnavailable.
    """
    found: set[bytes] = set()
    for entry_id, frame_id in entries:
        rows = await link.script(HEADERS, (keys.stream, keys.index), (entry_id, entry_id, 1, 1, ""))
        found.update(frame_id for row in rows if bytes(row[1]) in {frame_id, b""})
    return found


def _header(row: tuple[bytes, bytes, bytes, bytes, bytes, int], partition: int) -> Header:
    entry_id, frame_id, srv, seq, count, acked = row
    is_frame = len(frame_id) == _FRAME_ID_BYTES and seq.isdigit() and count.isdigit()
    facts = (frame_id, srv, int(seq), int(count)) if is_frame else (b"", b"", 0, 0)
    return Header(entry_id.decode(), *facts, bool(acked), partition)
