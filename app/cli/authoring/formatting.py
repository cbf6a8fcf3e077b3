"""`mfw policies fmt`: the canonical layout, in place or to look at."""

import sys
from collections.abc import Iterator, Sequence
from difflib import unified_diff
from pathlib import Path

from app.cli.authoring.check import count, show
from app.cli.exits import ExitCode
from app.cli.output import Refused, complain, console, plain
from app.policies.diagnostics import Diagnostic
from app.policies.layout import layout
from app.policies.load import FILE_MAX_BYTES, yaml_files
from app.policies.tree import TreeError

_STDIN = "-"


def run_fmt(paths: Sequence[Path], *, check: bool, diff: bool) -> ExitCode:
    """Lay out every file; with `check` or `diff` nothing is written, and a file that would change fails."""
    if [str(path) for path in paths] == [_STDIN]:
        return _from_standard_input()
    broken, changed = 0, 0
    for file in _files(paths):
        text = _read(file)
        try:
            after = layout(text)
        except TreeError as error:
            _refuse(str(file), text, error)
            broken += 1
            continue
        if after == text:
            continue
        changed += 1
        if diff:
            _show_diff(text, after, name=str(file))
        elif check:
            console().print(plain(file))
        else:
            _write(file, after)
    if broken:
        complain(
            f"{count(broken, 'file is', 'files are')} not valid YAML and {'stays' if broken == 1 else 'stay'} as is"
        )
        return ExitCode.BAD_DATA
    if changed:
        words = count(changed, "file", "files")
        console(stderr=True).print(f"{words} would change" if check or diff else f"{words} laid out")
    return ExitCode.FAILED if changed and (check or diff) else ExitCode.OK


def _from_standard_input() -> ExitCode:
    try:
        text = sys.stdin.buffer.read(FILE_MAX_BYTES + 1).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused(ExitCode.BAD_DATA, "standard input is not UTF-8") from error
    try:
        sys.stdout.write(layout(text))
    except TreeError as error:
        _refuse("standard input", text, error)
        return ExitCode.BAD_DATA
    return ExitCode.OK


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from yaml_files(path)
        elif path.is_file():
            yield path
        else:
            raise Refused(ExitCode.NO_INPUT, f"there is no file or directory `{path}`", fix="check the path")


def _read(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            raw = stream.read(FILE_MAX_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise Refused(ExitCode.NO_INPUT, f"cannot read `{file}`: {reason}") from error
    if len(raw) > FILE_MAX_BYTES:
        raise Refused(ExitCode.BAD_DATA, f"`{file}` has more than {FILE_MAX_BYTES} bytes", fix="split it")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused(ExitCode.BAD_DATA, f"`{file}` is not UTF-8", fix="save it as UTF-8") from error


def _write(file: Path, text: str) -> None:
    try:
        file.write_bytes(text.encode())
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise Refused(ExitCode.NO_INPUT, f"cannot write `{file}`: {reason}") from error


def _refuse(name: str, text: str, error: TreeError) -> None:
    found = Diagnostic(name, error.line, error.column, "", error.message, error.fix)
    show([found], directory=Path(), sources={name: text})


def _show_diff(before: str, after: str, *, name: str) -> None:
    from rich.text import Text

    styles = {"+": "green", "-": "red", "@": "cyan"}
    lines = unified_diff(before.splitlines(), after.splitlines(), name, f"{name} (laid out)", lineterm="")
    for line in lines:
        console().print(Text(plain(line), style=styles.get(line[:1], "")), soft_wrap=True)
