"""Steps 4 and 10 of the native surface, by hand: a pydantic model in and out costs 100 us."""

from typing import Final, NoReturn

import orjson

from app.core.batch import Batch, BatchMode
from app.core.budgets import to_answer
from app.core.members import refuse_unknown
from app.core.reasons import reason_members
from app.core.types import Json, JsonObject, Mutation
from app.errors import FirewallError, Kind
from app.service.decide import Decision

# Long enough for a Terraform address, a file path or a SPIFFE id; an id is compared, indexed and shown, so it is no
# place for a document.
MAX_ID_CHARS: Final = 512

# A paragraph for people; it is recorded with every decision.
MAX_RATIONALE_CHARS: Final = 8192

MEMBERS: Final = ("subject", "action", "resource", "change", "context", "request_id", "rationale")
REQUIRED: Final = ("subject", "action", "resource", "change")

# Mutations in one batch: what is answered within a second, and what a person could still look through.
MAX_BATCH: Final = 1000

BATCH_MEMBERS: Final = ("mutations", "mode")

_ENTITY_MEMBERS: Final = ("type", "id", "properties")
_ACTION_MEMBERS: Final = ("name", "properties")

# The same as sets: one comparison tells that all is well, and only a fault is looked for member by member.
_MEMBERS: Final = frozenset(MEMBERS)
_ENTITY: Final = frozenset(_ENTITY_MEMBERS)
_ACTION: Final = frozenset(_ACTION_MEMBERS)
_BATCH: Final = frozenset(BATCH_MEMBERS)
_MODES: Final = frozenset(BatchMode)


def mutation_from_wire(tree: Json) -> Mutation:
    """Make a mutation of a parsed request.

    Raises FirewallError(MALFORMED) with the pointer of the member at fault. Does not check: the members of `change`,
    their names included; step 5 does.
    """
    if not isinstance(tree, dict):
        _refuse("the body is not an object", "", fix='send `{"subject": ..., "action": ..., ...}`')
    if not tree.keys() <= _MEMBERS:
        refuse_unknown(tree, known=MEMBERS, pointer="")
    for name in REQUIRED:
        if name not in tree:
            _refuse(f"member `{name}` is missing", f"/{name}", fix=_MISSING[name])
    change = tree["change"]
    if not isinstance(change, dict):
        _refuse("`change` is not an object", "/change", fix=_MISSING["change"])
    context = tree.get("context", _ABSENT)
    if context is _ABSENT:
        context = {}
    elif not isinstance(context, dict):
        _refuse("`context` is not an object", "/context", fix="send an object, or leave it out")
    return Mutation(
        subject=_entity(tree["subject"], "subject"),
        action=_action(tree["action"]),
        resource=_entity(tree["resource"], "resource"),
        change=change,
        context=context,
        request_id=_text(tree, "request_id", MAX_ID_CHARS) if "request_id" in tree else None,
        rationale=_text(tree, "rationale", MAX_RATIONALE_CHARS) if "rationale" in tree else None,
    )


def batch_from_wire(tree: Json) -> Batch:
    """Make a batch of a parsed request; a mutation that is wrong stands in its place as an error.

    Raises FirewallError(MALFORMED) where it is not a batch, TOO_LARGE for more than `MAX_BATCH` mutations.
    """
    if not isinstance(tree, dict):
        _refuse("the body is not an object", "", fix=_MISSING["mutations"])
    if not tree.keys() <= _BATCH:
        refuse_unknown(tree, known=BATCH_MEMBERS, pointer="")
    mutations = tree.get("mutations")
    if not isinstance(mutations, list) or not mutations:
        _refuse("`mutations` is not a list with anything in it", "/mutations", fix=_MISSING["mutations"])
    if len(mutations) > MAX_BATCH:
        raise FirewallError(
            Kind.TOO_LARGE,
            f"{len(mutations)} mutations in one batch, and {MAX_BATCH} are the most",
            pointer="/mutations",
            fix="send several batches, or lines with `Content-Type: application/x-ndjson`",
        )
    mode = tree.get("mode", BatchMode.EACH.value)
    if not isinstance(mode, str) or mode not in _MODES:
        _refuse("`mode` is neither `each` nor `atomic`", "/mode", fix="send `each` or `atomic`, or leave it out")
    return Batch([_mutation_or_error(item) for item in mutations], BatchMode(mode))


def _mutation_or_error(tree: Json) -> Mutation | FirewallError:
    try:
        return mutation_from_wire(tree)
    except FirewallError as error:
        return error


def decision_to_wire(decision: Decision) -> bytes:
    """Write a decision as JSON."""
    return orjson.dumps(decision_members(decision))


def decision_members(decision: Decision) -> JsonObject:
    """Give the members of a decision; those that do not apply are left out."""
    members: JsonObject = {
        "id": decision.id,
        "decision": decision.effect.value,
        "reasons": [reason_members(reason) for reason in decision.reasons],
        "policy_set": decision.policy_set,
        "mutation_digest": decision.mutation_digest,
        "ledger_index": decision.ledger_index,
        "receipt_hash": decision.receipt_hash,
        "decided_at": decision.decided_at,
    }
    if decision.approval is not None:
        members["approval"] = decision.approval
    if budgets := to_answer(decision.budgets):
        members["budgets"] = budgets
    if decision.obligations:
        members["obligations"] = decision.obligations
    if decision.warnings:
        members["warnings"] = decision.warnings
    if decision.annotations:
        members["annotations"] = dict(decision.annotations)
    if decision.request_id is not None:
        members["request_id"] = decision.request_id
    return members


_ABSENT: Final = object()

_MISSING: Final = {
    "subject": 'say who asks: `"subject": {"type": "agent", "id": "..."}`',
    "action": 'say what is done: `"action": {"name": "update"}`',
    "resource": 'say to what: `"resource": {"type": "...", "id": "..."}`',
    "mutations": 'send `{"mutations": [...], "mode": "each"}`',
    "change": "say what would be different, by `before`, `after`, `patch`, `diff`, `statement` or `manifest`",
}


def _entity(value: Json, name: str) -> JsonObject:
    """A subject or a resource, with `properties` always there."""
    if not isinstance(value, dict):
        _refuse(f"`{name}` is not an object", f"/{name}", fix=_MISSING[name])
    if not value.keys() <= _ENTITY:
        refuse_unknown(value, known=_ENTITY_MEMBERS, pointer=f"/{name}")
    return {
        "type": _text(value, "type", MAX_ID_CHARS, parent=name),
        "id": _text(value, "id", MAX_ID_CHARS, parent=name),
        "properties": _properties(value, name),
    }


def _action(value: Json) -> JsonObject:
    if not isinstance(value, dict):
        _refuse("`action` is not an object", "/action", fix=_MISSING["action"])
    if not value.keys() <= _ACTION:
        refuse_unknown(value, known=_ACTION_MEMBERS, pointer="/action")
    return {
        "name": _text(value, "name", MAX_ID_CHARS, parent="action"),
        "properties": _properties(value, "action"),
    }


def _properties(value: JsonObject, name: str) -> JsonObject:
    properties = value.get("properties", _ABSENT)
    if properties is _ABSENT:
        return {}
    if not isinstance(properties, dict):
        _refuse(f"`{name}.properties` is not an object", f"/{name}/properties", fix="send an object, or leave it out")
    return properties


def _text(holder: JsonObject, name: str, limit: int, *, parent: str | None = None) -> str:
    value = holder.get(name, _ABSENT)
    if isinstance(value, str) and 0 < len(value) <= limit:
        return value
    where = f"/{name}" if parent is None else f"/{parent}/{name}"
    shown = name if parent is None else f"{parent}.{name}"
    if value is _ABSENT:
        fault = "is missing"
    elif not isinstance(value, str):
        fault = "is not a string"
    else:
        fault = f"is longer than {limit} characters" if value else "is empty"
    raise FirewallError(
        Kind.MALFORMED, f"member `{shown}` {fault}", pointer=where, fix=f"send a string of 1 to {limit} characters"
    )


def _refuse(detail: str, pointer: str, *, fix: str) -> NoReturn:
    raise FirewallError(Kind.MALFORMED, detail, pointer=pointer, fix=fix)
