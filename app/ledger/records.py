"""Entries with their records in a file: a JSON object on each line, compressed by zstd.

    {"idx": 0, "id": "...", "kind": "decision", "recorded_at": "...",
     "receipt": "{...}", "salt": "...", "record": "{...}"}

Receipt and record are texts, not objects: what their digests are of is bytes. `salt` is hex; without a record both are
null. Bytes that are no UTF-8, which nothing of ours writes, stand as `receipt_base64` and `record_base64`.
"""

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final
from uuid import UUID

import orjson
import zstandard

from app.errors import FirewallError, Kind
from app.ledger.files import Written, new_file
from app.ledger.receipt import timestamp
from app.ledger.rows import LedgerRow

SUFFIX: Final = ".ndjson.zst"
# A request has a megabyte, its record twice that at most; what is longer was not written by us.
LINE_BYTES_MAX: Final = 64 * 1024 * 1024
# zstd's own default gives half of what level 19 would, at a hundred times its speed.
_LEVEL: Final = 3
_WINDOW_MAX: Final = 8 * 1024 * 1024
_READ_BYTES: Final = 256 * 1024
_STEP_BYTES: Final = 1024


class RecordsWriter:
    """Writes rows, by rising index."""

    def __init__(self, out: Written) -> None:
        self._out = out
        self._stream = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compressobj()

    def add(self, row: LedgerRow) -> None:
        """Write one more row."""
        self._out.write(self._stream.compress(encode_row(row)))

    def finish(self) -> None:
        """Write what is still held back. Nothing can be added after this."""
        self._out.write(self._stream.flush())


@contextmanager
def records_file(path: Path) -> Iterator[RecordsWriter]:
    """A new file of rows, whole or not there. Raises FirewallError (UNAVAILABLE)."""
    with new_file(path) as out:
        writer = RecordsWriter(out)
        yield writer
        writer.finish()


def read_records(path: Path, *, heard: Callable[[bytes], object] | None = None) -> Iterator[LedgerRow]:
    """The rows of a file as they stand; `heard` is told of all its bytes, for a digest.

    Raises FirewallError: MALFORMED for what is no such file, with the line; UNAVAILABLE where it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            yield from _rows(stream, path.name, heard or (lambda _: None))
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise FirewallError(Kind.UNAVAILABLE, f"`{path}` cannot be read: {reason}") from error


def _rows(stream: BinaryIO, name: str, heard: Callable[[bytes], object]) -> Iterator[LedgerRow]:
    for number, line in enumerate(_lines(stream, name, heard), start=1):
        try:
            row = decode_row(line)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FirewallError(Kind.MALFORMED, f"line {number} of `{name}` is no entry of a ledger") from error
        yield row


def _lines(stream: BinaryIO, name: str, heard: Callable[[bytes], object]) -> Iterator[bytes]:
    rest = b""
    for chunk in _expanded(stream, name, heard):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
        if len(rest) > LINE_BYTES_MAX:
            raise FirewallError(Kind.MALFORMED, f"`{name}` has a line of more than {LINE_BYTES_MAX} bytes")
    if rest:
        raise FirewallError(Kind.MALFORMED, f"`{name}` ends inside a line")


def _expanded(stream: BinaryIO, name: str, heard: Callable[[bytes], object]) -> Iterator[bytes]:
    """What one frame holds, piece by piece. It is read in small ones: a block of four bytes may expand to 128 KiB."""
    frame = zstandard.ZstdDecompressor(max_window_size=_WINDOW_MAX).decompressobj()
    try:
        while chunk := stream.read(_READ_BYTES):
            heard(chunk)
            for at in range(0, len(chunk), _STEP_BYTES):
                if frame.eof:
                    raise FirewallError(Kind.MALFORMED, f"`{name}` has something behind its end")
                if expanded := frame.decompress(chunk[at : at + _STEP_BYTES]):
                    yield expanded
    except zstandard.ZstdError as error:
        raise FirewallError(Kind.MALFORMED, f"`{name}` is damaged: zstd cannot read it") from error
    if frame.unused_data:
        raise FirewallError(Kind.MALFORMED, f"`{name}` has something behind its end")
    if not frame.eof:
        raise FirewallError(Kind.MALFORMED, f"`{name}` ends too early")


def encode_row(row: LedgerRow) -> bytes:
    """A row as its line, with the newline."""
    line: dict[str, Any] = {
        "idx": row.idx,
        "id": str(row.id),
        "kind": row.kind,
        "recorded_at": timestamp(row.recorded_at.astimezone(UTC)),
    }
    _put(line, "receipt", row.receipt)
    line["salt"] = None if row.salt is None else row.salt.hex()
    _put(line, "record", row.record)
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _put(line: dict[str, Any], name: str, content: bytes | None) -> None:
    try:
        line[name] = None if content is None else content.decode()
    except UnicodeDecodeError:
        line[f"{name}_base64"] = base64.b64encode(content or b"").decode()


def decode_row(line: bytes) -> LedgerRow:
    """A row of its line. Raises AttributeError, KeyError, TypeError and ValueError."""
    members = orjson.loads(line)
    idx, kind, salt = members["idx"], members["kind"], members["salt"]
    recorded_at = datetime.fromisoformat(members["recorded_at"])
    receipt = _get(members, "receipt")
    if not isinstance(idx, int) or isinstance(idx, bool) or not isinstance(kind, str) or receipt is None:
        raise TypeError
    if recorded_at.tzinfo is None:
        raise ValueError
    return LedgerRow(
        idx,
        UUID(members["id"]),
        kind,
        recorded_at,
        receipt,
        None if salt is None else bytes.fromhex(salt),
        _get(members, "record"),
    )


def _get(members: dict[str, Any], name: str) -> bytes | None:
    if name in members:
        text: str | None = members[name]
        return None if text is None else text.encode()
    return base64.b64decode(members[f"{name}_base64"], validate=True)
