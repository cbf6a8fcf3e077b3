"""Label selectors (`matchLabels`, `matchExpressions`), also over labels that are only known in part."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, assert_never


class Operator(StrEnum):
    """How a requirement compares."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True)
class Requirement:
    """What one label must be; `NotIn` is true of a label that is not there, as in Kubernetes."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, Any]) -> bool:
        """Tell whether labels fulfil it."""
        match self.operator:
            case Operator.IN:
                return self.key in labels and labels[self.key] in self.values
            case Operator.NOT_IN:
                return self.key not in labels or labels[self.key] not in self.values
            case Operator.EXISTS:
                return self.key in labels
            case Operator.DOES_NOT_EXIST:
                return self.key not in labels
            case _:
                assert_never(self.operator)


@dataclass(frozen=True, slots=True)
class Selector:
    """Every requirement must be fulfilled; without any it matches everything."""

    requirements: tuple[Requirement, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether it matches everything."""
        return not self.requirements

    def matches(self, labels: Mapping[str, Any]) -> bool:
        """Tell whether labels fit; `labels` are all there are."""
        return all(one.matches(labels) for one in self.requirements)

    def may_match(self, labels: Mapping[str, Any]) -> bool | None:
        """Tell whether labels fit of which only some are known; None if that depends on the others."""
        known = [one for one in self.requirements if one.key in labels]
        if not all(one.matches(labels) for one in known):
            return False
        return True if len(known) == len(self.requirements) else None
