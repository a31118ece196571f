"""Bodies that come packed with gzip or zstd: unpacked piece by piece, never beyond the limit.

Whatever a body pretends to be, no more is made of it than a body may have, so a
bomb costs what any large body costs. The first pieces are unpacked at once, which
is all of nearly every body; what is larger goes on in a thread.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

from evp.errors import Refusal
from evp.limits import KIB
from evp.server.limits import BODY_INLINE_BYTES_MAX, ENCODED_MEMBERS_MAX, ZSTD_WINDOW_LOG_MAX
from evp.server.request import Hold, too_large

_PIECE_BYTES = 64 * KIB
_GZIP_WBITS = 16 + zlib.MAX_WBITS
_WINDOW: dict[int, int] = {DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG_MAX}


class _Unpacker(Protocol):
    """One member of a body. It keeps what of its input it could not use yet."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """zlib as zstd and every other decompressor of Python's presents itself."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=_GZIP_WBITS)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        piece = self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)
        self.needs_input = not self._inflate.unconsumed_tail and len(piece) < max_length
        return piece


Encoding = Callable[[], _Unpacker]
"""Makes what unpacks a member."""


def _zstd() -> _Unpacker:
    return ZstdDecompressor(options=_WINDOW)


_ENCODINGS: dict[bytes, Encoding | None] = {
    b"": None,
    b"identity": None,
    b"gzip": _Gzip,
    b"x-gzip": _Gzip,
    b"zstd": _zstd,
}


def encoding_of(headers: Iterable[tuple[bytes, bytes]]) -> Encoding | None:
    """Return how the body is packed, None if it isn't. Raises Refusal `unsupported_encoding`."""
    values = [value for name, value in headers if name == b"content-encoding"]
    name = b",".join(values).strip().lower()
    if name not in _ENCODINGS:
        detail = "a body may be packed once, with content-encoding gzip or zstd"
        raise Refusal("unsupported_encoding", detail)
    return _ENCODINGS[name]


async def unpack(
    packed: bytes, encoding: Encoding, most_bytes: int, hold: Hold, threads: asyncio.Semaphore
) -> bytes:
    """Return the body; beyond what is done in the loop's own turn it waits for one of `threads`.

    Raises Refusal `invalid_encoding`, `body_too_large` if there is more in it
    than `most_bytes`, and `server_busy`.
    """
    pieces = _pieces(packed, encoding)
    body = bytearray()
    if not _collect(pieces, body, most_bytes, BODY_INLINE_BYTES_MAX):
        async with threads:
            await asyncio.to_thread(_collect, pieces, body, most_bytes, most_bytes)
    hold.add(len(body))
    return bytes(body)


def _collect(pieces: Iterator[bytes], body: bytearray, most_bytes: int, enough_bytes: int) -> bool:
    """Add pieces to a body until there is enough for now. Return whether that was all."""
    for piece in pieces:
        body += piece
        if len(body) > most_bytes:
            raise too_large(most_bytes)
        if len(body) > enough_bytes:
            return False
    return True


def _pieces(packed: bytes, encoding: Encoding) -> Iterator[bytes]:
    """Give what is in a body, a bounded piece at a time. Raises Refusal `invalid_encoding`."""
    unpacker, members = encoding(), 1
    try:
        for start in range(0, len(packed), _PIECE_BYTES):
            data = packed[start : start + _PIECE_BYTES]
            while True:
                if unpacker.eof:
                    unpacker, members = encoding(), members + 1
                    if members > ENCODED_MEMBERS_MAX:
                        raise _invalid(f"the body is in more than {ENCODED_MEMBERS_MAX} members")
                yield unpacker.decompress(data, _PIECE_BYTES)
                data = unpacker.unused_data if unpacker.eof else b""
                if not data and (unpacker.eof or unpacker.needs_input):
                    break
    except (zlib.error, ZstdError):
        raise _invalid("the body is not what content-encoding says") from None
    if not unpacker.eof:
        raise _invalid("the packed body is cut off")


def _invalid(detail: str) -> Refusal:
    return Refusal("invalid_encoding", detail)
