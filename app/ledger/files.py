"""Files that are whole or not there: written beside their name, brought to the disk, renamed; for the owner alone."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, Final

from app.errors import FirewallError, Kind

# What a name ends with while the file is not whole. Who reads a directory leaves these alone.
PART_SUFFIX: Final = ".part"
_READ_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class FileDigest:
    """How large a file is, and its SHA-256 in hex."""

    bytes: int
    sha256: str


class Written:
    """A file while it is written; `digest` is of everything so far."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._hash = sha256()
        self._bytes = 0

    def write(self, content: "bytes | bytearray | memoryview[Any]") -> int:
        """Add to the file."""
        self._hash.update(content)
        self._bytes += len(content)
        self._stream.write(content)
        return len(content)

    @property
    def digest(self) -> FileDigest:
        """What was written."""
        return FileDigest(self._bytes, self._hash.hexdigest())


@contextmanager
def new_file(path: Path) -> Iterator[Written]:
    """Write a file that has its name only once all of it is on the disk; an error, or a crash, leaves no such name.

    Directories above are made, for the owner alone. Raises FirewallError (UNAVAILABLE) where it cannot be written.
    """
    part = path.with_name(path.name + PART_SUFFIX)
    try:
        make_directory(path.parent)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                os.fchmod(descriptor, 0o600)
                yield Written(stream)
                stream.flush()
                os.fsync(descriptor)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)
    except OSError as error:
        raise _failed("written", path, error) from error


def make_directory(path: Path) -> None:
    """Make a directory and those above it that are missing, for the owner alone. Raises OSError."""
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def write_file(path: Path, content: bytes) -> FileDigest:
    """Write a small file, as `new_file` does."""
    with new_file(path) as out:
        out.write(content)
    return out.digest


def sync_directory(path: Path) -> None:
    """Bring a directory's names to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_file(path: Path, *, max_bytes: int) -> bytes | None:
    """A small file, None where there is none. Raises FirewallError: TOO_LARGE, UNAVAILABLE."""
    try:
        with path.open("rb") as stream:
            content = stream.read(max_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _failed("read", path, error) from error
    if len(content) > max_bytes:
        raise FirewallError(Kind.TOO_LARGE, f"`{path}` has more than {max_bytes} bytes")
    return content


def digest_file(path: Path) -> FileDigest | None:
    """Size and digest of a file, None where there is none. Raises FirewallError (UNAVAILABLE)."""
    found = sha256()
    size = 0
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_READ_BYTES):
                found.update(chunk)
                size += len(chunk)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _failed("read", path, error) from error
    return FileDigest(size, found.hexdigest())


def _failed(what: str, path: Path, error: OSError) -> FirewallError:
    reason = (error.strerror or type(error).__name__).lower()
    return FirewallError(
        Kind.UNAVAILABLE, f"`{path}` cannot be {what}: {reason}", fix="make room, or name another directory"
    )
