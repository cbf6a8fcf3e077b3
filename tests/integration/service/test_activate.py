"""Activation where something is not as it should be, and the way past the set in force."""

import secrets
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import orjson
import pytest

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
from app.policies.store import PolicySetStore
from app.service.activate import ActivateService
from app.service.force import force

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

    def __init__(self, dsn):
        self.engine = create_engine(dsn)
        self.store = PolicySetStore(self.engine)
        self.ledger = LedgerWriter(dsn)
        self.reader = LedgerReader(self.engine)
        self.source = DatabaseSource(self.store, connect=partial(connect, dsn), poll_seconds=600)
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
        )

    async def put(self, *documents):
        content = canonical(sorted(documents, key=canonical))
        name = digest(orjson.loads(content))
        await self.store.put(name, documents=content, policies=1, rules=1, created_by="test")
        return name

    async def activate(self, name, *, principal=ADMIN, reason="a test"):
        return await self.service.activate(name, principal=principal, reason=reason)

    async def force(self, name, *, reason="locked out"):
        return await force(
            name,
            store=self.store,
            operator="root",
            reason=reason,
            clock=partial(datetime.now, UTC),
            entropy=secrets.token_bytes,
            engine="mutation-firewall/test",
        )


@pytest.fixture
async def firewall(database_dsn):
    made = Firewall(database_dsn)
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
