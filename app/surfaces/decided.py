"""Step 10, what every surface has in common: the members of a decision."""

from app.core.budgets import to_answer
from app.core.reasons import reason_members
from app.core.types import JsonObject
from app.service.decide import Decision


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
