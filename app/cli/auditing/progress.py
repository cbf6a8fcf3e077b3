"""A bar on standard error while something long goes on; nothing where nobody watches."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from app.cli.output import console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Bar:
    """How far it is; one without a terminal takes everything and shows nothing."""

    def __init__(self, shown: "tuple[Progress, TaskID] | None" = None) -> None:
        self._shown = shown

    def total(self, count: int) -> None:
        """Learn how much there is to do."""
        if self._shown is not None:
            self._shown[0].update(self._shown[1], total=count)

    def more(self, count: int) -> None:
        """Learn that so much more is done."""
        if self._shown is not None:
            self._shown[0].advance(self._shown[1], count)


@contextmanager
def progress(what: str, *, total: int | None = None) -> Iterator[Bar]:
    """Show a bar while the block runs, gone afterwards."""
    if not sys.stderr.isatty():
        yield Bar()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        yield Bar((bar, bar.add_task(what, total=total)))
