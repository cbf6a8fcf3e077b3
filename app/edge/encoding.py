"""Content codings of requests: gzip and zstd, never larger than what may be sent plainly."""

import io
import zlib
from collections.abc import Iterator
from typing import Any, Final

from app.errors import FirewallError, Kind

GZIP: Final = b"gzip"
ZSTD: Final = b"zstd"
# What a refusal names, RFC 9110 section 12.5.3.
ACCEPTED: Final = b"gzip, zstd"

# Of a stream, which has no end that is known: lines of one kind of change come to a tenth or a thirtieth of their size.
STREAM_RATIO_MAX: Final = 100
# So much may come of anything.
STREAM_RATIO_FLOOR: Final = 1_048_576
STREAM_BYTES_MAX: Final = 268_435_456

# RFC 9110 section 8.4.1: names are case-insensitive, and `x-gzip` is an old name.
_CODINGS: Final = {b"": None, b"identity": None, GZIP: GZIP, b"x-gzip": GZIP, ZSTD: ZSTD}

# zlib's own number for "a gzip header and trailer, and nothing else".
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
# RFC 9659: a coding of HTTP needs no more; a frame that asks for more would have it allocated.
_ZSTD_WINDOW_MAX: Final = 8 * 1024 * 1024
_STEP: Final = 64 * 1024
# A block of zstd is four bytes or more and becomes 128 KiB or less: of so few bytes come two mebibytes at most.
_ZSTD_STEP: Final = 64


def coding_of(value: bytes) -> bytes | None:
    """Give the one coding that a `Content-Encoding` field names, None for no coding.

    Raises FirewallError(UNSUPPORTED_ENCODING) for any other, and for one inside another.
    """
    try:
        return _CODINGS[value.strip(b" \t").lower()]
    except KeyError:
        raise unsupported("this content encoding is not supported") from None


def unsupported(detail: str) -> FirewallError:
    """Refuse a coding, and say which there are."""
    return FirewallError(
        Kind.UNSUPPORTED_ENCODING, detail, fix="send the body uncompressed, or once by `gzip` or `zstd`"
    )


def expand(body: bytes, coding: bytes, *, max_bytes: int) -> bytes:
    """Undo a coding; what it takes of memory and time is bounded by `max_bytes`, whatever the ratio.

    Raises FirewallError: TOO_LARGE as soon as there is more, MALFORMED for what is not exactly one whole stream.
    """
    try:
        expanded, whole, rest = (_gunzip if coding == GZIP else _unzstd)(body, max_bytes)
    except (zlib.error, _BrokenError):
        raise _malformed(coding, "is damaged") from None
    if len(expanded) > max_bytes:
        raise FirewallError(
            Kind.TOO_LARGE,
            f"the body is larger than {max_bytes} bytes when it is decompressed",
            fix="send digests of large values",
        )
    if not whole:
        raise _malformed(coding, "ends too early")
    if rest:
        raise _malformed(coding, "has something behind its end")
    return expanded


class Expander:
    """Undoes a coding as it comes, in pieces of 64 KiB at most, and stops where more comes out than anybody needs."""

    def __init__(self, coding: bytes, *, max_bytes: int = STREAM_BYTES_MAX) -> None:
        self._coding = coding
        self._max_bytes = max_bytes
        self._taken = 0
        self._given = 0
        if coding == GZIP:
            self._stream: Any = zlib.decompressobj(_GZIP_WINDOW)
            self._pieces = self._gunzip
        else:
            import zstandard

            self._stream = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_MAX).decompressobj()
            self._pieces = self._unzstd

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What comes out of so much more. Raises FirewallError: TOO_LARGE, and MALFORMED for what is damaged."""
        if data and self._stream.eof:
            raise _malformed(self._coding, "has something behind its end")
        self._taken += len(data)
        try:
            for piece in self._pieces(data):
                self._given += len(piece)
                self._check()
                yield piece
        except (zlib.error, _BrokenError):
            raise _malformed(self._coding, "is damaged") from None
        if self._stream.unused_data:
            raise _malformed(self._coding, "has something behind its end")

    def end(self) -> None:
        """Nothing more comes. Raises FirewallError(MALFORMED) unless the stream is whole."""
        if not self._stream.eof:
            raise _malformed(self._coding, "ends too early")

    def _check(self) -> None:
        if self._given > self._max_bytes:
            raise FirewallError(
                Kind.TOO_LARGE,
                f"the stream is larger than {self._max_bytes} bytes when it is decompressed",
                fix="send the lines from here on in a new request",
            )
        if self._given > max(STREAM_RATIO_FLOOR, STREAM_RATIO_MAX * self._taken):
            raise FirewallError(
                Kind.TOO_LARGE,
                f"the stream becomes more than {STREAM_RATIO_MAX} times larger when it is decompressed",
                fix="send the lines uncompressed",
            )

    def _gunzip(self, data: bytes) -> Iterator[bytes]:
        piece = b""
        # A whole piece may not have been all: the rest of it is inside, whether input is left or not.
        while (data or len(piece) == _STEP) and not self._stream.eof:
            piece = self._stream.decompress(data, _STEP)
            data = self._stream.unconsumed_tail
            if piece:
                yield piece

    def _unzstd(self, data: bytes) -> Iterator[bytes]:
        import zstandard

        ready = bytearray()
        for start in range(0, len(data), _ZSTD_STEP):
            if self._stream.eof:
                raise _malformed(self._coding, "has something behind its end")
            try:
                ready += self._stream.decompress(data[start : start + _ZSTD_STEP])
            except zstandard.ZstdError as error:
                raise _BrokenError from error
            while len(ready) >= _STEP:
                yield bytes(ready[:_STEP])
                del ready[:_STEP]
        if ready:
            yield bytes(ready)


class _BrokenError(Exception):
    """What zstd cannot read."""


def _gunzip(body: bytes, max_bytes: int) -> tuple[bytes, bool, bool]:
    """What comes out, whether it ended, and whether anything is left."""
    stream = zlib.decompressobj(_GZIP_WINDOW)
    expanded = stream.decompress(body, max_bytes + 1)
    return expanded, stream.eof, bool(stream.unused_data)


def _unzstd(body: bytes, max_bytes: int) -> tuple[bytes, bool, bool]:
    # Imported by the first request that needs it.
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_MAX)
    try:
        # Bounded, but without a word of where the frame ends; so what fits is read a second time, at a gigabyte a
        # second, by the interface that tells.
        size = 0
        with decompressor.stream_reader(io.BytesIO(body)) as reader:
            while chunk := reader.read(_STEP):
                size += len(chunk)
                if size > max_bytes:
                    return bytes(size), False, False
        stream = decompressor.decompressobj()
        expanded = stream.decompress(body)
    except zstandard.ZstdError as error:
        raise _BrokenError from error
    return expanded, stream.eof, bool(stream.unused_data)


def _malformed(coding: bytes, fault: str) -> FirewallError:
    return FirewallError(
        Kind.MALFORMED,
        f"the {coding.decode()} stream of the body {fault}",
        fix="send one whole stream and nothing else",
    )
