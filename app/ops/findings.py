"""What the integrity check found: counted completely, shown by its first examples."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from app.core.integrity import IntegrityCheck, Severity, advice, severity_of

# For a person: the count is complete, the list is not.
EXAMPLES_SHOWN: Final = 10
# An example may name what somebody wrote into a table.
EXAMPLE_CHARACTERS_MAX: Final = 300


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; `repaired` says what was done about it."""

    check: IntegrityCheck
    count: int
    examples: tuple[str, ...]
    repaired: str | None = None

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return severity_of(self.check)

    @property
    def fix(self) -> str:
        """What to do."""
        return advice(self.check)


class Findings:
    """Findings as they are collected, one for each check."""

    def __init__(
        self, counts: Mapping[str, int] | None = None, examples: Mapping[str, Iterable[str]] | None = None
    ) -> None:
        """Start with nothing, or with what an interrupted run had found."""
        self._counts = {IntegrityCheck(name): count for name, count in (counts or {}).items() if count}
        self._examples = {IntegrityCheck(name): list(some) for name, some in (examples or {}).items()}
        self._repaired: dict[IntegrityCheck, str] = {}

    def add(self, check: IntegrityCheck, example: str, *, count: int = 1) -> None:
        """Take one more, or several that one example stands for."""
        self._counts[check] = self._counts.get(check, 0) + count
        shown = self._examples.setdefault(check, [])
        if len(shown) < EXAMPLES_SHOWN:
            shown.append(example[:EXAMPLE_CHARACTERS_MAX])

    def has(self, check: IntegrityCheck) -> bool:
        """Whether a check found something."""
        return check in self._counts

    def repaired(self, check: IntegrityCheck, what: str) -> None:
        """Say what was done about the findings of a check."""
        self._repaired[check] = what

    @property
    def counts(self) -> dict[str, int]:
        """How many of each check, zeros included."""
        return {check.value: self._counts.get(check, 0) for check in IntegrityCheck}

    @property
    def examples(self) -> dict[str, list[str]]:
        """The first examples of each check that has some."""
        return {check.value: list(some) for check, some in self._examples.items() if some}

    def all(self) -> tuple[Finding, ...]:
        """Everything, the worst first."""
        order = list(Severity)
        found = [
            Finding(check, count, tuple(self._examples.get(check, ())), self._repaired.get(check))
            for check, count in self._counts.items()
        ]
        return tuple(sorted(found, key=lambda one: (order.index(one.severity), one.check)))
