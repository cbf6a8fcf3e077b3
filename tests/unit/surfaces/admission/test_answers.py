"""What a person reads in the output of kubectl, and what an API server takes."""

import re
from typing import Any
from uuid import UUID

import orjson
import pytest

from app.core.types import Clause, Effect, Mode, Obligation, Outcome, Reason
from app.errors import FirewallError, Kind
from app.service.decide import Decision, Rehearsal
from app.surfaces.admission.answers import (
    MESSAGE_CHARS,
    decision_to_wire,
    error_to_wire,
    rehearsal_to_wire,
    unforeseen_to_wire,
)
from app.surfaces.admission.wire import API_VERSION, FORMER_API_VERSION, Asked
from app.surfaces.words import shown

ASKED = Asked("u-1", API_VERSION)
CLAUSE = Clause("when", "replicas == 0", 1, 1, Outcome.TRUE, {"change.after.spec.replicas": 0})


def reason(effect=Effect.DENY, *, policy="replicas", message="not to zero", **more: Any) -> Reason:
    return Reason(policy, "to-zero", effect, message, **more)


def decision(effect=Effect.DENY, reasons=None, **members: Any) -> Decision:
    return Decision(
        id=UUID(int=1),
        effect=effect,
        reasons=reasons or (reason(effect),),
        policy_set="sha256:" + "0" * 64,
        mutation_digest="sha256:" + "1" * 64,
        ledger_index=41,
        receipt_hash="sha256:" + "2" * 64,
        decided_at="2026-01-01T00:00:00Z",
        approval=members.pop("approval", None),
        request_id=None,
        **members,
    )


def answered(verdict: Decision | Rehearsal, asked: Asked = ASKED) -> dict[str, Any]:
    write = decision_to_wire if isinstance(verdict, Decision) else rehearsal_to_wire
    tree = orjson.loads(write(verdict, asked))  # type: ignore[arg-type]  # the one that fits
    assert (tree["apiVersion"], tree["kind"]) == (asked.api_version, "AdmissionReview")
    response: dict[str, Any] = tree["response"]
    assert response["uid"] == asked.uid
    return response


def test_an_allow():
    response = answered(decision(Effect.ALLOW))
    assert response["allowed"] is True
    assert "status" not in response
    assert "warnings" not in response
    assert response["auditAnnotations"] == {
        "decision": "allow",
        "decision-id": str(UUID(int=1)),
        "ledger-index": "41",
        "policy-set": "sha256:" + "0" * 64,
        "mutation-digest": "sha256:" + "1" * 64,
        "reason": "replicas/to-zero",
    }


def test_a_denial_says_which_policy_which_clause_and_what_to_do():
    reasons = (
        reason(clause=CLAUSE),
        *(reason(policy=f"p{number}") for number in range(5)),
        reason(policy="quiet", mode=Mode.SHADOW),
        reason(Effect.ALLOW, policy="kind"),
    )
    response = answered(decision(reasons=reasons))
    status = response["status"]
    assert (response["allowed"], status["code"], status["reason"], status["status"]) == (
        False,
        403,
        "Forbidden",
        "Failure",
    )
    assert status["message"] == (
        "denied by policy `replicas`, rule `to-zero`: not to zero; because `replicas == 0` is true, where "
        "`change.after.spec.replicas` is 0; no approval lifts this: change the request as the message says, or ask the "
        "owners of the policy; also `p0/to-zero`, `p1/to-zero`, `p2/to-zero`, `p3/to-zero` and 1 more "
        f"(decision {UUID(int=1)}, ledger entry 41)"
    )
    causes = [cause["reason"] for cause in status["details"]["causes"]]
    assert "quiet/to-zero" not in causes
    assert causes[0] == "replicas/to-zero"
    assert status["details"]["uid"] == str(UUID(int=1))


@pytest.mark.parametrize(
    ("approval", "words"),
    [
        ({"anyOf": [{"group": "sre", "count": 2}, {"group": "boss"}]}, "(2 of group `sre` or 1 of group `boss`)"),
        (
            {"allOf": [{"group": "a", "count": 1}, {"anyOf": [{"group": "b", "count": 1}]}]},
            "(1 of group `a` and 1 of group `b`)",
        ),
        (None, "whoever the policy names"),
    ],
)
def test_a_hold_says_who_has_to_agree(approval, words):
    response = answered(decision(Effect.HOLD, approval=approval, reasons=(reason(Effect.HOLD, clause=CLAUSE),)))
    assert response["allowed"] is False
    message = response["status"]["message"]
    assert message.startswith("held by policy `replicas`, rule `to-zero`")
    assert f"needs the approval of {words}" in message
    assert str(UUID(int=1)) in message
    assert response["auditAnnotations"]["decision"] == "hold"


def test_an_obligation_that_nobody_meets_is_a_refusal():
    obligations = (Obligation("p", "r", "ticket", 7), Obligation("p", "r", "kubernetes/warning", "slowly"))
    response = answered(decision(Effect.ALLOW, obligations=obligations))
    assert response["allowed"] is False
    assert "`ticket` of `p/r`" in response["status"]["message"]
    assert response["auditAnnotations"]["decision"] == "allow"


def test_obligations_that_an_api_server_meets():
    obligations = (
        Obligation("p", "r", "kubernetes/warning", "slowly"),
        Obligation("p", "r", "kubernetes/audit", {"ticket": 7}),
    )
    response = answered(decision(Effect.ALLOW, obligations=obligations, warnings=("slowly", "other")))
    assert response["allowed"] is True
    assert response["warnings"] == ["slowly", "other"]
    assert response["auditAnnotations"]["p.r"] == '{"ticket":7}'


def test_limits_of_the_api_server():
    long = "x" * 5000
    warnings = (long, "", "a\nb", *(f"{number:0120d}" for number in range(60)))
    annotations = {f"{long}/a": long, f"{long}/b": "2", "validation.policy.admission.k8s.io/x": "3", "--": "4"}
    reasons = (reason(message=long, clause=CLAUSE), *(reason(policy=long) for _ in range(9)))
    response = answered(decision(reasons=reasons, warnings=warnings, annotations=annotations))
    assert all(len(text) <= 120 and text.isprintable() for text in response["warnings"])
    assert response["warnings"][1] == r"a\nb"
    assert len(response["warnings"]) > 30
    assert sum(len(text.encode()) for text in response["warnings"]) <= 4096
    assert len(response["status"]["message"]) <= MESSAGE_CHARS
    assert response["status"]["message"].endswith("(decision 00000000-0000-0000-0000-000000000001, ledger entry 41)")
    keys = response["auditAnnotations"]
    assert len(keys) == 6 + len(annotations)
    assert all(re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", key) for key in keys)


def test_a_dry_run_has_no_place_in_the_ledger():
    told = answered(Rehearsal(Effect.DENY, (reason(),), "sha256:a", "sha256:b", None))
    assert told["auditAnnotations"]["dry-run"] == "true"
    assert "decision-id" not in told["auditAnnotations"]
    assert told["status"]["message"].endswith("(dry run, not recorded)")
    assert "uid" not in told["status"]["details"]


@pytest.mark.parametrize(
    ("kind", "code", "word"),
    [
        (Kind.MALFORMED, 400, "BadRequest"),
        (Kind.FORBIDDEN, 403, "Forbidden"),
        (Kind.TOO_LARGE, 413, "RequestEntityTooLarge"),
        (Kind.RATE_LIMITED, 429, "TooManyRequests"),
        (Kind.UNAVAILABLE, 503, "ServiceUnavailable"),
        (Kind.TIMEOUT, 504, "Timeout"),
    ],
)
def test_an_error_is_a_refusal(kind, code, word):
    error = FirewallError(kind, "no\x1b[2J", fix="wait", retry_after=1.2 if code > 413 else None)
    asked = Asked("u", FORMER_API_VERSION)
    tree = orjson.loads(error_to_wire(error, asked, request_id="r1"))
    assert tree["apiVersion"] == FORMER_API_VERSION
    status = tree["response"]["status"]
    assert (tree["response"]["allowed"], status["code"], status["reason"]) == (False, code, word)
    assert status["message"] == r"nothing was decided: no\x1b[2J; wait (request r1)"
    assert status.get("details") == ({"retryAfterSeconds": 2} if code > 413 else None)
    assert "fix" not in orjson.loads(error_to_wire(FirewallError(kind, "no"), asked, request_id="r"))


def test_what_nobody_foresaw():
    tree = orjson.loads(unforeseen_to_wire(ASKED, request_id="r1"))
    assert (tree["response"]["allowed"], tree["response"]["status"]["code"]) == (False, 500)
    assert "r1" in tree["response"]["status"]["message"]


def test_no_text_moves_the_cursor():
    assert shown("a\u202eb\nc", 80) == r"a\u202eb\nc"
    assert shown("abcdef", 3) == "ab…"
