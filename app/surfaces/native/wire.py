"""Steps 4 and 10 of the native surface, by hand: a pydantic model in and out costs 100 us."""

from typing import Final

import orjson

from app.core.batch import Batch, BatchMode
from app.core.members import refuse_unknown
from app.core.types import Json, Mutation
from app.errors import FirewallError, Kind
from app.service.decide import Decision
from app.surfaces.decided import decision_members
from app.surfaces.parties import ABSENT, MAX_ID_CHARS, MISSING, action, entity, refuse, text

# A paragraph for people; it is recorded with every decision.
MAX_RATIONALE_CHARS: Final = 8192

MEMBERS: Final = ("subject", "action", "resource", "change", "context", "request_id", "rationale")
REQUIRED: Final = ("subject", "action", "resource", "change")

# Mutations in one batch: what is answered within a second, and what a person could still look through.
MAX_BATCH: Final = 1000

BATCH_MEMBERS: Final = ("mutations", "mode")

# The same as sets: one comparison tells that all is well, and only a fault is looked for member by member.
_MEMBERS: Final = frozenset(MEMBERS)
_BATCH: Final = frozenset(BATCH_MEMBERS)
_MODES: Final = frozenset(BatchMode)


def mutation_from_wire(tree: Json) -> Mutation:
    """Make a mutation of a parsed request.

    Raises FirewallError(MALFORMED) with the pointer of the member at fault. Does not check: the members of `change`,
    their names included; step 5 does.
    """
    if not isinstance(tree, dict):
        refuse("the body is not an object", "", fix='send `{"subject": ..., "action": ..., ...}`')
    if not tree.keys() <= _MEMBERS:
        refuse_unknown(tree, known=MEMBERS, pointer="")
    for name in REQUIRED:
        if name not in tree:
            refuse(f"member `{name}` is missing", f"/{name}", fix=_MISSING[name])
    change = tree["change"]
    if not isinstance(change, dict):
        refuse("`change` is not an object", "/change", fix=_MISSING["change"])
    if not change:
        # Not so at a surface that has no word for it: there it is unknown what would be different.
        refuse("the change is empty", "/change", fix=_MISSING["change"])
    context = tree.get("context", ABSENT)
    if context is ABSENT:
        context = {}
    elif not isinstance(context, dict):
        refuse("`context` is not an object", "/context", fix="send an object, or leave it out")
    return Mutation(
        subject=entity(tree["subject"], "subject"),
        action=action(tree["action"]),
        resource=entity(tree["resource"], "resource"),
        change=change,
        context=context,
        request_id=text(tree, "request_id", MAX_ID_CHARS) if "request_id" in tree else None,
        rationale=text(tree, "rationale", MAX_RATIONALE_CHARS) if "rationale" in tree else None,
    )


def batch_from_wire(tree: Json) -> Batch:
    """Make a batch of a parsed request; a mutation that is wrong stands in its place as an error.

    Raises FirewallError(MALFORMED) where it is not a batch, TOO_LARGE for more than `MAX_BATCH` mutations.
    """
    if not isinstance(tree, dict):
        refuse("the body is not an object", "", fix=_MISSING["mutations"])
    if not tree.keys() <= _BATCH:
        refuse_unknown(tree, known=BATCH_MEMBERS, pointer="")
    mutations = tree.get("mutations")
    if not isinstance(mutations, list) or not mutations:
        refuse("`mutations` is not a list with anything in it", "/mutations", fix=_MISSING["mutations"])
    if len(mutations) > MAX_BATCH:
        raise FirewallError(
            Kind.TOO_LARGE,
            f"{len(mutations)} mutations in one batch, and {MAX_BATCH} are the most",
            pointer="/mutations",
            fix="send several batches, or lines with `Content-Type: application/x-ndjson`",
        )
    mode = tree.get("mode", BatchMode.EACH.value)
    if not isinstance(mode, str) or mode not in _MODES:
        refuse("`mode` is neither `each` nor `atomic`", "/mode", fix="send `each` or `atomic`, or leave it out")
    return Batch([_mutation_or_error(item) for item in mutations], BatchMode(mode))


def _mutation_or_error(tree: Json) -> Mutation | FirewallError:
    try:
        return mutation_from_wire(tree)
    except FirewallError as error:
        return error


def decision_to_wire(decision: Decision) -> bytes:
    """Write a decision as JSON."""
    return orjson.dumps(decision_members(decision))


# What is sent for a member that is missing.
_MISSING: Final = {
    **MISSING,
    "mutations": 'send `{"mutations": [...], "mode": "each"}`',
    "change": "say what would be different, by `before`, `after`, `patch`, `diff`, `statement` or `manifest`",
}
