"""The diff between two commits, as git makes it in whatever repository: nothing that lies in it steers how."""

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app.cli.exits import ExitCode
from app.cli.output import Refused

TIMEOUT_SECONDS: Final = 120

# What a repository's own configuration could otherwise run, hide or reorder.
_NEUTRAL: Final = (
    "--no-pager",
    *("-c", "core.fsmonitor=false"),
    *("-c", "core.hooksPath=/dev/null"),
    *("-c", "core.quotePath=true"),
    *("-c", "diff.suppressBlankEmpty=false"),
    *("-c", "diff.renameLimit=4000"),
)
_DIFF: Final = (
    "diff",
    "--no-color",
    "--no-ext-diff",
    "--no-textconv",
    "--no-relative",
    # The content of a binary file is not shown, but named whole.
    "--full-index",
    "--src-prefix=a/",
    "--dst-prefix=b/",
    "--find-renames=50%",
    "--ignore-submodules=none",
    "--submodule=short",
    "--diff-algorithm=myers",
    "--inter-hunk-context=0",
    "--unified=3",
    "-O/dev/null",
)


@dataclass(frozen=True, slots=True)
class GitDiff:
    """A diff, and the two commits that it lies between, by their whole names."""

    body: bytes
    base: str
    head: str


def read_range(commits: str, *, directory: Path, most: int) -> GitDiff:
    """Run git for `BASE..HEAD`, or `BASE...HEAD` for what happened on HEAD since the two parted.

    Attributes are not read from the tree: a change set could otherwise call its own files binary, and hide them.
    Raises `Refused`.
    """
    base, dots, head = commits.partition("...") if "..." in commits else commits.partition("..")
    if not base or not dots:
        raise Refused(ExitCode.USAGE, f"`{commits[:80]}` is no range", fix="write it as `main...HEAD`")
    base = _commit(base, directory=directory)
    head = _commit(head or "HEAD", directory=directory)
    if dots == "...":
        base = _line(
            ("merge-base", base, head), directory=directory, failure=f"{base} and {head} have nothing in common"
        )
    place = _line(("rev-parse", "--absolute-git-dir"), directory=directory, failure="there is no repository here")
    nothing = _line(("hash-object", "-t", "tree", "/dev/null"), directory=directory, failure="git does not work here")
    # Old versions of git look for attributes where they are started, new ones in the tree that they are told: neither
    # finds any.
    arguments = ("--bare", f"--git-dir={place}", *_DIFF, base, head, "--")
    body = _git(arguments, directory=Path(place), most=most, attributes=nothing)
    return GitDiff(body, base, head)


def _commit(name: str, *, directory: Path) -> str:
    return _line(
        ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"),
        directory=directory,
        failure=f"`{name[:80]}` is no commit here",
    )


def _line(arguments: tuple[str, ...], *, directory: Path, failure: str) -> str:
    try:
        return _git(arguments, directory=directory, most=1_000).decode().strip()
    except Refused as refused:
        if refused.code is not ExitCode.BAD_DATA:
            raise
        fix = "fetch it first: pipelines often have a part of the history (`git fetch --unshallow`)"
        raise Refused(ExitCode.BAD_DATA, failure, fix=fix) from None


def _git(arguments: tuple[str, ...], *, directory: Path, most: int, attributes: str | None = None) -> bytes:
    """The output of git, of at most `most` bytes. `attributes` is a tree to read them from."""
    # Not those of whoever started us that say where the repository is, or what makes a diff.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment = {**kept, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1"}
    if attributes is not None:
        environment["GIT_ATTR_SOURCE"] = attributes
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as complaints:
        try:
            code = subprocess.run(
                ["git", *_NEUTRAL, *arguments],
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=complaints,
                timeout=TIMEOUT_SECONDS,
                check=False,
            ).returncode
        except FileNotFoundError as error:
            missing = "there is no program `git`" if error.filename == "git" else f"there is no directory `{directory}`"
            raise Refused(ExitCode.NO_INPUT, missing, fix="install git, or send a diff in a file") from None
        except NotADirectoryError:
            raise Refused(ExitCode.NO_INPUT, f"`{directory}` is no directory", fix="name a checkout") from None
        except subprocess.TimeoutExpired:
            raise Refused(ExitCode.FAILED, f"git took more than {TIMEOUT_SECONDS} seconds") from None
        complaints.seek(0)
        if code:
            said = complaints.read(500).decode(errors="replace").strip()
            raise Refused(
                ExitCode.BAD_DATA, f"git: {said}" if said else "git failed", fix="name a checkout and a range"
            )
        out.seek(0)
        body = out.read(most + 1)
    if len(body) > most:
        raise Refused(ExitCode.BAD_DATA, f"the diff is longer than {most} bytes", fix="split the change set")
    return body
