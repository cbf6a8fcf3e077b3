"""What is wrong with policy files: every finding with its place and its fix, all of them at once."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from app.errors import FirewallError, Kind

# The code of what the loader itself says; the lints have codes of their own (`app/policies/lint.py`).
INVALID = "invalid-policy"


class Severity(StrEnum):
    """An error refuses the whole set; a warning is for the author."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding. `file` is relative to the directory; lines and columns count from 1, 0 where there is no place.

    `path` is the member inside the document, for example `spec.rules[0].when`, empty for the document or file itself.
    `code` names the kind of finding for machines.
    """

    file: str
    line: int
    column: int
    path: str
    message: str
    fix: str | None = None
    severity: Severity = Severity.ERROR
    code: str = INVALID

    def __str__(self) -> str:
        """One line, as compilers print it."""
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        member = f"{self.path}: " if self.path else ""
        fix = f"; {self.fix}" if self.fix else ""
        return f"{place}: {self.severity}: {member}{self.message}{fix}"


class PolicyErrors(FirewallError):  # noqa: N818 - it is about all errors of a set
    """A policy set that was refused whole. `diagnostics` has every error and warning, by file and place."""

    __slots__ = ("diagnostics",)

    def __init__(
        self,
        diagnostics: Iterable[Diagnostic],
        *,
        what: str = "the policy set is refused",
        fix: str | None = "`mfw policies check DIR` shows all of them",
    ) -> None:
        self.diagnostics = tuple(sorted(diagnostics, key=lambda d: (d.file, d.line, d.column, d.path)))
        errors = [d for d in self.diagnostics if d.severity is Severity.ERROR]
        count = f"{len(errors)} error{'s' if len(errors) != 1 else ''}"
        super().__init__(
            Kind.INVALID_POLICY,
            f"{what} with {count}; the first is {errors[0]}" if errors else what,
            fix=fix,
        )
