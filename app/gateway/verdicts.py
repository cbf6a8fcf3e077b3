"""What the firewall said about a call, in the words of a tool's result: a model reads them, and a program."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from app.client.answers import Decision, Effect, Reason
from app.client.problems import ProblemError
from app.client.tool_calls import ToolCheck

# A model reads it whole; the rest is in the ledger.
TEXT_CHARS: Final = 2_048
_MESSAGE_CHARS: Final = 600
_REASONS: Final = 5
# Where a program finds the same as in the text: as structured content, and where a client drops that of an error.
MEMBER: Final = "mutation_firewall"
META: Final = "io.mutationfirewall/decision"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a call may be passed on; if not, the words for it and the same as members."""

    allowed: bool
    text: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def result(self, *, structured: bool = False) -> dict[str, Any]:
        """The result of a tool that was not called.

        `structured` is for tools that promise no structured content of their own: clients hold that of an error, too,
        against the schema of the output, and show none of a result that does not fit.
        """
        facts = dict(self.facts)
        return {
            "content": [{"type": "text", "text": self.text}],
            **({"structuredContent": {MEMBER: facts}} if structured else {}),
            "isError": True,
            "_meta": {META: facts},
        }


def shown(text: str, limit: int) -> str:
    """Text of others with everything visible that could steer a terminal or hide, cut to a length."""
    visible = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
    return visible if len(visible) <= limit else visible[: limit - 1] + "…"


def of_check(check: ToolCheck) -> Verdict:
    """A verdict about a call, which is in the ledger; the words are the firewall's."""
    decision = check.deciding
    if check.allowed:
        return Verdict(allowed=True)
    if decision is None:
        return refusal("no-decision", "the firewall named no decision", fix="tell whoever runs the firewall")
    # An allow that is none after all: one of its parts, or an obligation, says otherwise.
    effect = Effect.DENY if check.effect is Effect.ALLOW else check.effect
    return _refused(effect, decision, shown(check.reason, TEXT_CHARS))


def of_decision(decision: Decision) -> Verdict:
    """A verdict about a change of a tool. An allow with an obligation is none: nobody here can meet it."""
    if decision.allowed and not decision.obligations:
        return Verdict(allowed=True)
    effect = Effect.DENY if decision.allowed else decision.effect
    first = next(iter(_counted(decision)), decision.reasons[0])
    verb = {Effect.ALLOW: "allowed with obligations", Effect.HOLD: "held", Effect.DENY: "denied"}[decision.effect]
    rule = f"policy `{shown(first.policy, 200)}`, rule `{shown(first.rule, 200)}`"
    where = f"decision {decision.id}, ledger entry {decision.ledger_index}"
    said = f"the tool is not the one that was listed before; {verb} by {rule}: {shown(first.message, _MESSAGE_CHARS)}"
    return _refused(effect, decision, f"{said} ({where})")


def _refused(effect: Effect, decision: Decision, said: str) -> Verdict:
    facts: dict[str, Any] = {
        "decision": effect.value,
        "decision_id": decision.id,
        "ledger_index": decision.ledger_index,
        "mutation_digest": decision.mutation_digest,
        "policy_set": decision.policy_set,
        "reasons": [_reason(one) for one in _counted(decision)],
    }
    if effect is Effect.HOLD:
        fix = (
            f"ask {_who(decision.approval or {})} for approval and give them the decision id {decision.id}; "
            "once they agreed, make exactly the same call again"
        )
        facts["approval"] = dict(decision.approval or {})
    elif decision.obligations:
        fix = "ask the owner of the policy: this gateway cannot see to its obligations"
        facts["obligations"] = [{"key": one.key, "value": one.value} for one in decision.obligations]
    else:
        fix = "do something else, or ask a person: the same call is denied again, and a way around it is no answer"
    facts["fix"] = fix
    return Verdict(allowed=False, text=f"not called: {said}\n{fix}", facts=facts)


def of_problem(problem: ProblemError) -> Verdict:
    """No decision: whatever went wrong, nothing is called."""
    fix = "try again later, or tell whoever runs the firewall"
    if problem.retry_after is not None:
        fix = f"try again in {problem.retry_after:g} seconds"
    facts = {"status": problem.status, **({"request_id": problem.request_id} if problem.request_id else {})}
    detail = f"the firewall gave no decision ({problem.kind.value}): {problem.detail}"
    return refusal("no-decision", detail, fix=fix, facts=facts)


def refusal(kind: str, detail: str, *, fix: str, facts: Mapping[str, Any] | None = None) -> Verdict:
    """A call that the gateway itself does not pass on."""
    said = shown(detail, TEXT_CHARS)
    members = {"decision": "deny", "refused": kind, "detail": said, "fix": fix, **(facts or {})}
    return Verdict(allowed=False, text=f"not called: {said}\n{fix}", facts=members)


def _counted(decision: Decision) -> tuple[Reason, ...]:
    counted = [one for one in decision.reasons if one.mode == "enforce" and one.effect is decision.effect]
    return tuple(counted[:_REASONS])


def _reason(one: Reason) -> dict[str, Any]:
    clause = {} if one.clause is None else {"clause": shown(one.clause.text, _MESSAGE_CHARS)}
    return {"policy": one.policy, "rule": one.rule, "message": shown(one.message, _MESSAGE_CHARS), **clause}


def _who(approval: Mapping[str, Any]) -> str:
    """Who has to agree, as far as the tree of groups says it in a line."""
    for joint, word in (("anyOf", " or "), ("allOf", " and ")):
        several = approval.get(joint)
        if isinstance(several, list) and several:
            named = [_who(one) for one in several if isinstance(one, dict)]
            return word.join(f"({one})" if " or " in one or " and " in one else one for one in named)
    group = approval.get("group")
    if not isinstance(group, str):
        return "those who approve"
    count = approval.get("count", 1)
    return f"{count} of the group `{shown(group, 100)}`"
