"""What was signed last, remembered outside the database: in memory, and in a file that survives a restored backup."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from app.core.notes import NOTE_BYTES_MAX, Checkpoint, parse_note
from app.errors import FirewallError, Kind

_FIX: Final = "look at it, and at docs/ledger.md, before you remove it: without it nobody remembers what was signed"


class Guard(Protocol):
    """Remembers the last checkpoint that was signed. Both methods may block: they are called in a thread."""

    def read(self) -> Checkpoint | None:
        """Give the last one, None where there never was one. Raises FirewallError where that cannot be told."""

    def write(self, note: bytes) -> None:
        """Remember this one for good before returning. Raises FirewallError where it cannot."""


class GuardFile:
    """A file with the signed note: written whole or not at all, and on the disk before anybody is told.

    Does not check: signatures. Who can write here can only make the signer refuse, or forget.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Checkpoint | None:
        """Give the last one, None where there is no file. Raises FirewallError (MALFORMED, UNAVAILABLE)."""
        try:
            with self._path.open("rb") as file:
                content = file.read(NOTE_BYTES_MAX + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unusable(self._path, "read", error) from error
        try:
            return Checkpoint.parse(parse_note(content).text)
        except FirewallError as error:
            raise FirewallError(
                Kind.MALFORMED, f"the guard file `{self._path}` has no checkpoint in it: {error.detail}", fix=_FIX
            ) from error

    def write(self, note: bytes) -> None:
        """Replace the file. Raises FirewallError (UNAVAILABLE)."""
        # Replicas may share the directory, and their process ids.
        scratch = self._path.with_name(f".{self._path.name}.{os.urandom(8).hex()}")
        try:
            with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
                file.write(note)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(self._path)
            # The rename itself is on the disk with the directory.
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            with suppress(OSError):
                scratch.unlink()
            raise _unusable(self._path, "written", error) from error


def _unusable(path: Path, done: str, error: OSError) -> FirewallError:
    reason = (error.strerror or "unknown reason").lower()
    return FirewallError(
        Kind.UNAVAILABLE, f"the guard file `{path}` cannot be {done}: {reason}", fix="check MFW_LEDGER__GUARD_FILE"
    )
