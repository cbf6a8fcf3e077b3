"""Signatures over HTTP, with two replicas, and somebody who holds the database."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.core import dsse
from app.policies.load import check_documents
from app.policies.signatures import RequiredSigners, merged, sign
from tests.integration.service.conftest import apart, running

DATABASE = {"MFW_POLICIES__SOURCE": "database", "MFW_POLICIES__DIRECTORY": "", "MFW_POLICIES__POLL_SECONDS": "0.2"}
KEYS = {name: Ed25519PrivateKey.generate() for name in ("sre", "security", "stranger")}
PEMS = {
    name: KEYS[name].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    for name in ("sre", "security")
}
SIGNERS: dict[str, Any] = {**DATABASE, "MFW_POLICIES__SIGNERS": json.dumps(PEMS)}
KEYIDS = {one.name: one.keyid for one in RequiredSigners.of(PEMS).signers}


def named(name):
    return {
        "apiVersion": "mutationfirewall.io/v1",
        "kind": "MutationPolicy",
        "metadata": {"name": name},
        "spec": {"rules": [{"name": "allow", "effect": "allow"}]},
    }


def envelope(digest, *names):
    (made,) = merged(sign(digest, KEYS[name]) for name in names)
    return dsse.tree_of(made)


def admin(service):
    return service.client(key=service.admin_key)


def put(client, name):
    answer = client.post("/v1/policy-sets", json={"documents": [named(name)]})
    assert answer.status_code in {200, 201}, answer.text
    return answer.json()


def add(client, digest, *names):
    return client.post(f"/v1/policy-sets/{digest}/signatures", json=envelope(digest, *names))


def activate(client, digest):
    return client.post(f"/v1/policy-sets/{digest}/activate", json={"reason": "a test"})


def unsigned(stored):
    return [one for one in stored["diagnostics"] if one["code"] == "unsigned"]


def names(listed):
    return [one["name"] for one in listed]


@pytest.fixture(scope="module")
def service(shared_database_dsn):
    with running(shared_database_dsn, **SIGNERS) as started:
        yield started


def test_from_unsigned_to_in_force(database_dsn, serve):
    with serve(database_dsn, **SIGNERS) as service, admin(service) as client:
        stored = put(client, "a")
        digest = stored["digest"]
        (warning,) = unsigned(stored)
        assert (warning["code"], warning["severity"]) == ("unsigned", "warning")
        assert "cannot be activated yet" in warning["message"]
        assert stored["signatures"]["missing"] == [
            {"name": name, "keyid": KEYIDS[name]} for name in ("security", "sre")
        ]

        refused = activate(client, digest)
        assert refused.status_code == 403
        problem = refused.json()
        assert "0 of 2 required signatures" in problem["detail"]
        assert "mfw policies sign" in problem["fix"]
        assert names(problem["signatures"]["missing"]) == ["security", "sre"]
        assert service.entries() == []

        first = add(client, digest, "sre")
        assert first.status_code == 201
        assert names(first.json()["signed"]) == ["sre"]
        assert add(client, digest, "sre").status_code == 200
        assert "1 of 2" in activate(client, digest).json()["detail"]
        # Good ones count, whoever else signed.
        both = add(client, digest, "stranger", "sre", "security").json()
        assert (both["enough"], both["required"], both["missing"]) == (True, 2, [])
        assert [(one["name"], one["added_by"]) for one in both["stored"]] == [("sre", "test"), ("security", "test")]
        assert unsigned(put(client, "a")) == []

        made = activate(client, digest)
        assert made.status_code == 200, made.text
        active = client.get("/v1/policy-sets/active").json()
        assert active["signed_by"] == ["security", "sre"]
        assert client.get(f"/v1/policy-sets/{digest}").json()["signatures"]["enough"] is True
        wait_for(lambda: "signed by security, sre" in client.get("/health/detailed").text)

        # What comes back can be verified elsewhere.
        (kept,) = client.get(f"/v1/policy-sets/{digest}/signatures").json()["envelopes"]
        assert RequiredSigners.of(PEMS).verify(digest, [dsse.of_tree(kept)]).enough


def test_what_is_no_signature_of_this_set(service):
    with admin(service) as client:
        digest, other = put(client, "b")["digest"], put(client, "c")["digest"]
        path = f"/v1/policy-sets/{digest}/signatures"
        good = envelope(digest, "sre")
        not_ours = dsse.tree_of(dsse.Envelope("text/plain", b"hi", dsse.of_tree(good).signatures))
        for body, detail in (
            (envelope(other, "sre"), f"of `{other}`, not of this set"),
            (envelope(digest, "stranger"), "of a signer that this service knows"),
            (
                {**good, "signatures": [{"sig": envelope(other, "sre")["signatures"][0]["sig"]}]},
                "no signature is a good",
            ),
            (not_ours, "no statement about a policy set"),
        ):
            answer = client.post(path, json=body)
            assert answer.status_code == 422, answer.text
            assert answer.json()["type"].endswith("/invalid-signature")
            assert detail in answer.json()["detail"]
            assert answer.json()["fix"]
        for body, pointer in (({}, "/payloadType"), ([], ""), ({**good, "signatures": []}, "/signatures")):
            answer = client.post(path, json=body)
            assert (answer.status_code, answer.json()["pointer"]) == (400, pointer)
        assert client.post(path, content=b" " * 70_000, headers={"Content-Type": "application/json"}).status_code == 413
        missing = "sha256:" + "0" * 64
        assert add(client, missing, "sre").status_code == 404
        assert client.get(f"/v1/policy-sets/{missing}/signatures").status_code == 404
        assert client.get(path).json()["stored"] == []


def test_who_may_sign_and_look(service):
    with admin(service) as client:
        digest = put(client, "d")["digest"]
    with service.client() as requester, service.client(key=service.operator_key) as operator:
        assert add(requester, digest, "sre").status_code == 403
        assert add(operator, digest, "sre").status_code == 403
        assert requester.get(f"/v1/policy-sets/{digest}/signatures").status_code == 403
        assert operator.get(f"/v1/policy-sets/{digest}/signatures").status_code == 200


def test_nobody_is_known_who_could_sign(serve, database_dsn):
    with serve(database_dsn, **DATABASE) as service, admin(service) as client:
        stored = put(client, "a")
        assert unsigned(stored) == []
        assert stored["signatures"] == {"required": 0, "enough": True, "signed": [], "missing": []}
        answer = add(client, stored["digest"], "sre")
        assert answer.status_code == 422
        assert "MFW_POLICIES__SIGNERS" in answer.json()["fix"]
        assert activate(client, stored["digest"]).status_code == 200
        assert "signed_by" not in client.get("/v1/policy-sets/active").json()


def test_the_way_from_none_to_all(serve, database_dsn):
    """Signers are named and required step by step, and the set in force stays in force all the time."""
    with serve(database_dsn, **DATABASE) as service, admin(service) as client:
        digest = put(client, "a")["digest"]
        activate(client, digest)
    with serve(database_dsn, **SIGNERS, MFW_POLICIES__SIGNATURES_REQUIRED="0") as service, admin(service) as client:
        assert client.get("/v1/policy-sets/active").json()["signed_by"] == []
        assert add(client, digest, "sre", "security").status_code == 201
    with serve(database_dsn, **SIGNERS) as service, admin(service) as client:
        assert client.get("/v1/policy-sets/active").json()["signed_by"] == ["security", "sre"]


def test_somebody_who_holds_the_database(serve, database_dsn):
    with (
        serve(database_dsn, **SIGNERS) as one,
        serve(database_dsn, **SIGNERS, MFW_METRICS__ENABLED="false", MFW_POLICIES__MAX_LAG_SECONDS="600") as two,
        admin(one) as client,
        admin(two) as other,
    ):
        digest = put(client, "a")["digest"]
        add(client, digest, "sre", "security")
        assert activate(client, digest).status_code == 200
        wait_for(lambda: other.get("/v1/policy-sets/active").json().get("digest") == digest)

        forged = by_hand(database_dsn, named("forged"), previous=digest)
        wait_for(lambda: "required signatures" in other.get("/health/detailed").text)
        for replica in (client, other):
            assert replica.get("/v1/policy-sets/active").json()["digest"] == digest
        assert other.get("/health").json()["status"] == "degraded"
        # Nor does anything that comes after it: only a set that is signed, past this one.
        assert activate(client, forged).status_code in {403, 503}
        assert "forged" not in client.get("/v1/policy-sets/active").text


def test_a_set_in_force_that_is_not_what_was_signed(serve, database_dsn):
    """The database's own check is out of the way: the documents are others than those of the digest."""
    with serve(database_dsn, **SIGNERS) as service, admin(service) as client:
        digest = put(client, "a")["digest"]
        add(client, digest, "sre", "security")
        tamper(database_dsn, digest, check_documents([named("evil")]).content)
        assert activate(client, digest).status_code == 503
        assert client.get("/v1/policy-sets/active").status_code == 404
        force_by_hand(database_dsn, digest, previous=None)
        wait_for(lambda: "has another digest" in client.get("/health/detailed").text)
        assert client.get("/v1/policy-sets/active").status_code == 404


def wait_for(condition, *, seconds=60.0):
    import time

    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def by_hand(dsn, document, *, previous):
    """Store a set and put it into force, as whoever may write to the tables can."""
    checked = check_documents([document])
    assert checked.policy_set is not None
    digest = checked.policy_set.digest

    async def insert():
        connection = await asyncpg.connect(dsn)
        await connection.execute(
            "INSERT INTO policy_sets (digest, documents, policies, rules, created_by) VALUES ($1, $2, 1, 1, 'x')",
            digest,
            checked.content,
        )
        await connection.close()

    apart(insert())
    force_by_hand(dsn, digest, previous=previous)
    return digest


def force_by_hand(dsn, digest, *, previous):
    async def insert():
        connection = await asyncpg.connect(dsn)
        await connection.execute(
            "INSERT INTO policy_set_activations (sequence, digest, previous, reason, activated_by, activated_at,"
            " ledger_id, ledger_index)"
            " SELECT coalesce(max(sequence), 0) + 1, $1, $2, 'x', 'x', $3, $4, 0 FROM policy_set_activations",
            digest,
            previous,
            datetime.now(UTC),
            uuid4(),
        )
        await connection.close()

    apart(insert())


def tamper(dsn, digest, content):
    async def update():
        connection = await asyncpg.connect(dsn)
        await connection.execute("ALTER TABLE policy_sets DISABLE TRIGGER append_only")
        await connection.execute("ALTER TABLE policy_sets DROP CONSTRAINT policy_sets_digest_check")
        await connection.execute("UPDATE policy_sets SET documents = $2 WHERE digest = $1", digest, content)
        await connection.close()

    apart(update())
