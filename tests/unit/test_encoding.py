"""Packed bodies: unpacked whole or refused, and never more than a body may have."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from backports import zstd
from backports.zstd import CompressionParameter
from hypothesis import given
from hypothesis import strategies as st

from evp.errors import Refusal
from evp.limits import BATCH_BODY_BYTES_MAX, MIB
from evp.server.encoding import encoding_of, unpack
from evp.server.limits import (
    BODY_INLINE_BYTES_MAX,
    ENCODED_MEMBERS_MAX,
    SINGLE_BODY_BYTES_MAX,
    ZSTD_WINDOW_LOG_MAX,
)
from evp.server.request import Bodies, Hold

Pack = Callable[[bytes], bytes]

PACKS: dict[str, Pack] = {"gzip": gzip.compress, "zstd": zstd.compress}
each_encoding = pytest.mark.parametrize("name", PACKS)


async def unpacked(name: str, packed: bytes, most_bytes: int = BATCH_BODY_BYTES_MAX) -> bytes:
    """Return what is in a body."""
    encoding = encoding_of([(b"content-encoding", name.encode())])
    assert encoding is not None
    bodies = Bodies()
    with Hold(bodies) as hold:
        body = await unpack(packed, encoding, most_bytes, hold, bodies.threads)
        assert bodies.held_bytes == len(body)
    assert bodies.held_bytes == 0
    return body


async def code_of(name: str, packed: bytes, most_bytes: int = BATCH_BODY_BYTES_MAX) -> str:
    """Return why a body is refused."""
    with pytest.raises(Refusal) as caught:
        await unpacked(name, packed, most_bytes)
    return caught.value.code


def zeros(size_bytes: int) -> bytes:
    """Return gzip of so many zeros, made without having them."""
    pack = zlib.compressobj(9, wbits=31)
    parts = [pack.compress(bytes(MIB)) for _ in range(size_bytes // MIB)]
    return b"".join([*parts, pack.flush()])


def zstd_zeros(size_bytes: int) -> bytes:
    """Return zstd of so many zeros, made without having them."""
    pack = zstd.ZstdCompressor()
    parts = [pack.compress(bytes(MIB)) for _ in range(size_bytes // MIB)]
    return b"".join([*parts, pack.flush()])


@given(
    members=st.lists(st.binary(max_size=300), min_size=1, max_size=4),
    name=st.sampled_from([*PACKS]),
)
async def test_what_was_packed_comes_out(members: list[bytes], name: str) -> None:
    """A body in one member or several is what was packed."""
    packed = b"".join(PACKS[name](member) for member in members)
    assert await unpacked(name, packed) == b"".join(members)


@each_encoding
@pytest.mark.parametrize(
    "size_bytes",
    [0, 1, BODY_INLINE_BYTES_MAX, BODY_INLINE_BYTES_MAX + 1, 1_000_000, BATCH_BODY_BYTES_MAX],
)
async def test_every_size_up_to_the_limit(name: str, size_bytes: int) -> None:
    """A body is unpacked whole, in the loop's turn or in a thread, up to its last byte."""
    body = (b"0123456789abcdef" * (size_bytes // 16 + 1))[:size_bytes]
    assert await unpacked(name, PACKS[name](body)) == body


@each_encoding
async def test_one_byte_too_many(name: str) -> None:
    """The limit holds for what is in the body."""
    body = bytes(SINGLE_BODY_BYTES_MAX + 1)
    assert await unpacked(name, PACKS[name](body[1:]), SINGLE_BODY_BYTES_MAX) == body[1:]
    assert await code_of(name, PACKS[name](body), SINGLE_BODY_BYTES_MAX) == "body_too_large"


@pytest.mark.slow
@each_encoding
@pytest.mark.parametrize("most_bytes", [SINGLE_BODY_BYTES_MAX, BATCH_BODY_BYTES_MAX])
async def test_bomb_takes_the_memory_of_a_body(name: str, most_bytes: int) -> None:
    """A gigabyte in a body is refused once the limit is passed, and takes no more than that."""
    bomb = zeros(1024 * MIB) if name == "gzip" else zstd_zeros(1024 * MIB)
    tracemalloc.start()
    try:
        assert await code_of(name, bomb, most_bytes) == "body_too_large"
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 3 * most_bytes


@each_encoding
async def test_cut_and_damaged_bodies(name: str) -> None:
    """A body that ends early, is nothing, or goes on with something else is refused."""
    packed = PACKS[name](b"0123456789" * 100)
    for cut in range(len(packed)):
        assert await code_of(name, packed[:cut]) == "invalid_encoding"
    assert await code_of(name, packed + b"more") == "invalid_encoding"
    assert await code_of(name, b"{}") == "invalid_encoding"
    other = "zstd" if name == "gzip" else "gzip"
    assert await code_of(other, packed) == "invalid_encoding"


@given(st.binary(max_size=60), st.sampled_from([*PACKS]), st.integers(0, 59), st.integers(1, 255))
async def test_any_damage_is_a_refusal(body: bytes, name: str, place: int, flip: int) -> None:
    """Whatever byte is wrong, the body comes out unchanged or is refused."""
    packed = bytearray(PACKS[name](body))
    packed[place % len(packed)] ^= flip
    try:
        assert await unpacked(name, bytes(packed)) == body or name == "zstd"
    except Refusal as refusal:
        assert refusal.code in {"invalid_encoding", "body_too_large"}


@each_encoding
async def test_members_are_counted(name: str) -> None:
    """A body is in no more members than anyone needs."""
    member = PACKS[name](b"")
    assert await unpacked(name, member * ENCODED_MEMBERS_MAX) == b""
    assert await code_of(name, member * (ENCODED_MEMBERS_MAX + 1)) == "invalid_encoding"


async def test_window_of_zstd_is_bounded() -> None:
    """A frame that asks for more memory than RFC 9659 grants is refused."""
    options: dict[int, int] = {CompressionParameter.window_log: ZSTD_WINDOW_LOG_MAX + 1}
    pack = zstd.ZstdCompressor(options=options)
    packed = pack.compress(b"x") + pack.flush()
    assert await code_of("zstd", packed) == "invalid_encoding"


@pytest.mark.parametrize(
    "values",
    [
        [b"gzip, gzip"],
        [b"gzip", b"gzip"],
        [b"gzip, identity"],
        [b"br"],
        [b"deflate"],
        [b"gzip;q=1"],
    ],
)
def test_other_encodings(values: list[bytes]) -> None:
    """What is packed twice, or in another way, is told as such."""
    with pytest.raises(Refusal) as caught:
        encoding_of([(b"content-encoding", value) for value in values])
    assert caught.value.code == "unsupported_encoding"


def test_no_encoding() -> None:
    """A body that is not packed is taken as it is."""
    assert encoding_of([]) is None
    assert encoding_of([(b"content-encoding", b" Identity ")]) is None
    assert encoding_of([(b"content-encoding", b"X-GZIP")]) is not None


async def test_large_bodies_take_turns() -> None:
    """No more large bodies are unpacked at a time than there are threads for them."""
    encoding = encoding_of([(b"content-encoding", b"gzip")])
    assert encoding is not None
    packed, bodies = gzip.compress(bytes(MIB)), Bodies()
    async with bodies.threads, bodies.threads:
        with Hold(bodies) as hold:
            waiting = asyncio.create_task(
                unpack(packed, encoding, BATCH_BODY_BYTES_MAX, hold, bodies.threads)
            )
            small = await unpack(gzip.compress(b"{}"), encoding, 10, hold, bodies.threads)
            await asyncio.sleep(0.01)
            assert small == b"{}"
            assert not waiting.done()
            waiting.cancel()
