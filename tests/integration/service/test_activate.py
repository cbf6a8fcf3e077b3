"""Activation where something is not as it should be, and the way past the set in force."""

import secrets
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.core.canonical import canonical, digest
from app.core.principal import AuthMethod, Principal, PrincipalKind, Role
from app.core.types import Effect
from app.errors import FirewallError, Kind
from app.ledger.append import LedgerWriter
from app.ledger.read import LedgerReader
from app.ledger.receipt import EntryKind
from app.persistence.engine import connect, create_engine
from app.policies.distribute import DatabaseSource
from app.policies.load import check_documents
from app.policies.signatures import NOBODY, RequiredSigners, sign
from app.policies.store import PolicySetStore
from app.service.activate import ActivateService, _by_name, _counts
from app.service.force import force
from tests.integration.service.budgeted import PATIENT

KEYS = {name: Ed25519PrivateKey.generate() for name in ("sre", "security")}
PEMS = {
    name: key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    for name, key in KEYS.items()
}
ADMIN = Principal("ops", PrincipalKind.USER, frozenset({Role.ADMIN}), AuthMethod.JWT)


def document(name, **spec):
    return {
        "apiVersion": "mutationfirewall.io/v1",
        "kind": "MutationPolicy",
        "metadata": {"name": name},
        "spec": {"rules": [{"name": "allow", "effect": "allow"}], **spec},
    }


class Firewall:
    """The parts that take part, on one database."""

    def __init__(self, dsn, signers=NOBODY):
        self.signers = signers
        self.engine = create_engine(dsn, connect_timeout=PATIENT, statement_timeout=PATIENT)
        self.store = PolicySetStore(self.engine)
        self.ledger = LedgerWriter(dsn, deadline=PATIENT, connect_timeout=PATIENT, statement_timeout=PATIENT)
        self.reader = LedgerReader(self.engine)
        self.source = DatabaseSource(self.store, connect=partial(connect, dsn), poll_seconds=600, signers=signers)
        self.counted: list[Effect] = []
        self.service = ActivateService(
            self.store,
            source=self.source,
            follows=True,
            ledger=self.ledger,
            clock=partial(datetime.now, UTC),
            entropy=secrets.token_bytes,
            engine="mutation-firewall/test",
            counted=self.counted.append,
            signers=signers,
        )

    async def put(self, *documents):
        content = canonical(sorted(documents, key=canonical))
        name = digest(orjson.loads(content))
        await self.store.put(name, documents=content, policies=1, rules=1, created_by="test")
        return name

    async def activate(self, name, *, principal=ADMIN, reason="a test"):
        return await self.service.activate(name, principal=principal, reason=reason)

    async def sign(self, name, *keys):
        await self.store.sign(name, [sign(name, KEYS[key]) for key in keys], added_by="test")

    async def record(self, index):
        return orjson.loads((await self.reader.get(index)).record or b"")

    async def force(self, name, *, reason="locked out", **more):
        return await force(
            name,
            store=self.store,
            operator="root",
            reason=reason,
            clock=partial(datetime.now, UTC),
            entropy=secrets.token_bytes,
            engine="mutation-firewall/test",
            signers=self.signers,
            **more,
        )


@pytest.fixture
async def firewall(database_dsn):
    async with _started(Firewall(database_dsn)) as made:
        yield made


@pytest.fixture
async def strict(database_dsn):
    """One that requires two signatures."""
    async with _started(Firewall(database_dsn, RequiredSigners.of(PEMS))) as made:
        yield made


@asynccontextmanager
async def _started(made):
    await made.ledger.start()
    await made.source.start()
    yield made
    await made.source.stop()
    await made.ledger.stop()
    await made.engine.dispose()


async def refused(awaitable):
    with pytest.raises(FirewallError) as caught:
        await awaitable
    return caught.value


async def test_the_record_replays(firewall):
    first, second = await firewall.put(document("a")), await firewall.put(document("a"), document("b"))
    await firewall.activate(first)
    made = await firewall.activate(second, reason="because")
    entry = await firewall.reader.get(made.activation.ledger_index)
    decision = await firewall.reader.get(made.activation.ledger_index - 1)
    assert (entry.kind, entry.id) == (EntryKind.ACTIVATION, made.activation.ledger_id)
    assert orjson.loads(entry.record or b"")["reason"] == "because"
    record = orjson.loads(decision.record or b"")
    assert record["policy_set"] == first
    assert record["input"]["subject"] == {
        "type": "user",
        "id": "ops",
        "properties": {"roles": ["admin"], "method": "jwt"},
    }
    assert record["input"]["change"]["after"] == {
        "digest": second,
        "policies": 2,
        "exceptions": 0,
        "added": ["b"],
        "removed": [],
        "changed": [],
    }
    assert record["input"]["context"] == {"surface": "policy-sets", "rollback": False}
    assert [effect.value for effect in firewall.counted] == ["allow"]
    back = await firewall.activate(first)
    record = orjson.loads((await firewall.reader.get(back.activation.ledger_index - 1)).record or b"")
    assert record["input"]["context"]["rollback"] is True
    assert record["input"]["change"]["after"]["removed"] == ["b"]
    assert (await firewall.reader.verify_gapless()).whole


async def test_exceptions_show_in_what_is_judged(firewall):
    exception: dict[str, Any] = {
        "apiVersion": "mutationfirewall.io/v1",
        "kind": "PolicyException",
        "metadata": {"name": "a"},
        "spec": {
            "owner": "o",
            "reason": "r",
            "validUntil": "2026-04-01T00:00:00Z",
            "policies": [{"name": "a"}],
        },
    }
    longer = {**exception, "spec": {**exception["spec"], "validUntil": "2026-05-01T00:00:00Z"}}
    first = await firewall.put(document("a"))
    await firewall.activate(first)
    for added, name in ((["PolicyException/a"], exception), ([], longer)):
        made = await firewall.activate(await firewall.put(document("a"), name))
        change = (await firewall.record(made.activation.ledger_index - 1))["input"]["change"]
        assert (change["after"]["policies"], change["after"]["exceptions"]) == (1, 1)
        assert (change["after"]["added"], change["before"]["exceptions"]) == (added, 0 if added else 1)
        assert change["after"]["changed"] == ([] if added else ["PolicyException/a"])
    assert len(firewall.source.in_force.policy_set.exceptions) == 1


def test_no_two_documents_have_one_name():
    names = [
        ("mutationfirewall.io/v1", "MutationPolicy", {"name": "a"}),
        ("mutationfirewall.io/v1", "PolicyException", {"name": "a"}),
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy", {"name": "b"}),
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding", {"name": "b"}),
        ("v1", "ConfigMap", {"name": "a"}),
        ("v1", "ConfigMap", {"name": "a", "namespace": "n"}),
        ("rules.example.com/v1", "ConfigMap", {"name": "a"}),
    ]
    documents: list[Any] = [
        {"apiVersion": version, "kind": kind, "metadata": metadata} for version, kind, metadata in names
    ]
    assert list(_by_name(documents)) == [
        "a",
        "PolicyException/a",
        "b",
        "ValidatingAdmissionPolicyBinding/b",
        "v1/ConfigMap//a",
        "v1/ConfigMap/n/a",
        "rules.example.com/v1/ConfigMap//a",
    ]
    assert _counts(_by_name(documents)) == {"policies": 2, "exceptions": 1}


async def test_only_the_set_in_force_judges(firewall):
    first = await firewall.put(document("a"))
    await firewall.activate(first)
    # In force by another release, and beyond this one.
    later = await firewall.put(document("later", unheard=True))
    await firewall.store.activate(
        later,
        previous=first,
        reason="a later release",
        activated_by="test",
        activated_at=datetime.now(UTC),
        ledger_id=UUID(int=1),
        append=nothing,
    )
    error = await refused(firewall.activate(first))
    assert (error.kind, error.retry_after) == (Kind.UNAVAILABLE, 1)
    assert firewall.source.current().digest == first


async def nothing(_connection):
    return 0


async def test_a_set_that_has_errors_here_is_not_activated(firewall):
    broken = await firewall.put(document("later", unheard=True))
    assert (await refused(firewall.activate(broken))).kind is Kind.CONFLICT
    assert (await refused(firewall.force(broken))).kind is Kind.CONFLICT
    assert await firewall.reader.size() == 0


@pytest.mark.parametrize("roles", [set(), {Role.AGENT, Role.OPERATOR, Role.VIEWER, Role.APPROVER}])
async def test_the_role_is_needed_whatever_is_in_force(firewall, roles):
    name = await firewall.put(document("a"))
    other = Principal("someone", PrincipalKind.USER, frozenset(roles), AuthMethod.JWT)
    assert (await refused(firewall.activate(name, principal=other))).kind is Kind.FORBIDDEN


async def test_past_the_set_in_force(firewall):
    locked = document("locked", rules=[{"name": "no", "effect": "deny", "message": "no"}])
    first, second = await firewall.put(locked), await firewall.put(document("b"))
    assert (await firewall.force(first)).previous is None
    assert (await refused(firewall.activate(second))).kind is Kind.FORBIDDEN
    assert [effect.value for effect in firewall.counted] == ["deny"]
    made = await firewall.force(second)
    assert (made.previous, made.sequence, made.activated_by) == (first, 2, "root")
    entry = await firewall.reader.get(made.ledger_index)
    assert entry.kind is EntryKind.BREAK_GLASS
    record = orjson.loads(entry.record or b"")
    assert (record["reason"], record["act"]) == ("locked out", "activate-policy-set")
    assert (await refused(firewall.force("sha256:" + "0" * 64))).kind is Kind.NOT_FOUND
    assert (await refused(firewall.force(second, reason=" "))).kind is Kind.MALFORMED


def test_the_name_of_a_set_here_is_that_of_the_loader():
    checked = check_documents([document("a")])
    assert checked.policy_set is not None
    assert checked.policy_set.digest == digest([document("a")])


async def test_activations_have_budgets_as_well(firewall):
    budget = {"name": "a-day", "per": "resource", "limit": 1, "window": "24h", "message": "once is enough"}
    limits = document("limits", budgets=[budget])
    first, second = await firewall.put(limits), await firewall.put(limits, document("b"))
    await firewall.activate(first)
    made = await firewall.activate(second)
    entry = await firewall.reader.get(made.activation.ledger_index - 1)
    assert str(entry.id) == made.decision_id
    assert orjson.loads(entry.record or b"")["budgets"] == [{"policy": "limits", "budget": "a-day", "used": 0}]
    assert (await firewall.activate(first)).created
    # The second time for the same set.
    error = await refused(firewall.activate(second))
    assert error.kind is Kind.FORBIDDEN
    assert "once is enough (1 of 1 used in 24h)" in error.detail
    assert firewall.source.current().digest == first
    denied = await firewall.reader.get(await firewall.reader.size() - 1)
    assert orjson.loads(denied.record or b"")["budgets"] == [{"policy": "limits", "budget": "a-day", "used": 1}]
    assert [effect.value for effect in firewall.counted] == ["allow", "allow", "deny"]
    assert (await firewall.reader.verify_gapless()).whole


async def test_an_activation_that_another_overtook_uses_no_budget(firewall, database_dsn):
    limits = document("limits", budgets=[{"name": "b", "per": "subject", "limit": 5, "window": "24h"}])
    first, second = await firewall.put(limits), await firewall.put(limits, document("b"))
    await firewall.activate(first)
    was_active = firewall.store.was_active

    async def overtaken(digest):
        await firewall.force(second)
        return await was_active(digest)

    firewall.store.was_active = overtaken
    assert (await refused(firewall.activate(second))).kind is Kind.CONFLICT
    connection = await connect(database_dsn)
    assert await connection.fetchval("SELECT count(*) FROM budget_uses") == 0
    await connection.close()


def keyids(*names):
    return sorted(RequiredSigners.of({name: PEMS[name]}).signers[0].keyid for name in names)


async def test_without_signatures_nothing_comes_into_force(strict):
    first = await strict.put(document("a"))
    for so_far, missing in (((), {"sre", "security"}), (("sre",), {"security"})):
        await strict.sign(first, *so_far)
        error = await refused(strict.activate(first))
        assert error.kind is Kind.FORBIDDEN
        assert "required signatures" in error.detail
        assert "mfw policies sign" in error.fix
        assert error.extra["signatures"]["enough"] is False
        assert {one["name"] for one in error.extra["signatures"]["missing"]} == missing
    assert await strict.reader.size() == 0
    assert strict.source.in_force is None

    await strict.sign(first, "security")
    made = await strict.activate(first)
    assert strict.source.current().digest == first
    # Who signed is in the record, under the names that no settings can change.
    assert sorted((await strict.record(made.activation.ledger_index))["signers"]) == keyids("sre", "security")
    receipt = orjson.loads((await strict.reader.get(made.activation.ledger_index)).receipt)
    assert receipt.keys() == {"at", "id", "kind", "policy_set", "principal", "record", "version"}


async def test_the_set_in_force_sees_who_signed(strict):
    judge = document(
        "judge",
        rules=[
            {"name": "signed", "effect": "allow", "when": "'security' in change.after.signers"},
            {"name": "other", "effect": "deny", "when": "!('security' in change.after.signers)", "message": "no"},
        ],
    )
    first, second = await strict.put(judge), await strict.put(judge, document("b"))
    for name in (first, second):
        await strict.sign(name, "sre", "security")
    await strict.activate(first)
    made = await strict.activate(second)
    decision = await strict.record(made.activation.ledger_index - 1)
    assert decision["input"]["change"]["after"]["signers"] == ["security", "sre"]


async def test_without_signers_nothing_changes(firewall):
    first, second = await firewall.put(document("a")), await firewall.put(document("b"))
    await firewall.sign(second, "sre")
    await firewall.activate(first)
    made = await firewall.activate(second)
    assert "signers" not in await firewall.record(made.activation.ledger_index)
    assert "signers" not in (await firewall.record(made.activation.ledger_index - 1))["input"]["change"]["after"]


async def test_a_way_back_needs_signatures_too(strict, database_dsn):
    unsigned = await strict.put(document("a"))
    # From the time before signatures were required.
    async with _started(Firewall(database_dsn)) as before:
        await before.activate(unsigned)
    signed = await strict.put(document("b"))
    await strict.sign(signed, "sre", "security")
    await strict.source.refresh()
    # The set in force is not one that this replica takes, so nobody may judge here; only the glass can be broken.
    assert (await refused(strict.activate(signed))).kind is Kind.UNAVAILABLE
    await strict.force(signed)
    await strict.source.refresh()
    assert strict.source.current().digest == signed
    assert (await refused(strict.activate(unsigned))).kind is Kind.FORBIDDEN


async def test_breaking_the_glass_takes_signatures(strict):
    first, second = await strict.put(document("a")), await strict.put(document("b"))
    error = await refused(strict.force(first))
    assert error.kind is Kind.INVALID_SIGNATURE
    assert "--unsafe-unsigned" in error.fix
    await strict.sign(first, "sre", "security")
    made = await strict.force(first)
    record = await strict.record(made.ledger_index)
    assert sorted(record["signers"]) == keyids("sre", "security")
    assert "unsigned" not in record

    # Without them it is written down, and no replica that requires them follows.
    await strict.source.refresh()
    await strict.sign(second, "sre")
    made = await strict.force(second, unsafe_unsigned=True)
    record = await strict.record(made.ledger_index)
    assert (record["unsigned"], record["missing_signers"], record["signers"]) == (
        True,
        keyids("security"),
        keyids("sre"),
    )
    await strict.source.refresh()
    assert strict.source.current().digest == first
    assert "1 of 2 required signatures" in strict.source.report().detail
