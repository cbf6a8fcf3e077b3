"""Step 10 for a gateway: 200 lets a request through, 403 and every other status does not.

A hold is a 403 that says so. 401 is for nobody here: a gateway hands it on, and its caller would be asked for the
credential of the gateway.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final, assert_never

import orjson

from app.core.types import Effect, JsonObject, Mode
from app.errors import FirewallError
from app.service.decide import Decision
from app.surfaces.answering import Answer
from app.surfaces.ext_authz.mapping import Fact, GatewayMapping, Refusals
from app.surfaces.problems import CONTENT_TYPE, TYPE_PREFIX, problem_members, status_and_title, whole_seconds
from app.surfaces.words import approval_in_words, shown

# What Envoy takes out of a request before it goes on; others do not know it, and hand it to nobody.
REMOVE: Final = b"x-envoy-auth-headers-to-remove"

MESSAGE_CHARS: Final = 1024
_REASONS_MAX: Final = 16

_PROBLEM: Final = (b"content-type", CONTENT_TYPE.encode())
DENIED, HELD, UNMET = "denied", "held", "obligations"
_TITLES: Final = {
    DENIED: "the request is denied",
    HELD: "the request is held for approval",
    UNMET: "the request is allowed under obligations that a gateway cannot meet",
}


def decision_to_answer(decision: Decision, mapping: GatewayMapping) -> Answer:
    """Answer a check whose decision is in the ledger."""
    facts = _facts(decision, mapping.facts)
    if decision.effect is Effect.ALLOW and not decision.obligations:
        removed = [(REMOVE, ", ".join(mapping.removed).encode())] if mapping.removed else []
        return Answer(HTTPStatus.OK, [*facts, *removed, (b"content-length", b"0")], b"")
    return _sealed(HTTPStatus.FORBIDDEN, _refused(decision), facts)


def error_to_answer(error: FirewallError, refusals: Refusals, *, request_id: str) -> Answer:
    """Say that nothing was decided, so nothing is let through."""
    status, _ = status_and_title(error.kind)
    if refusals is Refusals.FORBIDDEN or status == HTTPStatus.UNAUTHORIZED:
        status = HTTPStatus.FORBIDDEN
    # It is handed on to whoever asked the gateway, and may quote anybody.
    told = {"status": int(status), "detail": shown(error.detail, MESSAGE_CHARS)}
    members = {**problem_members(error, request_id), **told}
    headers = []
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % whole_seconds(error.retry_after)))
    return _sealed(status, members, headers)


def decision_facts(decision: Decision) -> dict[Fact, str]:
    """What headers and metadata may say of a decision; all of it is printable ASCII."""
    return {
        Fact.DECISION_ID: str(decision.id),
        Fact.EFFECT: decision.effect.value,
        Fact.LEDGER_INDEX: str(decision.ledger_index),
        Fact.POLICY_SET: decision.policy_set,
        Fact.MUTATION_DIGEST: decision.mutation_digest,
        Fact.RECEIPT_HASH: decision.receipt_hash,
    }


def _facts(decision: Decision, wanted: Mapping[str, Fact]) -> list[tuple[bytes, bytes]]:
    told = decision_facts(decision)
    return [(name.encode(), told[fact].encode()) for name, fact in wanted.items()]


def _refused(decision: Decision) -> JsonObject:
    """A problem that its reader can act on. Clauses stay out: their values are for who may read the ledger."""
    counted = [one for one in decision.reasons if one.mode is Mode.ENFORCE and one.effect is decision.effect]
    first = (counted or decision.reasons)[0]
    said = f"by policy `{first.policy}`, rule `{first.rule}`: {first.message}"
    match decision.effect:
        case Effect.ALLOW:
            kind = UNMET
            named = ", ".join(f"`{one.key}` of `{one.policy}/{one.rule}`" for one in decision.obligations)
            detail, fix = f"allowed under {named}", "carry it out where that can be met"
        case Effect.HOLD:
            kind, detail = HELD, f"held {said}"
            agree = approval_in_words(decision.approval or {})
            fix = f"get the approval of {agree}: give them the id of the decision, and repeat this once they agreed"
        case Effect.DENY:
            kind, detail = DENIED, f"denied {said}"
            fix = "change the request as the message says, or ask the owners of the policy; no approval lifts this"
        case _:
            assert_never(decision.effect)
    members: JsonObject = {
        "type": TYPE_PREFIX + kind,
        "title": _TITLES[kind],
        "status": 403,
        "detail": shown(detail, MESSAGE_CHARS),
        "fix": shown(fix, MESSAGE_CHARS),
        "decision": decision.effect.value,
        "decision_id": str(decision.id),
        "ledger_index": decision.ledger_index,
        "reasons": [
            {
                "policy": one.policy,
                "rule": one.rule,
                "effect": one.effect.value,
                "message": shown(one.message, MESSAGE_CHARS),
            }
            for one in decision.reasons[:_REASONS_MAX]
            if one.mode is Mode.ENFORCE
        ],
    }
    if decision.request_id is not None:
        members["request_id"] = decision.request_id
    if decision.approval is not None:
        members["approval"] = decision.approval
    return members


def _sealed(status: int, members: Mapping[str, object], headers: list[tuple[bytes, bytes]]) -> Answer:
    body = orjson.dumps(members)
    return Answer(int(status), [_PROBLEM, (b"content-length", b"%d" % len(body)), *headers], body)
