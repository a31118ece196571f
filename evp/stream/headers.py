"""What the log holds, without sending payloads: frame id, epoch, number and count by entry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from msgspec import Struct

from evp.limits import HEADERS_BYTES_TARGET, HEADERS_MAX
from evp.stream.client import Link
from evp.stream.keys import Keys
from evp.stream.scripts import HEADERS

_FRAME_ID_BYTES = 12


class Header(Struct, frozen=True, gc=False):
    """One entry. `frame_id`, `srv` are empty and `seq`, `count` 0 for a plain entry."""

    entry_id: str
    frame_id: bytes
    srv: bytes
    seq: int
    count: int


async def headers(link: Link, keys: Keys, after: str, most: int) -> list[Header]:
    """Return up to `most` entries behind `after`, an entry id or "-". Raises LogUnavailable.

    The server goes through whole entries meanwhile, up to some MiB each: ask for
    a hundred or so at a time.
    """
    first = after if after == "-" else f"({after}"
    rows = await link.script(HEADERS, (keys.stream,), (first, "+", most))
    return [_header(row) for row in rows]


async def all_headers(link: Link, keys: Keys) -> AsyncIterator[list[Header]]:
    """Give all entries, oldest first, a page at a time. Raises LogUnavailable.

    A page is sized by the mean entry, so that no call keeps the server for long.
    """
    length, size_bytes = await link.calls([("XLEN", keys.stream), ("MEMORY", "USAGE", keys.stream)])
    fit = HEADERS_BYTES_TARGET * length // (size_bytes or 1)
    most = max(1, min(HEADERS_MAX, fit))
    after = "-"
    while page := await headers(link, keys, after, most):
        yield page
        after = page[-1].entry_id


async def header_of(link: Link, keys: Keys, entry_id: str) -> Header | None:
    """Return what an entry holds; None if the log doesn't have it. Raises LogUnavailable."""
    rows = await link.script(HEADERS, (keys.stream,), (entry_id, entry_id, 1))
    return _header(rows[0]) if rows else None


async def clock_ms(link: Link) -> int:
    """Return the log's time, by which entries get their ids. Raises LogUnavailable."""
    seconds, micros = await link.call("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


async def in_log(link: Link, keys: Keys, entries: Iterable[tuple[str, bytes]]) -> set[bytes]:
    """Return which of these frames, (entry id, frame id), the log still has.

    Entry ids may be issued again after a failover, so both must be the same.
    Raises LogUnavailable.
    """
    found: set[bytes] = set()
    for entry_id, frame_id in entries:
        rows = await link.script(HEADERS, (keys.stream,), (entry_id, entry_id, 1))
        found.update(frame_id for row in rows if bytes(row[1]) in {frame_id, b""})
    return found


def _header(row: list[bytes]) -> Header:
    entry_id, frame_id, srv, seq, count = row
    is_frame = len(frame_id) == _FRAME_ID_BYTES and seq.isdigit() and count.isdigit()
    if not is_frame:
        return Header(entry_id.decode(), b"", b"", 0, 0)
    return Header(entry_id.decode(), frame_id, srv, int(seq), int(count))
