"""The last set in force, kept on the local disk, so that a process can start while the database is away."""

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from app.core import dsse, strict_json
from app.core.dsse import Envelope
from app.core.types import Json
from app.errors import FirewallError, Kind
from app.policies.store import documents_of

FILE_NAME: Final = "policy-set.json"
VERSION: Final = 1
# The largest set that the service takes, with room for what stands around it.
FILE_BYTES_MAX: Final = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Kept:
    """What the file says; the digest was checked against the documents, the signatures were not."""

    digest: str
    sequence: int
    documents: list[Json]
    envelopes: tuple[Envelope, ...] = ()


def keep(directory: Path, *, digest: str, sequence: int, documents: bytes, envelopes: Iterable[Envelope] = ()) -> None:
    """Write the set, whole or not at all, readable by this user alone. Raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    signed = [dsse.tree_of(one) for one in envelopes]
    members = {"version": VERSION, "digest": digest, "sequence": sequence}
    head = orjson.dumps(members | ({"signatures": signed} if signed else {}))
    # The process id: two processes may share the directory.
    temporary = directory / f".{FILE_NAME}.{os.getpid()}"
    with suppress(FileNotFoundError):
        temporary.unlink()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(head[:-1] + b',"documents":' + documents + b"}")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(directory / FILE_NAME)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def recall(directory: Path) -> Kept | None:
    """Read the set back, None where none was kept.

    Raises FirewallError (INVALID_POLICY) for a file that is damaged, or that another user could have written. Does not
    check: that it is the set that is in force by now, that it compiles, or who signed it.
    """
    try:
        with (directory / FILE_NAME).open("rb") as file:
            state = os.fstat(file.fileno())
            if state.st_uid != os.geteuid() or state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise _unusable(directory, "others could have written it")
            content = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(directory, (error.strerror or "it cannot be read").lower()) from error
    if len(content) > FILE_BYTES_MAX:
        raise _unusable(directory, f"it has more than {FILE_BYTES_MAX} bytes")
    try:
        tree = strict_json.parse(content, max_values=None).tree
        version, digest, sequence, documents = (tree[m] for m in ("version", "digest", "sequence", "documents"))
        signed = tree.get("signatures", [])
        if (
            version != VERSION
            or not isinstance(sequence, int)
            or not all(isinstance(m, list) for m in (documents, signed))
        ):
            raise _unusable(directory, "it has another form")
        envelopes = tuple(dsse.of_tree(one) for one in signed)
        start = content.index(b',"documents":') + len(b',"documents":')
        return Kept(str(digest), sequence, documents_of(content[start:-1], digest=str(digest)), envelopes)
    except (KeyError, TypeError, ValueError, FirewallError) as error:
        raise _unusable(directory, "it is damaged") from error


def _unusable(directory: Path, reason: str) -> FirewallError:
    return FirewallError(
        Kind.INVALID_POLICY,
        f"the policy set kept in `{directory}` is not used: {reason}",
        fix=f"remove `{FILE_NAME}` there; it is written anew with the next activation",
    )
