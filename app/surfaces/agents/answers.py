"""Step 10 for tool calls: one answer for all that a call would do, and the worst counts.

A hold is never an `ask` of the person at the terminal: who has to agree is what the policy says, nobody approves their
own change, and nothing of what is clicked away there is in the ledger.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import orjson

from app.core.batch import BATCH_NOT_ALLOWED
from app.core.decide import FIREWALL
from app.core.types import Effect, JsonObject, Mode, Obligation
from app.errors import FirewallError
from app.service.decide import Decision, Outcome
from app.surfaces.agents.wire import JSONRPC, PRE_TOOL_USE, Asked
from app.surfaces.decided import decision_members
from app.surfaces.problems import problem_members, status_and_title
from app.surfaces.words import approval_in_words, clause_in_words, shown

# What a model, or a person at a terminal, reads; the rest is in the ledger.
MESSAGE_CHARS: Final = 2048
_OTHERS: Final = 4

# An allow with it is an `ask` to Claude Code: the person at the terminal has to say yes as well.
CONFIRM: Final = "agents/confirm"

# JSON-RPC leaves -32000 to -32099 to whoever implements a server.
APPROVAL_REQUIRED: Final = -32099
DENIED: Final = -32098
NOT_DECIDED: Final = -32097


class Told(NamedTuple):
    """What became of a tool call: the effect of the whole, and the decisions that brought it about, worst first."""

    effect: Effect
    deciding: Sequence[Decision]
    decisions: Sequence[Decision]

    @property
    def obligations(self) -> list[Obligation]:
        """What has to be done as well, if it is allowed."""
        return [one for decision in self.decisions for one in decision.obligations]


def told_of(outcomes: Sequence[Outcome]) -> Told:
    """Sum up what became of the parts of a call; raises what refused one of them.

    A part that was denied only because another was not allowed says nothing of its own.
    """
    decisions: list[Decision] = []
    for outcome in outcomes:
        if isinstance(outcome, FirewallError):
            raise outcome
        decisions.append(outcome)
    for effect in (Effect.DENY, Effect.HOLD):
        found = [one for one in decisions if one.effect is effect and not _follows(one)]
        if found:
            return Told(effect, found, decisions)
    # INVARIANT: allow is said only where each part is allowed, whatever else is wrong.
    if decisions and all(one.effect is Effect.ALLOW for one in decisions):
        return Told(Effect.ALLOW, decisions, decisions)
    return Told(Effect.DENY, decisions, decisions)


def _follows(decision: Decision) -> bool:
    first = decision.reasons[0]
    return (first.policy, first.rule) == (FIREWALL, BATCH_NOT_ALLOWED)


def in_words(told: Told) -> str:
    """Say what was decided, by which policy, and what to do."""
    if not told.deciding:
        return "denied: nothing was decided"
    decision = told.deciding[0]
    counted = [one for one in decision.reasons if one.mode is Mode.ENFORCE and one.effect is decision.effect]
    first, *others = counted or decision.reasons[:1]
    verb = {Effect.ALLOW: "allowed", Effect.HOLD: "held", Effect.DENY: "denied"}[told.effect]
    parts = [f"{verb} by policy `{first.policy}`, rule `{first.rule}`: {first.message}"]
    if first.clause is not None and told.effect is not Effect.ALLOW:
        parts.append(clause_in_words(first.clause))
    if told.effect is Effect.HOLD:
        parts.append(
            f"needs the approval of {approval_in_words(decision.approval or {})}: give them the id of the decision, "
            "and repeat this once they agreed"
        )
    named = [f"`{one.policy}/{one.rule}`" for one in others]
    named += [f"`{one.reasons[0].policy}/{one.reasons[0].rule}`" for one in told.deciding[1:]]
    text = "; ".join(parts)
    if named and told.effect is not Effect.ALLOW:
        more = f" and {len(named) - _OTHERS} more" if len(named) > _OTHERS else ""
        text = f"{text}; also {', '.join(named[:_OTHERS])}{more}"
    return f"{shown(text, MESSAGE_CHARS - 128)} (decision {decision.id}, ledger entry {decision.ledger_index})"


def refused_in_words(error: FirewallError) -> str:
    """Say that nothing was decided, and why."""
    fix = f"; {error.fix}" if error.fix else ""
    return shown(f"nothing was decided, so the call is not allowed: {error.detail}{fix}", MESSAGE_CHARS)


def _unmet(unmet: Iterable[Obligation]) -> str:
    named = ", ".join(f"`{one.key}` of `{one.policy}/{one.rule}`" for one in unmet)
    return shown(f"allowed under obligations that cannot be met here: {named}", MESSAGE_CHARS)


def tool_call_to_wire(told: Told, asked: Asked) -> bytes:
    """Write the answer to a generic call; `approved` is for who knows two answers and meets no obligation."""
    members: JsonObject = {
        "decision": told.effect.value,
        "approved": told.effect is Effect.ALLOW and not told.obligations,
        "reason": in_words(told),
        "tool": asked.call.name,
        "risk": asked.call.risk.value,
        "decisions": [decision_members(one) for one in told.decisions],
    }
    return orjson.dumps(members)


def approvals_to_wire(told: Told, asked: Asked) -> bytes:
    """Write `tool_approval_response` of kagent: one answer for each id, for what has none is not approved.

    The other members are those of a generic call.
    """
    approved = told.effect is Effect.ALLOW and not told.obligations
    reason = in_words(told) if approved or told.effect is not Effect.ALLOW else _unmet(told.obligations)
    answer: JsonObject = {"approved": True} if approved else {"approved": False, "rejection_reason": reason}
    members: JsonObject = {
        "type": "tool_approval_response",
        "approvals": [{"id": one, **answer} for one in asked.approvals],
        "decision": told.effect.value,
        "decisions": [decision_members(one) for one in told.decisions],
    }
    return orjson.dumps(members)


def hook_to_wire(told: Told) -> bytes:
    """Write what Claude Code reads: allow, deny, or ask where a policy wants the person at the terminal to confirm."""
    unmet = [one for one in told.obligations if one.key != CONFIRM]
    if told.effect is not Effect.ALLOW:
        return hook_answer("deny", in_words(told))
    if unmet:
        return hook_answer("deny", _unmet(unmet))
    return hook_answer("ask" if told.obligations else "allow", in_words(told))


def hook_answer(decision: str, reason: str) -> bytes:
    """Write one answer of a hook `PreToolUse`."""
    output = {"hookEventName": PRE_TOOL_USE, "permissionDecision": decision, "permissionDecisionReason": reason}
    return orjson.dumps({"hookSpecificOutput": output})


def mcp_to_wire(told: Told, rpc_id: str | int | None) -> bytes:
    """Write a JSON-RPC result for an allow, and an error for everything else."""
    first = told.deciding[0] if told.deciding else None
    data: JsonObject = {
        "decision": told.effect.value,
        "reason": in_words(told),
        "decisions": [decision_members(one) for one in told.decisions],
    }
    if first is not None:
        data["decision_id"] = str(first.id)
        data["ledger_index"] = first.ledger_index
        data["mutation_digest"] = first.mutation_digest
    if told.effect is Effect.ALLOW and not told.obligations:
        return orjson.dumps({"jsonrpc": JSONRPC, "id": rpc_id, "result": data})
    if told.effect is Effect.HOLD and first is not None:
        data["approval_ref"] = str(first.id)
        data["approval"] = first.approval
        return _rpc_error(rpc_id, APPROVAL_REQUIRED, "approval_required", data)
    if told.effect is Effect.ALLOW:
        data["reason"] = _unmet(told.obligations)
    return _rpc_error(rpc_id, DENIED, "denied", data)


def mcp_refusal(error: FirewallError, rpc_id: str | int | None, request_id: str) -> bytes:
    """Write that nothing was decided."""
    status, _ = status_and_title(error.kind)
    data = {"reason": refused_in_words(error), "status": status, "problem": problem_members(error, request_id)}
    return _rpc_error(rpc_id, NOT_DECIDED, "not_decided", data)


def _rpc_error(rpc_id: str | int | None, code: int, message: str, data: JsonObject) -> bytes:
    return orjson.dumps({"jsonrpc": JSONRPC, "id": rpc_id, "error": {"code": code, "message": message, "data": data}})
