"""Step 10 for an AdmissionReview: what a person reads in the output of kubectl, and what a cluster's audit log keeps.

Only an allow is `allowed`. A hold is a refusal that says who has to agree, and an allow with an obligation that an API
server cannot meet is one as well.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from http import HTTPStatus
from typing import Final

import orjson

from app.core.types import Effect, JsonObject, Mode, Obligation
from app.errors import FirewallError
from app.service.decide import Decision, Rehearsal
from app.surfaces.admission.wire import KIND, Asked
from app.surfaces.problems import status_and_title, whole_seconds
from app.surfaces.words import approval_in_words, clause_in_words, shown

# What an API server passes on: 120 characters each so that every client shows them, 4,096 in all.
WARNING_CHARS: Final = 120
WARNINGS_CHARS: Final = 4096
# A refusal is read in a terminal; the rest is in the ledger.
MESSAGE_CHARS: Final = 2048
_REASON_CHARS: Final = 600
_OTHER_REASONS: Final = 4
# The part of a qualified name behind its prefix, which is the name of the webhook.
_KEY_CHARS: Final = 63
_NOT_KEY: Final = re.compile(r"[^A-Za-z0-9_.-]")
_ANNOTATION_CHARS: Final = 4096

# Obligations that an API server can meet.
WARNING: Final = "kubernetes/warning"
AUDIT: Final = "kubernetes/audit"

# Reasons as `k8s.io/apimachinery` has them: clients act on these.
_REASONS: Final = {
    HTTPStatus.FORBIDDEN: "Forbidden",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "RequestEntityTooLarge",
    HTTPStatus.TOO_MANY_REQUESTS: "TooManyRequests",
    HTTPStatus.INTERNAL_SERVER_ERROR: "InternalError",
    HTTPStatus.SERVICE_UNAVAILABLE: "ServiceUnavailable",
    HTTPStatus.GATEWAY_TIMEOUT: "Timeout",
}


def decision_to_wire(decision: Decision, asked: Asked) -> bytes:
    """Write the answer to a review whose decision is in the ledger."""
    where = f"decision {decision.id}, ledger entry {decision.ledger_index}"
    noted = {"decision-id": str(decision.id), "ledger-index": str(decision.ledger_index)}
    return _answered(decision, asked, where=where, noted=noted, cause=str(decision.id))


def rehearsal_to_wire(rehearsal: Rehearsal, asked: Asked) -> bytes:
    """Write the answer to a dry run, which has no place in the ledger."""
    return _answered(rehearsal, asked, where="dry run, not recorded", noted={"dry-run": "true"}, cause=None)


def error_to_wire(error: FirewallError, asked: Asked, *, request_id: str) -> bytes:
    """Write a refusal: nothing was decided, and nothing is allowed."""
    status, _ = status_and_title(error.kind)
    fix = f"; {error.fix}" if error.fix else ""
    message = f"nothing was decided: {error.detail}{fix} (request {request_id})"
    # With these seconds an API server answers `Retry-After`, and its clients try again by themselves.
    seconds = None if error.retry_after is None else whole_seconds(error.retry_after)
    return _refusal(asked, status=status, message=message, details=_retry(seconds))


def unforeseen_to_wire(asked: Asked, *, request_id: str) -> bytes:
    """Write the refusal that follows an error nobody foresaw; the log has the rest under the request's id."""
    message = f"nothing was decided because of an internal error (request {request_id}); try again, or report the id"
    return _refusal(asked, status=HTTPStatus.INTERNAL_SERVER_ERROR, message=message, details={})


def _answered(
    verdict: Decision | Rehearsal, asked: Asked, *, where: str, noted: Mapping[str, str], cause: str | None
) -> bytes:
    unmet = [one for one in verdict.obligations if one.key not in {WARNING, AUDIT}]
    allowed = verdict.effect is Effect.ALLOW and not unmet
    response: JsonObject = {"uid": asked.uid, "allowed": allowed}
    if not allowed:
        causes = [
            {"reason": f"{reason.policy}/{reason.rule}", "message": shown(reason.message, _REASON_CHARS)}
            for reason in verdict.reasons
            if reason.mode is Mode.ENFORCE
        ]
        details = {**({"uid": cause} if cause else {}), "causes": causes}
        message = _unmet(unmet, where) if verdict.effect is Effect.ALLOW else _why_not(verdict, where)
        response["status"] = _status(HTTPStatus.FORBIDDEN, message, details)
    warnings = _warnings([*verdict.warnings, *(_plain(one) for one in verdict.obligations if one.key == WARNING)])
    if warnings:
        response["warnings"] = warnings
    annotations = {
        "decision": verdict.effect.value,
        **noted,
        "policy-set": verdict.policy_set,
        "mutation-digest": verdict.mutation_digest,
        "reason": f"{verdict.reasons[0].policy}/{verdict.reasons[0].rule}",
        **{f"{one.policy}.{one.rule}": _plain(one) for one in verdict.obligations if one.key == AUDIT},
        **verdict.annotations,
    }
    response["auditAnnotations"] = {_key(name): shown(text, _ANNOTATION_CHARS) for name, text in annotations.items()}
    return _review(response, asked)


def _why_not(verdict: Decision | Rehearsal, where: str) -> str:
    """Say which policy, which clause, and what to do."""
    counted = [one for one in verdict.reasons if one.mode is Mode.ENFORCE and one.effect is verdict.effect]
    first, *others = counted or verdict.reasons[:1]
    held = verdict.effect is Effect.HOLD
    parts = [f"{'held' if held else 'denied'} by policy `{first.policy}`, rule `{first.rule}`: {first.message}"]
    if first.clause is not None:
        parts.append(clause_in_words(first.clause))
    if held:
        agree = approval_in_words(verdict.approval or {})
        parts.append(
            f"needs the approval of {agree}: give them the id of the decision, and repeat this once they agreed"
        )
    else:
        parts.append("no approval lifts this: change the request as the message says, or ask the owners of the policy")
    text = "; ".join(shown(part, _REASON_CHARS) for part in parts)
    if others:
        names = [f"`{one.policy}/{one.rule}`" for one in others[:_OTHER_REASONS]]
        more = f" and {len(others) - _OTHER_REASONS} more" if len(others) > _OTHER_REASONS else ""
        text = f"{text}; also {', '.join(names)}{more}"
    return f"{shown(text, MESSAGE_CHARS - 128)} ({where})"


def _unmet(unmet: Sequence[Obligation], where: str) -> str:
    """An enforcement point that cannot meet an obligation does not carry the change out."""
    named = ", ".join(f"`{one.key}` of `{one.policy}/{one.rule}`" for one in unmet)
    text = f"allowed under obligations that an API server cannot meet: {named}; carry it out where they can be met"
    return f"{shown(text, MESSAGE_CHARS - 128)} ({where})"


def _plain(obligation: Obligation) -> str:
    value = obligation.value
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _refusal(asked: Asked, *, status: int, message: str, details: JsonObject) -> bytes:
    told = _status(status, shown(message, MESSAGE_CHARS), details)
    return _review({"uid": asked.uid, "allowed": False, "status": told}, asked)


def _status(status: int, message: str, details: JsonObject) -> JsonObject:
    made: JsonObject = {
        "apiVersion": "v1",
        "kind": "Status",
        "metadata": {},
        "status": "Failure",
        "code": int(status),
        "reason": _REASONS.get(HTTPStatus(status), "BadRequest"),
        "message": message,
    }
    if details:
        made["details"] = details
    return made


def _retry(seconds: int | None) -> JsonObject:
    return {} if seconds is None else {"retryAfterSeconds": seconds}


def _review(response: JsonObject, asked: Asked) -> bytes:
    return orjson.dumps({"apiVersion": asked.api_version, "kind": KIND, "response": response})


def _warnings(texts: Iterable[str]) -> list[str]:
    """What of warnings an API server passes on: each cut short, none twice, and the last ones left out if too many."""
    kept: list[str] = []
    left = WARNINGS_CHARS
    for text in dict.fromkeys(shown(text, WARNING_CHARS) for text in texts if text.strip()):
        left -= len(text.encode())
        if left < 0:
            break
        kept.append(text)
    return kept


def _key(name: str) -> str:
    """A name as a key of an audit annotation has to be: others are dropped by the API server without a word."""
    key = _NOT_KEY.sub(".", name).strip("._-")
    if len(key) <= _KEY_CHARS and key:
        return key
    return f"{key[: _KEY_CHARS - 9]}-{sha256(name.encode()).hexdigest()[:8]}".lstrip("-")
