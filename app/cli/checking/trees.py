"""The files of a model, a prompt, a tool or a memory, by digest."""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.cli.exits import ExitCode
from app.cli.output import Refused
from app.core.canonical import canonical, digest_of
from app.core.types import JsonObject

FILES_MAX: Final = 10_000
# What the signature of a model is called that lies beside its files.
SIGNATURE: Final = "model.sig"


@dataclass(frozen=True, slots=True)
class Tree:
    """A file, or the files of a directory: `artifacts` as in a manifest, sorted by name.

    `digest` is that of the file; of a directory that of the canonical JSON (RFC 8785) of `artifacts`.
    """

    path: Path
    is_file: bool
    digest: str
    artifacts: tuple[JsonObject, ...]


def digest_tree(path: Path, *, without: Path | None = None) -> Tree:
    """Digest a file or a directory, `without` one file in it.

    Raises `Refused` for what cannot be read, and for what is not only files: a symbolic link leads to whatever will be
    there later.
    """
    try:
        kind = path.lstat().st_mode
        if stat.S_ISREG(kind):
            digest = _digest(path)
            return Tree(path, True, digest, ({"name": path.name, "digest": digest},))
        if not stat.S_ISDIR(kind):
            raise _refusal(path, "is neither a file nor a directory")
        artifacts = [{"name": name, "digest": _digest(path / name)} for name in _names(path) if path / name != without]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a file name"
        raise Refused(
            ExitCode.NO_INPUT, f"cannot read `{path}`: {reason.lower()}", fix="name files that exist"
        ) from error
    if not artifacts:
        raise _refusal(path, "has no files")
    return Tree(path, False, digest_of(canonical(artifacts)), tuple(artifacts))


def _names(root: Path) -> list[str]:
    """The files below a directory, by their names from there with `/` between."""
    names: list[str] = []
    directories = [""]
    while directories:
        directory = directories.pop()
        with os.scandir(root / directory) as entries:
            for entry in entries:
                name = directory + entry.name
                # What people cannot read in an approval, or what another reader takes for two parts of a path.
                if not name.isprintable() or "\\" in name:
                    raise _refusal(root, f"has a name that cannot be shown: {ascii(name)[:200]}")
                if entry.is_dir(follow_symlinks=False):
                    directories.append(f"{name}/")
                elif entry.is_file(follow_symlinks=False):
                    names.append(name)
                else:
                    raise _refusal(root, f"has something else than files and directories: `{name[:200]}`")
                if len(names) + len(directories) > FILES_MAX:
                    raise _refusal(root, f"has more than {FILES_MAX} files")
    return sorted(names)


def _digest(file: Path) -> str:
    # A link that took the place of the file meanwhile is not followed.
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "rb") as source:  # noqa: PTH123 - it is a descriptor
        return f"sha256:{hashlib.file_digest(source, 'sha256').hexdigest()}"


def _refusal(path: Path, detail: str) -> Refused:
    return Refused(ExitCode.BAD_DATA, f"`{path}` {detail}", fix="name a file, or a directory of files")
