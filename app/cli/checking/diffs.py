"""`mfw check diff`: a change set, before it is merged."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from app.cli.checking.asking import BATCH_BYTES_MAX, Asked, Asks
from app.cli.checking.commits import GitDiff, read_range
from app.cli.checking.reading import Proposal, read_input
from app.cli.checking.results import Report
from app.cli.exits import ExitCode
from app.cli.output import Refused
from app.core import diff
from app.core.types import JsonObject

RESOURCE: Final = "git/PullRequest"

# What the policies are asked about is shown beside the answer, but not a change set of a thousand files.
_FILES_SHOWN: Final = 50


def check_diff(
    file: str | None, *, commits: str | None, directory: Path, name: str, action: str, proposal: Proposal, asks: Asks
) -> Report:
    """Ask about a change set as a whole: a diff in a file, or between two commits of a repository.

    One mutation, because what is harmless depends on the rest ("only documentation", "tests deleted").
    Raises `Refused` and `FirewallError`.
    """
    if (file is None) == (commits is None):
        fix = "`git diff base...head | mfw check diff -`, or `mfw check diff --git base...head`"
        raise Refused(ExitCode.USAGE, "a diff comes from a file, or from `--git`, one of the two", fix=fix)
    context: JsonObject = {}
    if commits is not None:
        made: GitDiff = read_range(commits, directory=directory, most=BATCH_BYTES_MAX)
        body = made.body
        context = {"git": {"base": made.base, "head": made.head}}
        if not body:
            return Report("diff", [], [f"nothing differs between {made.base} and {made.head}"])
    else:
        body = read_input(file or "", most=BATCH_BYTES_MAX, what="diff", example="git diff base...head > change.diff")
    text = _text(body)
    files = diff.parse(text)
    asked = Asked(
        name,
        action,
        proposal.mutation(
            action={"name": action},
            resource={"type": RESOURCE, "id": name, "properties": {}},
            change={"diff": text},
            context=context,
        ),
        # A path that leads out of the repository is a place in nobody's.
        tuple(one["path"] for one in files if not one["escapes"]),
    )
    return Report("diff", asks.ask([asked]), _notes(files))


def _text(body: bytes) -> str:
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise Refused(
            ExitCode.BAD_DATA,
            f"the diff is not utf-8, at line {line}",
            fix="say in `.gitattributes` that the file is binary, or convert it",
        ) from None
    if "\0" in text:
        raise Refused(ExitCode.BAD_DATA, "the diff has a NUL in it", fix="send the output of `git diff` unchanged")
    return text


def _notes(files: Sequence[JsonObject]) -> list[str]:
    notes = [_described(one) for one in files[:_FILES_SHOWN]]
    if len(files) > _FILES_SHOWN:
        notes.append(f"and {len(files) - _FILES_SHOWN} more files")
    return notes


def _described(one: JsonObject) -> str:
    came = f" from {one['old_path']}" if one["old_path"] not in {"", one["path"]} else ""
    flags = [flag for flag in ("binary", "executable", "symlink", "submodule") if one[flag]]
    flags += ["leads out of the repository"] if one["escapes"] else []
    size = f"+{one['added_lines']} -{one['removed_lines']}"
    return f"{one['kind']} {one['path']}{came} ({', '.join([size, *flags])})"
