"""What a tool call is made of: one or more mutations, and how far each may reach."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final, NamedTuple

from app.core.types import JsonObject, Mutation


class Risk(StrEnum):
    """How far a part may reach, as far as anybody can tell without running it.

    `unknown` is what could not be read: nobody may take it for less than `destroys`.
    """

    READS = "reads"
    CHANGES = "changes"
    # Runs something of which only the name is known: a tool, a program, a script.
    RUNS = "runs"
    DESTROYS = "destroys"
    UNKNOWN = "unknown"


_RANK: Final = {risk: rank for rank, risk in enumerate(Risk)}


def riskier(risks: Iterable[Risk]) -> Risk:
    """Give the highest of some; of none it is `unknown`."""
    return max(risks, key=_RANK.__getitem__, default=Risk.UNKNOWN)


class Part(NamedTuple):
    """One thing that a tool call would do: a mutation without its subject.

    `action.properties.risk` is always there; `context.tool` is too, in every part of a call the same.
    """

    action: JsonObject
    resource: JsonObject
    change: JsonObject
    context: JsonObject

    def mutation(self, subject: JsonObject, *, request_id: str | None = None) -> Mutation:
        """Say who would do it."""
        return Mutation(subject, self.action, self.resource, self.change, self.context, request_id)


class ToolCall(NamedTuple):
    """A tool call that was read; `parts` is never empty, and stands or falls as a whole."""

    name: str
    server: str | None
    parts: tuple[Part, ...]

    @property
    def risk(self) -> Risk:
        """The risk of the whole: of its riskiest part."""
        return riskier(Risk(part.action["properties"]["risk"]) for part in self.parts)
