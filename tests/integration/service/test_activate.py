"""Activation where something is not as it should be, and the way past the set in force."""

import secrets
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
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
from app.service.activate import ActivateService
from app.service.force import force

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
        self.engine = create_engine(dsn)
        self.store = PolicySetStore(self.engine)
        self.ledger = LedgerWriter(dsn)
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


@pytest.mark.parametrize("roles", [set(), {Role.REQUESTER, Role.OPERATOR, Role.AUDITOR, Role.APPROVER}])
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
