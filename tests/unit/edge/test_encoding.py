"""Codings undone: one whole stream, within the limit, whatever its ratio."""

import gzip
import io
import random
import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from app.edge.body import read_body
from app.edge.encoding import (
    GZIP,
    STREAM_RATIO_FLOOR,
    STREAM_RATIO_MAX,
    ZSTD,
    Expander,
    coding_of,
    expand,
)
from app.errors import FirewallError, Kind

LIMIT = 1000


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def zstd_of_unknown_size(data: bytes) -> bytes:
    stream = zstandard.ZstdCompressor().compressobj()
    return stream.compress(data) + stream.flush()


WRITERS = {"gzip": (GZIP, gzip.compress), "zstd": (ZSTD, zstd), "zstd stream": (ZSTD, zstd_of_unknown_size)}
writers = pytest.mark.parametrize(("coding", "write"), WRITERS.values(), ids=WRITERS)


def refused(body: bytes, coding: bytes) -> FirewallError:
    with pytest.raises(FirewallError) as caught:
        expand(body, coding, max_bytes=LIMIT)
    assert caught.value.fix
    return caught.value


@writers
def test_there_and_back(coding, write) -> None:
    @given(st.binary(max_size=LIMIT))
    def back(data: bytes) -> None:
        assert expand(write(data), coding, max_bytes=LIMIT) == data

    back()
    assert expand(write(b"x" * LIMIT), coding, max_bytes=LIMIT) == b"x" * LIMIT


@writers
@pytest.mark.parametrize("size", [LIMIT + 1, 30_000_000])
def test_more_than_the_limit(coding, write, size: int) -> None:
    error = refused(write(b"\0" * size), coding)
    assert error.kind is Kind.TOO_LARGE
    assert "decompressed" in error.detail


@writers
def test_what_is_not_exactly_one_whole_stream(coding, write) -> None:
    whole = write(b'{"a": 1}')
    for body, fault in (
        (whole[:-1], "ends too early"),
        (whole[:3], ""),
        (whole + b"x", "behind its end" if coding == GZIP else "is damaged"),
        (whole + whole, "behind its end"),
        (b'{"a": 1}', "is damaged"),
        (b"", ""),
    ):
        error = refused(body, coding)
        assert error.kind is Kind.MALFORMED, body
        assert fault in error.detail


def test_a_checksum_that_is_wrong() -> None:
    whole = bytearray(gzip.compress(b"{}"))
    whole[-5] ^= 1
    assert "is damaged" in refused(bytes(whole), GZIP).detail
    assert "is damaged" in refused(zlib.compress(b"{}"), GZIP).detail


def test_a_window_that_nobody_needs() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    assert "is damaged" in refused(stream.compress(b"{}") + stream.flush(), ZSTD).detail


def test_empty_members_are_not_read_for_ever() -> None:
    buffer = io.BytesIO()
    for _ in range(1000):
        buffer.write(gzip.compress(b""))
    assert "behind its end" in refused(buffer.getvalue(), GZIP).detail


def unfolded(body: bytes, coding: bytes, size: int, **limits: int) -> list[bytes]:
    """What comes out of a stream that arrives in pieces of a size."""
    expander = Expander(coding, **limits)
    pieces = [piece for at in range(0, len(body), size) for piece in expander.feed(body[at : at + size])]
    expander.end()
    return pieces


@writers
def test_a_stream_in_any_pieces(coding, write) -> None:
    @given(st.binary(max_size=5000), st.integers(1, 3000))
    def back(data: bytes, size: int) -> None:
        assert b"".join(unfolded(write(data), coding, size)) == data

    back()
    large = random.Random(1).randbytes(300_000) + b"x" * 500_000
    pieces = unfolded(write(large), coding, 70_000)
    assert b"".join(pieces) == large
    assert max(map(len, pieces)) <= 65_536


@writers
@pytest.mark.parametrize("size", [1, 100, 1_000_000])
def test_a_stream_that_is_not_exactly_one_and_whole(coding, write, size: int) -> None:
    whole = write(b'{"a": 1}\n' * 100)
    for body, fault in (
        (whole[:-1], "ends too early"),
        (b"", "ends too early"),
        (whole + whole, "behind its end"),
        (whole + b"x", "behind its end"),
        (b'{"a": 1}', "is damaged"),
    ):
        with pytest.raises(FirewallError) as caught:
            unfolded(body, coding, size)
        assert caught.value.kind is Kind.MALFORMED
        assert fault in caught.value.detail


@writers
def test_a_stream_that_unfolds_without_end(coding, write) -> None:
    bomb = write(b"\n" * 30_000_000)
    out = 0

    def fed() -> None:
        nonlocal out
        for piece in Expander(coding).feed(bomb):
            out += len(piece)

    with pytest.raises(FirewallError, match="100 times larger") as caught:
        fed()
    assert caught.value.kind is Kind.TOO_LARGE
    assert out <= max(STREAM_RATIO_FLOOR, STREAM_RATIO_MAX * len(bomb))
    with pytest.raises(FirewallError, match="larger than 1000 bytes") as caught:
        unfolded(write(b"x" * 1001), coding, 10, max_bytes=1000)
    assert caught.value.kind is Kind.TOO_LARGE
    assert unfolded(write(b"x" * 1000), coding, 10, max_bytes=1000)


@pytest.mark.parametrize(
    ("value", "coding"),
    [(b"gzip", GZIP), (b" GZip ", GZIP), (b"x-gzip", GZIP), (b"zstd", ZSTD), (b"identity", None), (b"", None)],
)
def test_codings(value: bytes, coding: bytes | None) -> None:
    assert coding_of(value) == coding


@pytest.mark.parametrize("value", [b"br", b"deflate", b"gzip, gzip", b"gzip,zstd", b"identity, gzip", b"*"])
def test_other_codings(value: bytes) -> None:
    with pytest.raises(FirewallError) as caught:
        coding_of(value)
    assert caught.value.kind is Kind.UNSUPPORTED_ENCODING


async def test_a_body_in_a_coding_is_read() -> None:
    async def receive():
        return {"type": "http.request", "body": gzip.compress(b'{"a": 1}')}

    scope = {"headers": [(b"content-type", b"application/json"), (b"content-encoding", b"gzip")]}
    assert await read_body(scope, receive) == b'{"a": 1}'
