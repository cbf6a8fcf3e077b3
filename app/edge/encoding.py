"""Content codings of requests: gzip and zstd, never larger than what may be sent plainly."""

import io
import zlib
from typing import Final

from app.errors import FirewallError, Kind

GZIP: Final = b"gzip"
ZSTD: Final = b"zstd"

# RFC 9110 section 8.4.1: names are case-insensitive, and `x-gzip` is an old name.
_CODINGS: Final = {b"": None, b"identity": None, GZIP: GZIP, b"x-gzip": GZIP, ZSTD: ZSTD}

# zlib's own number for "a gzip header and trailer, and nothing else".
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
# RFC 9659: a coding of HTTP needs no more; a frame that asks for more would have it allocated.
_ZSTD_WINDOW_MAX: Final = 8 * 1024 * 1024
_STEP: Final = 64 * 1024


def coding_of(value: bytes) -> bytes | None:
    """Give the one coding that a `Content-Encoding` field names, None for no coding.

    Raises FirewallError(UNSUPPORTED_MEDIA_TYPE) for any other, and for one inside another.
    """
    try:
        return _CODINGS[value.strip(b" \t").lower()]
    except KeyError:
        raise unsupported("this content encoding is not supported") from None


def unsupported(detail: str) -> FirewallError:
    """Refuse a coding, and say which there are."""
    return FirewallError(
        Kind.UNSUPPORTED_MEDIA_TYPE, detail, fix="send the body uncompressed, or once by `gzip` or `zstd`"
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
