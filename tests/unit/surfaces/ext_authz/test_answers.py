"""What a gateway is told: only a recorded allow lets a request through."""

import json
from uuid import UUID

import pytest

from app.core.types import Clause, Effect, Mode, Obligation, Outcome, Reason
from app.errors import FirewallError, Kind
from app.service.decide import Decision
from app.surfaces.ext_authz.answers import decision_to_answer, error_to_answer
from app.surfaces.ext_authz.mapping import Fact, GatewayKind, GatewayMapping, Refusals, default_mapping
from app.surfaces.problems import status_and_title

MAPPING = default_mapping(GatewayKind.ENVOY)
ID = "01936c1e-2b3c-7def-8a9b-0123456789ab"


def decision(effect, message="m", **members):
    clause = Clause("when", "secret == 1", 1, 1, Outcome.TRUE, {"secret": 1})
    reasons = (
        Reason("p", "shadow", Effect.DENY, "unseen", mode=Mode.SHADOW),
        Reason("p", "r", effect, message, clause=clause),
    )
    return Decision(
        **{
            "id": UUID(ID),
            "effect": effect,
            "reasons": reasons,
            "policy_set": "sha256:a",
            "mutation_digest": "sha256:b",
            "ledger_index": 7,
            "receipt_hash": "c",
            "decided_at": "d",
            "approval": None,
            "request_id": None,
        }
        | members
    )


def test_an_allow_lets_through_and_says_which():
    answer = decision_to_answer(decision(Effect.ALLOW), MAPPING)
    headers = dict(answer.headers)
    assert (answer.status, answer.body) == (200, b"")
    assert headers[b"x-mfw-decision-id"] == ID.encode()
    assert (headers[b"x-mfw-effect"], headers[b"x-mfw-ledger-index"]) == (b"allow", b"7")
    assert b"x-envoy-auth-headers-to-remove" not in headers


def test_headers_as_configured():
    mapping = GatewayMapping(
        MAPPING.gateways, facts={f"x-{fact}": fact for fact in Fact}, removed=("authorization", "cookie")
    )
    headers = dict(decision_to_answer(decision(Effect.ALLOW), mapping).headers)
    assert headers[b"x-envoy-auth-headers-to-remove"] == b"authorization, cookie"
    assert headers[b"x-policy_set"] == b"sha256:a"
    assert headers[b"x-mutation_digest"] == b"sha256:b"
    assert headers[b"x-receipt_hash"] == b"c"
    assert b"x-mfw-effect" not in headers
    assert b"x-envoy-auth-headers-to-remove" not in dict(decision_to_answer(decision(Effect.DENY), mapping).headers)


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        (decision(Effect.DENY), "denied", "no approval lifts this"),
        (
            decision(Effect.HOLD, approval={"anyOf": [{"group": "sre", "count": 2}]}, request_id="q"),
            "held",
            "get the approval of 2 of group `sre`",
        ),
        (decision(Effect.ALLOW, obligations=(Obligation("p", "r", "mask", 1),)), "obligations", "carry it out"),
    ],
)
def test_everything_else_is_forbidden_and_says_why(given, kind, words):
    answer = decision_to_answer(given, MAPPING)
    told = json.loads(answer.body)
    assert answer.status == told["status"] == 403
    assert dict(answer.headers)[b"content-type"] == b"application/problem+json"
    assert told["type"].endswith(f"/{kind}")
    assert words in told["fix"]
    assert (told["decision"], told["decision_id"], told["ledger_index"]) == (given.effect, ID, 7)
    assert dict(answer.headers)[b"x-mfw-effect"] == given.effect.encode()
    assert [one["rule"] for one in told["reasons"]] == ["r"]
    assert "secret" not in answer.body.decode()
    assert told.get("request_id") == given.request_id


def test_no_message_forges_a_header_or_a_line():
    bad = "a\r\nX-Forged: 1\x1b[2J\u202eb"
    answer = decision_to_answer(decision(Effect.DENY, message=bad + "x" * 5000), MAPPING)
    told = json.loads(answer.body)
    for text in (told["detail"], told["reasons"][0]["message"]):
        assert text.isprintable()
        assert len(text) <= 1024
    for name, value in answer.headers:
        assert (name + value).isascii()
        assert b"\r" not in value
        assert b"Forged" not in value


@pytest.mark.parametrize("kind", list(Kind))
def test_a_refusal_is_never_a_yes_and_never_asks_for_a_credential(kind):
    error = FirewallError(kind, "d", retry_after=1.5)
    own = error_to_answer(error, Refusals.OWN, request_id="q")
    status, _ = status_and_title(kind)
    assert own.status == (403 if status == 401 else status)
    mapped = error_to_answer(error, Refusals.FORBIDDEN, request_id="q")
    assert mapped.status == 403
    for answer in (own, mapped):
        told = json.loads(answer.body)
        assert told["status"] == answer.status
        assert dict(answer.headers)[b"retry-after"] == b"2"
        assert b"www-authenticate" not in dict(answer.headers)
