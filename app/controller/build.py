"""From the objects of a cluster to one policy set, whole; or to what is wrong with which of them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from app.controller.objects import Item
from app.core.types import JsonObject
from app.policies.diagnostics import Diagnostic, Severity
from app.policies.load import check_documents
from app.policies.shape import KIND

_POSITION: Final = re.compile(r"documents\[(\d+)\]")
# How the loader names a place inside a text that has none in a file.
_PLACE: Final = re.compile(r" \(line (\d+), column (\d+) of the expression\)$")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong. Line and column are of the text that the member `path` is, None where it is no text."""

    message: str
    path: str = ""
    line: int | None = None
    column: int | None = None
    fix: str | None = None

    def __str__(self) -> str:
        """One line, for people."""
        where = f":{self.line}:{self.column}" if self.line else ""
        path = f"{self.path}{where}: " if self.path else ""
        return f"{path}{self.message}" + (f"; {self.fix}" if self.fix else "")


@dataclass(frozen=True, slots=True)
class Built:
    """What came of it. `digest` is None for a set that is refused; `faults` (by uid) and `others` then say why."""

    documents: tuple[JsonObject, ...]
    digest: str | None
    faults: Mapping[str, tuple[Fault, ...]] = field(default_factory=dict)
    others: tuple[Fault, ...] = ()

    def why(self, items: Sequence[Item]) -> str:
        """Say for people what keeps the set from being one; empty if nothing does."""
        bad = [
            f"{item.resource.kind} `{item.shown}`: {self.faults[item.uid][0]}"
            for item in items
            if item.uid in self.faults
        ]
        bad += [str(fault) for fault in self.others]
        if not bad:
            return ""
        more = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
        return f"{bad[0]}{more}"


def build(items: Sequence[Item], *, also: Sequence[JsonObject]) -> Built:
    """Check the objects, and `also` what does not come from the cluster, as one set.

    INVARIANT: without a policy among the objects there is no set: whoever deletes them all, or their definition, has
    not asked for what is in `also` alone.
    """
    documents = (*(item.document for item in items), *also)
    if not any(item.resource.kind == KIND for item in items):
        nothing = Fault(f"there is no {KIND}, and an empty set is never put into force", fix=f"apply a {KIND}")
        return Built(documents, None, others=(nothing,))
    checked = check_documents(documents)
    faults: dict[str, list[Fault]] = {}
    others: list[Fault] = []
    for one in checked.diagnostics:
        if one.severity is not Severity.ERROR:
            continue
        found = _POSITION.fullmatch(one.file)
        position = int(found[1]) if found else len(items)
        if position < len(items):
            faults.setdefault(items[position].uid, []).append(_fault(one))
        else:
            others.append(_fault(one))
    digest = None if checked.policy_set is None else checked.policy_set.digest
    return Built(documents, digest, {uid: tuple(some) for uid, some in faults.items()}, tuple(others))


def _fault(one: Diagnostic) -> Fault:
    place = _PLACE.search(one.message)
    if place is None:
        return Fault(one.message, one.path, fix=one.fix)
    return Fault(one.message[: place.start()], one.path, int(place[1]), int(place[2]), one.fix)
