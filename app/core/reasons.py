"""A reason as JSON, in one form for every answer that carries it."""

from app.core.types import Clause, JsonObject, Reason


def reason_members(reason: Reason) -> JsonObject:
    """Give the members of a reason; what does not apply is left out."""
    members: JsonObject = {
        "policy": reason.policy,
        "rule": reason.rule,
        "effect": reason.effect.value,
        "mode": reason.mode.value,
        "message": reason.message,
    }
    if reason.binding is not None:
        members["binding"] = reason.binding
    if reason.clause is not None:
        members["clause"] = clause_members(reason.clause)
    if reason.exception is not None:
        members["exception"] = reason.exception
    return members


def clause_members(clause: Clause) -> JsonObject:
    """Give the members of a clause."""
    return {
        "path": clause.path,
        "text": clause.text,
        "line": clause.line,
        "column": clause.column,
        "outcome": clause.outcome.value,
        "values": dict(clause.values),
    }
