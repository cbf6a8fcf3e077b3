"""The receipt's final form: vectors, RFC 8785, domain separation, and nothing that may have to be erased."""

import json
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.canonical import canonical
from app.core.normalise import normalise
from app.core.principal import AuthMethod, Principal, PrincipalKind, Role
from app.core.types import Clause, Effect, Mode, Mutation, Obligation, Outcome, Reason, Verdict
from app.errors import FirewallError, Kind
from app.ledger import receipt as form
from app.ledger.receipt import EntryKind, PendingDecision, build, build_decision, leaf_hash, parse, seal, seal_decision

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "receipt.json").read_text("utf-8"))["cases"]
SALT = bytes(range(32))
DIGEST = "sha256:" + "0" * 64
WHO = Principal("zoe@example.com", PrincipalKind.USER, frozenset({Role.AGENT, Role.VIEWER}), AuthMethod.JWT)
NOW = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
MUTATION = Mutation(
    subject={"type": "agent", "id": "coder-7", "properties": {"owner": "zoe@example.com"}},
    action={"name": "update", "properties": {}},
    resource={"type": "apps/Deployment", "id": "shop", "properties": {}},
    change={"before": {"replicas": 1.0}, "after": {"replicas": 2, "big": 9007199254740993}},
    context={"zone": None},
    request_id="r-1",
    rationale="because",
)
CLAUSE = Clause("when", "a < b", 1, 3, Outcome.TRUE, {"a": 1, "b": "2"})
VERDICT = Verdict(
    Effect.DENY, (Reason("p", "r", Effect.DENY, "no", clause=CLAUSE), Reason("q", "s", Effect.ALLOW, "y", Mode.SHADOW))
)


def pending(**changes):
    given_ = {
        "id": UUID("019b7d6a-1b2c-7000-8000-000000000001"),
        "decided_at": NOW,
        "principal": WHO,
        "mutation": MUTATION,
        "mutation_digest": DIGEST,
        "policy_set": DIGEST,
        "verdict": VERDICT,
        "engine": "0.1.0",
    }
    return PendingDecision(**{**given_, **changes})


@pytest.mark.parametrize("case", VECTORS, ids=[case["name"] for case in VECTORS])
def test_vectors(case):
    salt = bytes.fromhex(case["salt"])
    principal = Principal(
        case["principal"]["id"], PrincipalKind.USER, frozenset(), AuthMethod(case["principal"]["method"])
    )
    assert form.record_digest(salt, case["record"].encode()) == case["record_digest"]
    assert form.principal_digest(salt, principal) == case["principal_digest"]
    assert form.subject_digest(salt, case["subject"]) == case["subject_digest"]
    decision = case["decision"]
    made = build_decision(
        **{**decision, "decision": Effect(decision["decision"]), "mode": Mode(decision["mode"])},
        principal=case["principal_digest"],
        subject=case["subject_digest"],
        record=case["record_digest"],
    )
    assert made.decode() == case["receipt"]
    assert "sha256:" + leaf_hash(made).hex() == case["receipt_hash"]
    assert parse(made)["rule"] == decision["rule"]


names = st.text(max_size=300)


@given(policy=names, rule=names, effect=st.sampled_from(Effect), mode=st.sampled_from(Mode))
def test_the_template_is_rfc_8785(policy, rule, effect, mode):
    made = build_decision(
        id=str(UUID(int=7)),
        at=form.timestamp(NOW),
        decision=effect,
        mode=mode,
        policy=policy,
        rule=rule,
        mutation=DIGEST,
        policy_set=DIGEST,
        principal=DIGEST,
        subject=DIGEST,
        record=DIGEST,
    )
    assert canonical(json.loads(made)) == made
    assert len(made) <= form.RECEIPT_BYTES_MAX
    assert parse(made)["decision"] == effect
    members = json.loads(made)
    for name, given_ in (("policy", policy), ("rule", rule)):
        assert members[name] in {given_, "sha256:" + sha256(given_.encode()).hexdigest()}


@pytest.mark.parametrize("name", ["\ud800", "x" * 10_000, "\x00" * 200, "😀" * 200])
def test_a_name_that_does_not_fit_becomes_its_digest(name):
    made = (
        seal_decision(pending(verdict=Verdict(Effect.DENY, (Reason(name, "r", Effect.DENY, "no"),))), salt=SALT)
        if name != "\ud800"
        else None
    )
    digest = "sha256:" + sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    if made is not None:
        assert parse(made.receipt)["policy"] == digest
    assert form._name(name) == json.dumps(digest)


def test_a_receipt_holds_no_text_of_who_asked_or_what_was_asked():
    sealed = seal_decision(pending(), salt=SALT)
    for text in (b"zoe", b"coder-7", b"shop", b"because", b"r-1", b"replicas"):
        assert text not in sealed.receipt
        assert text in sealed.record or text == b"r-1"


def test_the_receipt_binds_the_record():
    sealed = seal_decision(pending(), salt=SALT)
    members = parse(sealed.receipt)
    assert members["record"] == form.record_digest(SALT, sealed.record)
    assert members["record"] != form.record_digest(bytes(32), sealed.record)
    assert members["record"] != form.record_digest(SALT, sealed.record + b" ")
    assert sealed.receipt_hash == "sha256:" + sha256(b"\x00" + sealed.receipt).hexdigest()


def test_the_record_keeps_what_replay_needs_with_the_type_of_every_number():
    record = json.loads(seal_decision(pending(), salt=SALT).record)
    assert record["input"] == {
        "subject": MUTATION.subject,
        "action": MUTATION.action,
        "resource": MUTATION.resource,
        "change": MUTATION.change,
        "context": MUTATION.context,
    }
    assert isinstance(record["input"]["change"]["before"]["replicas"], float)
    assert isinstance(record["input"]["change"]["after"]["replicas"], int)
    assert record["now"] == "2026-01-02T03:04:05.000006Z"
    assert (record["engine"], record["policy_set"], record["mutation"]) == ("0.1.0", DIGEST, DIGEST)
    assert record["request_id"] == "r-1"
    assert record["rationale"] == "because"
    assert record["principal"] == {"id": WHO.id, "kind": "user", "method": "jwt", "roles": ["agent", "viewer"]}
    assert [reason["mode"] for reason in record["reasons"]] == ["enforce", "shadow"]
    assert record["reasons"][0]["clause"] == {
        "path": "when",
        "text": "a < b",
        "line": 1,
        "column": 3,
        "outcome": "true",
        "values": {"a": 1, "b": "2"},
    }


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)


def _typed(value):
    if isinstance(value, dict):
        return {key: _typed(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_typed(one) for one in value]
    return (type(value).__name__, repr(value))


@given(json_values)
def test_any_input_comes_back_from_the_record_unchanged(value):
    mutation = Mutation(MUTATION.subject, MUTATION.action, MUTATION.resource, {"after": value}, {})
    record = json.loads(seal_decision(pending(mutation=mutation), salt=SALT).record)
    assert _typed(record["input"]["change"]["after"]) == _typed(value)


@given(json_values)
def test_a_text_that_was_written_for_the_digest_is_the_text_of_the_record(value):
    mutation = Mutation(MUTATION.subject, MUTATION.action, MUTATION.resource, {"after": [value]}, {})
    sent = normalise(mutation).sent
    written = seal_decision(pending(mutation=mutation, sent=sent), salt=SALT)
    assert written == seal_decision(pending(mutation=mutation), salt=SALT)


def test_a_number_that_the_digest_would_change_is_written_for_the_record():
    assert normalise(MUTATION).sent is None
    assert normalise(MUTATION._replace(change={"after": 1})).sent is not None


def test_an_approval_of_any_mapping_is_recorded():
    approval = MappingProxyType({"anyOf": ({"group": "sre", "count": 2},), "groups": frozenset({"b", "a"})})
    verdict = Verdict(Effect.HOLD, (Reason("p", "r", Effect.HOLD, "ask"),), approval)
    record = json.loads(seal_decision(pending(verdict=verdict), salt=SALT).record)
    assert record["approval"] == {"anyOf": [{"group": "sre", "count": 2}], "groups": ["a", "b"]}


def test_reasons_are_recorded_in_the_form_they_always_had():
    verdict = Verdict(
        Effect.DENY, (Reason("p", "r", Effect.DENY, "no"), Reason("q", "s", Effect.ALLOW, "y", Mode.SHADOW))
    )
    record = seal_decision(pending(verdict=verdict), salt=SALT).record
    assert (
        b'"reasons":[{"policy":"p","rule":"r","effect":"deny","message":"no","mode":"enforce","clause":null},'
        b'{"policy":"q","rule":"s","effect":"allow","message":"y","mode":"shadow","clause":null}]'
    ) in record
    lifted = Verdict(Effect.ALLOW, (Reason("p", "r", Effect.DENY, "no", exception="e"),))
    record = seal_decision(pending(verdict=lifted), salt=SALT).record
    assert b'"mode":"enforce","clause":null,"exception":"e"}]' in record


def test_obligations_are_recorded_where_there_are_any():
    without = json.loads(seal_decision(pending(), salt=SALT).record)
    assert "obligations" not in without
    verdict = Verdict(Effect.ALLOW, VERDICT.reasons, None, (Obligation("p", "r", "k", {"a": [1, None]}),))
    record = json.loads(seal_decision(pending(verdict=verdict), salt=SALT).record)
    assert record["obligations"] == [{"policy": "p", "rule": "r", "key": "k", "value": {"a": [1, None]}}]


def test_what_is_no_json_is_a_defect_that_shows():
    verdict = Verdict(Effect.HOLD, (Reason("p", "r", Effect.HOLD, "ask"),), {"x": object()})
    with pytest.raises(TypeError):
        seal_decision(pending(verdict=verdict), salt=SALT)


@pytest.mark.parametrize("moment", [datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1)))])
def test_a_moment_is_in_utc(moment):
    with pytest.raises(ValueError, match="UTC"):
        form.timestamp(moment)


def test_a_moment_always_has_microseconds():
    assert form.timestamp(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01T00:00:00.000000Z"


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_salt_has_32_bytes(length):
    with pytest.raises(ValueError, match="salt"):
        seal_decision(pending(), salt=bytes(length))


def test_digests_of_different_things_differ_for_the_same_content():
    content = b'["jwt","x"]'
    assert (
        len(
            {
                form._salted(prefix, SALT, content)
                for prefix in (form.RECORD_PREFIX, form.PRINCIPAL_PREFIX, form.SUBJECT_PREFIX)
            }
        )
        == 3
    )


@pytest.mark.parametrize("kind", [kind for kind in EntryKind if kind is not EntryKind.DECISION])
def test_every_other_kind_has_the_same_envelope(kind):
    sealed = seal(
        kind, id=UUID(int=9), at=NOW, principal=WHO, members={"policy_set": DIGEST}, record={"why": "so"}, salt=SALT
    )
    members = parse(sealed.receipt)
    assert members["kind"] == kind
    assert members["policy_set"] == DIGEST
    assert members["record"] == form.record_digest(SALT, sealed.record)
    record = json.loads(sealed.record)
    assert record["why"] == "so"
    assert record["now"] == members["at"]
    assert sealed.kind is kind


def test_a_receipt_beyond_its_limit_is_refused():
    with pytest.raises(FirewallError) as caught:
        seal(EntryKind.VOTE, id=UUID(int=9), at=NOW, principal=WHO, members={"x": "y" * 4096}, record={}, salt=SALT)
    assert caught.value.kind is Kind.TOO_LARGE


def test_a_member_of_the_envelope_cannot_be_given_twice():
    with pytest.raises(ValueError, match="envelope"):
        build(EntryKind.VOTE, id="x", at="y", principal=DIGEST, record=DIGEST, members={"kind": "decision"})


GOOD = seal_decision(pending(), salt=SALT).receipt


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        GOOD + b" ",
        GOOD.replace(b'"at"', b'"au"'),
        GOOD.replace(b'"version":1', b'"version":2'),
        GOOD.replace(b'"kind":"decision"', b'"kind":"other"'),
        GOOD.replace(b'"kind":"decision"', b'"kind":7'),
        GOOD.replace(b'"kind":"decision"', b'"kind":[]'),
        GOOD.replace(b'"rule":"r",', b""),
        GOOD.replace(b'"version":1', b'"version":1,"w":"' + b"x" * 4096 + b'"'),
        b"[" * 5000,
    ],
)
def test_what_is_no_receipt_is_refused(bad):
    with pytest.raises(FirewallError) as caught:
        parse(bad)
    assert caught.value.kind is Kind.MALFORMED


@given(st.binary(max_size=200))
def test_any_bytes_are_judged(content):
    with pytest.raises(FirewallError):
        parse(content)


def test_what_admission_policies_say_is_recorded_where_they_say_anything():
    without = json.loads(seal_decision(pending(), salt=SALT).record)
    assert not {"warnings", "annotations"} & without.keys()
    reason = Reason("p", "validations[0]", Effect.DENY, "no", binding="b")
    verdict = Verdict(Effect.DENY, (reason,), warnings=("careful",), annotations={"p/k": "v"})
    record = seal_decision(pending(verdict=verdict), salt=SALT).record
    assert b'"mode":"enforce","clause":null,"binding":"b"}]' in record
    assert json.loads(record)["warnings"] == ["careful"]
    assert json.loads(record)["annotations"] == {"p/k": "v"}
    lifted = Verdict(Effect.ALLOW, (Reason("p", "v", Effect.DENY, "no", binding="b", exception="e"),))
    assert b'"binding":"b","exception":"e"}]' in seal_decision(pending(verdict=lifted), salt=SALT).record
