"""What the command writes: tables for people, JSON for machines, and never a control character of somebody else's."""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from app.cli.exits import ExitCode, of_kind
from app.errors import FirewallError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# Where the output goes into a pipe there is no width; a log line that wraps at 80 is harder to search.
PIPE_WIDTH = 160


class Refused(Exception):  # noqa: N818 - it carries an exit code, and an answer that was no error
    """A failure that is already in words for the terminal, with its exit code."""

    def __init__(
        self, code: ExitCode, detail: str, *, fix: str | None = None, extra: Mapping[str, Any] | None = None
    ) -> None:
        """`detail`, `fix` and `extra` as in `FirewallError`."""
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.fix = fix
        self.extra = dict(extra or {})


def console(*, stderr: bool = False) -> "Console":
    """A console on standard output, or on standard error for what is not the result."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(
        stderr=stderr, highlight=False, soft_wrap=False, width=None if stream.isatty() else PIPE_WIDTH, markup=False
    )


def table(*columns: str, title: str | None = None) -> "Table":
    """An empty table in the house's style."""
    from rich import box
    from rich.table import Table

    made = Table(
        box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", header_style="bold", pad_edge=False
    )
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def plain(text: object) -> str:
    """Text from outside with everything that could steer a terminal made visible."""
    return "".join(
        character if character.isprintable() or character == "\n" else character.encode("unicode_escape").decode()
        for character in str(text)
    )


def write_json(value: Mapping[str, Any] | Sequence[Any]) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def complain(detail: str, *, fix: str | None = None) -> None:
    """One failure on standard error."""
    from rich.text import Text

    error = console(stderr=True)
    error.print(Text.assemble(("error: ", "bold red"), plain(detail)))
    if fix:
        error.print(Text.assemble(("fix:   ", "bold"), plain(fix)))


@contextmanager
def reporting(*, as_json: bool = False) -> Iterator[None]:
    """Turn a failure inside into words (or JSON) and an exit code."""
    try:
        yield
    except Refused as error:
        code, detail, fix, extra = error.code, error.detail, error.fix, error.extra
    except FirewallError as error:
        code, detail, fix = of_kind(error.kind), error.detail, error.fix
        if error.pointer:
            detail += f" at `{error.pointer}`"
        extra = {"kind": error.kind.value, **_members(error)}
    except BrokenPipeError:
        # `mfw ... | head`: the reader has seen enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(ExitCode.FAILED) from None
    else:
        return
    if as_json:
        write_json({"error": {"detail": detail, **({"fix": fix} if fix else {}), **extra}})
    else:
        _explain(detail, fix, extra)
    raise typer.Exit(code)


def _members(error: FirewallError) -> dict[str, Any]:
    """The single faults of an error that carries several."""
    from dataclasses import asdict

    found = getattr(error, "problems", None) or getattr(error, "diagnostics", None) or ()
    return {"problems": [asdict(item) for item in found]} if found else {}


def _explain(detail: str, fix: str | None, extra: Mapping[str, Any]) -> None:
    problems = extra.get("problems", ())
    if problems and all("variable" in problem for problem in problems):
        listing = table("variable", "what is wrong", "fix")
        for problem in problems:
            listing.add_row(*(plain(problem[key]) for key in ("variable", "detail", "fix")))
        console(stderr=True).print(listing)
        count = len(problems)
        complain("1 setting is wrong" if count == 1 else f"{count} settings are wrong")
        return
    complain(detail, fix=fix)
