"""Replay: what agrees, and that every single thing that can be otherwise is found and named."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import orjson
import pytest

from app.core.batch import all_or_none
from app.core.budgets import Count
from app.core.canonical import canonical, digest
from app.core.cel import bind
from app.core.decide import decide
from app.core.normalise import digest as mutation_digest
from app.core.normalise import normalise
from app.core.principal import AccessScope, AuthMethod, Principal, PrincipalKind, Role
from app.core.record_masks import mask as hide
from app.core.switches import Switch, SwitchKind
from app.core.types import Effect, Mutation
from app.ledger.receipt import EntryKind, PendingDecision, record_digest, seal, seal_decision
from app.ledger.rows import Absent, Activated, LedgerRow
from app.policies.load import check_documents
from app.service.replay import (
    DIFFERENCES_SHOWN,
    SETS_MAX,
    Difference,
    Fault,
    PolicySets,
    Replayer,
    Result,
    Tally,
    Timeline,
    flip_order,
)

NOW = datetime(2026, 5, 6, 7, 8, 9, 123, tzinfo=UTC)
SALT = bytes(range(32))
WHO = Principal(
    "zoe", PrincipalKind.USER, frozenset({Role.AGENT}), AuthMethod.JWT, scopes=frozenset({AccessScope.READ})
)
NOBODY_IS_ABSENT = Absent()


def document(**spec):
    rules = [{"name": "yes", "effect": "allow", "when": "change.after.n < 3"}]
    return {
        "apiVersion": "mutationfirewall.io/v1",
        "kind": "MutationPolicy",
        "metadata": {"name": "p"},
        "spec": {"rules": rules, **spec},
    }


DOCUMENTS = [document(budgets=[{"name": "b", "per": "subject", "limit": 2, "window": "1h"}])]
CONTENT = canonical(DOCUMENTS)
_CHECKED = check_documents(DOCUMENTS).policy_set
assert _CHECKED is not None
SET = _CHECKED
OTHER = [document(rules=[{"name": "no", "effect": "deny", "message": "no"}])]


def mutation(n=1):
    return Mutation(
        subject={"type": "agent", "id": "a", "properties": {}},
        action={"name": "update", "properties": {}},
        resource={"type": "t", "id": "r", "properties": {}},
        change={"after": {"n": n, "f": 1.0}},
        context={"x": [1, None]},
        request_id="r-1",
        rationale="because",
    )


def row(asked=None, *, counters=None, switches=(), change=lambda verdict: verdict, at=NOW, **members):
    """An entry as the service makes it."""
    asked = asked or mutation()
    normalised = normalise(asked)
    counters = {("p", "b"): Count(0)} if counters is None else counters
    pending = {
        "id": UUID("019b7d6a-1b2c-7000-8000-000000000001"),
        "decided_at": at,
        "principal": WHO,
        "mutation": asked,
        "mutation_digest": normalised.digest,
        "policy_set": SET.digest,
        "verdict": change(decide(SET, normalised, at, counters, switches)),
        "engine": "e",
        "sent": normalised.sent,
        "switches": switches,
        **members,
    }
    return stored(seal_decision(PendingDecision(**pending), salt=SALT))


def stored(sealed):
    return LedgerRow(5, sealed.id, sealed.kind.value, NOW, sealed.receipt, sealed.salt, sealed.record)


def replayer(*, timeline=(), absent=NOBODY_IS_ABSENT, **more):
    return Replayer(sets=PolicySets({SET.digest: SET}), timeline=Timeline(timeline), absent=absent, **more)


def difference(one, **more):
    used = replayer(**more)
    assert used.take(one) is None
    assert used.tally.results == {Result.DIFFERS: 1}, used.tally
    return used.tally.differences[0]


def result(one, **more):
    used = replayer(**more)
    assert used.take(one) is None
    assert used.tally.differences == []
    (found,) = used.tally.results
    return found


def rewritten(one, **members):
    """The record with other members, and a receipt that fits it: what somebody who can seal could have written."""
    record = orjson.loads(one.record) | members
    return with_record(one, {name: value for name, value in record.items() if value is not ...})


def with_record(one, record):
    content = record if isinstance(record, bytes) else orjson.dumps(record, option=orjson.OPT_SORT_KEYS)
    receipt = orjson.loads(one.receipt) | {"record": record_digest(SALT, content)}
    return one._replace(record=content, receipt=canonical(receipt))


def named(found):
    return [one.name for one in found.members]


@pytest.mark.parametrize(
    "one",
    [
        row(),
        row(mutation(5)),
        row(mutation("x")),
        row(counters={("p", "b"): Count(2)}),
        row(switches=(Switch("s", SwitchKind.DENY_SUBJECT, "a"),)),
        row(switches=(Switch("s", SwitchKind.SHADOW, "p", NOW + timedelta(hours=1)),)),
        row(at=NOW.replace(microsecond=0)),
        row(sent=None),
    ],
    ids=["allow", "default", "error", "exhausted", "switch", "shadow", "whole-second", "by-members"],
)
def test_what_the_service_recorded_agrees(one):
    assert result(one) is Result.AGREES


@pytest.mark.parametrize("others", [{1: None}, {1: Effect.DENY}, {1: Effect.HOLD, 2: Effect.DENY}])
def test_an_allow_that_its_batch_denied_agrees(others):
    def change(verdict):
        decided = {place: verdict._replace(effect=effect) for place, effect in others.items() if effect}
        barring = [place for place, effect in others.items() if effect is None]
        return all_or_none({0: verdict, **decided}, barring=barring)[0]

    assert result(row(change=change)) is Result.AGREES


def test_what_the_policies_allow_is_not_denied_by_a_batch_that_says_something_else():
    forged = row(change=lambda verdict: all_or_none({0: verdict}, barring=[1])[0])
    record = orjson.loads(forged.record)
    record["reasons"][0]["message"] = "all or none: because I say so"
    found = difference(with_record(forged, record))
    assert (found.fault, found.flip) == (Fault.VERDICT, ("deny", "allow"))


def test_what_the_policies_deny_needs_no_batch():
    forged = row(mutation(9))
    batch = {"policy": "mutation-firewall", "rule": "batch-not-allowed", "effect": "deny", "message": "m"}
    record = orjson.loads(forged.record)
    assert difference(rewritten(forged, reasons=[batch, *record["reasons"]])).fault is Fault.VERDICT


def test_every_byte_of_receipt_record_and_salt_counts():
    one = row()
    for member in ("receipt", "record", "salt"):
        content = getattr(one, member)
        for at in range(0, len(content), 5):
            changed = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
            used = replayer()
            wanted = used.take(one._replace(**{member: changed}))
            # The name of a set that nobody has is asked for, and then found missing.
            assert wanted != SET.digest
            assert used.tally.results == ({Result.DIFFERS: 1} if wanted is None else {}), (member, at)


def test_columns_that_say_something_else():
    other = UUID(int=7)
    found = difference(row()._replace(id=other, kind="vote"))
    assert found.fault is Fault.RECEIPT
    assert [tuple(one) for one in found.members] == [
        ("id", str(other), str(row().id)),
        ("kind", "vote", "decision"),
    ]


@pytest.mark.parametrize(
    ("members", "fault", "names"),
    [
        ({"decision": "deny"}, Fault.VERDICT, ["decision"]),
        ({"reasons": [{"policy": "q", "rule": "r", "effect": "allow"}]}, Fault.VERDICT, ["reasons"]),
        ({"approval": {"anyOf": []}}, Fault.VERDICT, ["approval"]),
        ({"obligations": [{"key": "k"}]}, Fault.VERDICT, ["obligations"]),
        ({"warnings": ["w"]}, Fault.VERDICT, ["warnings"]),
        ({"annotations": {"a": "b"}}, Fault.VERDICT, ["annotations"]),
        ({"budgets": ...}, Fault.VERDICT, ["decision", "reasons"]),
        ({"mutation": "sha256:" + "0" * 64}, Fault.INPUT, ["mutation"]),
        ({"approved_by": "somebody"}, Fault.SEAL, ["approved_by"]),
        ({"input": {"subject": {}}}, Fault.RECORD, []),
        ({"input": {**orjson.loads(row().record)["input"], "change": {"diff": 1}}}, Fault.INPUT, []),
        ({"switches": [{"id": "s", "kind": "party"}]}, Fault.INPUT, []),
        ({"version": 2}, Fault.RECORD, []),
        ({"engine": ...}, Fault.RECORD, []),
        ({"principal": {"id": "zoe"}}, Fault.RECORD, []),
    ],
)
def test_a_record_that_says_something_else(members, fault, names):
    found = difference(rewritten(row(), **members))
    assert (found.fault, named(found)) == (fault, names), found


def test_another_input_is_another_digest():
    found = difference(rewritten(row(), input=orjson.loads(row(mutation(9)).record)["input"]))
    assert (found.fault, found.flip) == (Fault.INPUT, ("allow", "deny"))


def test_a_receipt_of_another_decision():
    one = row()
    receipt = orjson.loads(one.receipt) | {"rule": "another"}
    found = difference(one._replace(receipt=canonical(receipt)))
    assert (found.fault, named(found)) == (Fault.SEAL, ["rule"])


def test_a_record_with_the_same_members_in_another_order():
    found = difference(with_record(row(), orjson.dumps(dict(reversed(orjson.loads(row().record).items())))))
    assert (found.fault, named(found)) == (Fault.SEAL, ["record"])


@pytest.mark.parametrize("content", [b"{", b"[]"])
def test_a_record_that_is_none(content):
    assert difference(with_record(row(), content)).fault is Fault.RECORD


def test_long_values_are_cut_short():
    found = difference(rewritten(row(), rationale=["x" * 1000], warnings=["y" * 1000]))
    assert [len(one.recorded) for one in found.members] == [400]


def masking(*pointers):
    """A set with a mask, and an entry that was recorded under it."""
    mask = {
        "apiVersion": "mutationfirewall.io/v1",
        "kind": "RecordMask",
        "metadata": {"name": "m"},
        "spec": {"masks": [{"pointer": one} for one in pointers]},
    }
    under = check_documents([*DOCUMENTS, mask]).policy_set
    assert under is not None
    asked = mutation()
    masked = hide(under.masks, asked, bind(normalise(asked).inputs, now=NOW), lambda *_: "")
    assert masked is not None
    verdict = decide(under, normalise(asked), NOW, {("p", "b"): Count(0)}, ())
    one = row(
        policy_set=under.digest,
        masked=masked,
        mutation_digest=mutation_digest(masked.mutation),
        change=lambda _: verdict,
    )
    return {"sets": PolicySets({under.digest: under})}, one


def outcome(under, one):
    """What became of an entry, and the fault if it differs."""
    used = Replayer(**under, timeline=Timeline(()), absent=NOBODY_IS_ABSENT)
    assert used.take(one) is None
    return next(iter(used.tally.faults), None) or next(iter(used.tally.results))


def test_a_masked_record_agrees_or_cannot_be_told():
    assert outcome(*masking("/context/x", "/rationale")) is Result.AGREES
    assert outcome(*masking("/change/after/n")) is Result.MASKED
    under, one = masking("/change/after/n")
    unreadable = {**orjson.loads(one.record)["input"], "change": {"diff": "***"}}
    told = mutation_digest(Mutation(**unreadable, request_id=None, rationale=None))
    places = [{"pointer": "/change/diff", "mask": "m"}]
    one = rewritten(one, input=unreadable, masked=places, mutation=told)
    one = one._replace(receipt=canonical(orjson.loads(one.receipt) | {"mutation": told}))
    assert outcome(under, one) is Result.MASKED


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"masked": []}, Fault.RECORD),
        ({"masked": [{"pointer": "/context/x", "mask": "another"}]}, Fault.RECORD),
        ({"masked": [{"pointer": "/change/after/n", "mask": "m"}]}, Fault.RECORD),
        ({"masked": [{"pointer": "/context/y", "mask": "m"}]}, Fault.RECORD),
        ({"masked": [{"pointer": "context/x", "mask": "m"}]}, Fault.RECORD),
        ({"masked": [{"pointer": 7, "mask": "m"}]}, Fault.RECORD),
        ({"masked": True}, Fault.RECORD),
        ({"mutation": "sha256:" + "0" * 64}, Fault.INPUT),
        ({"decision": "deny"}, Fault.SEAL),
    ],
)
def test_a_mask_excuses_nothing_that_it_did_not_take(change, fault):
    under, one = masking("/context/x")
    assert outcome(under, rewritten(one, **change)) is fault


@pytest.mark.parametrize("member", ["decision", "policy", "mutation", "principal", "subject", "at"])
@pytest.mark.parametrize("pointer", ["/context/x", "/change/after/n"], ids=["agrees", "masked"])
def test_a_receipt_that_says_something_else_than_its_masked_record(pointer, member):
    under, one = masking(pointer)
    forged = canonical(orjson.loads(one.receipt) | {member: "deny" if member == "decision" else "x"})
    assert outcome(under, one._replace(receipt=forged)) is Fault.SEAL


def test_a_set_without_masks_hides_nothing():
    assert difference(rewritten(row(), masked=[{"pointer": "/rationale", "mask": "m"}], rationale="***")).fault is (
        Fault.RECORD
    )


def test_records_that_are_gone():
    gone = row()._replace(salt=None, record=None)
    assert result(gone, absent=Absent(erased={5: 9})) is Result.ERASED
    assert result(gone, absent=Absent(archived=((0, 5), (5, 6)))) is Result.ARCHIVED
    assert difference(gone, absent=Absent({4: 9}, ((0, 5),))).fault is Fault.RECORD_MISSING


def test_other_kinds_are_checked():
    sealed = seal(EntryKind.KEY, id=UUID(int=1), at=NOW, principal=WHO, members={"key": "k"}, record={}, salt=SALT)
    assert result(stored(sealed)) is Result.CHECKED
    assert difference(stored(sealed)._replace(record=b"{}")).fault is Fault.RECORD


@pytest.mark.parametrize("kind", [EntryKind.ACTIVATION, EntryKind.BREAK_GLASS])
def test_activations_are_those_that_are_listed(kind):
    sealed = seal(kind, id=UUID(int=1), at=NOW, principal=WHO, members={"policy_set": "s"}, record={}, salt=SALT)
    one = stored(sealed)
    assert result(one, timeline=[Activated(5, "s", NOW)]) is Result.CHECKED
    for timeline in ([], [Activated(4, "s", NOW)], [Activated(5, "other", NOW)]):
        assert difference(one, timeline=timeline).fault is Fault.ACTIVATION


def test_a_break_glass_of_something_else_is_no_activation():
    sealed = seal(EntryKind.BREAK_GLASS, id=UUID(int=1), at=NOW, principal=WHO, members={}, record={}, salt=SALT)
    assert result(stored(sealed)) is Result.CHECKED


def test_the_set_in_force():
    before = NOW - timedelta(seconds=10)
    ours, other = SET.digest, "sha256:" + "1" * 64
    assert result(row(), timeline=[Activated(9, other, NOW)]) is Result.AGREES  # nothing was activated yet
    assert result(row(), timeline=[Activated(1, other, before), Activated(4, ours, before)]) is Result.AGREES

    late = replayer(timeline=[Activated(1, ours, before), Activated(4, other, before)])
    assert late.take(row()) is None
    assert (late.tally.lagged, late.tally.lag_max) == (1, timedelta(seconds=10))
    # Decided before the activation that stands before it.
    early = replayer(timeline=[Activated(1, ours, before), Activated(4, other, NOW + timedelta(seconds=1))])
    assert early.take(row()) is None
    assert (early.tally.lagged, early.tally.lag_max) == (1, timedelta())

    timeline = [Activated(1, ours, before), Activated(4, other, before)]
    too_late = difference(row(), timeline=timeline, lag_max=timedelta(seconds=9))
    never = difference(row(), timeline=[Activated(1, other, before)])
    assert [too_late.fault, never.fault] == [Fault.NOT_IN_FORCE] * 2
    assert "0:00:10" in too_late.detail


def test_sets_are_asked_for_compiled_and_kept():
    sets = PolicySets()
    used = Replayer(sets=sets, timeline=Timeline(()), absent=NOBODY_IS_ABSENT)
    assert used.take(row()) == SET.digest
    assert used.tally.entries == 0
    sets.put(SET.digest, CONTENT)
    assert used.take(row()) is None
    assert used.tally.results == {Result.AGREES: 1}
    for number in range(SETS_MAX):
        sets.put(str(number), None)
    assert not sets.knows(SET.digest)
    # What cannot be decided needs no set.
    assert used.take(row()._replace(salt=None, record=None)) is None


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "is not there"), (canonical(OTHER), "another digest"), (b"[]", "has errors")],
)
def test_sets_that_cannot_be_had(content, words):
    name = digest([]) if content == b"[]" else SET.digest
    sets = PolicySets()
    sets.put(name, content)
    used = Replayer(sets=sets, timeline=Timeline(()), absent=NOBODY_IS_ABSENT)
    receipt = orjson.loads(row().receipt) | {"policy_set": name}
    assert used.take(row()._replace(receipt=canonical(receipt))) is None
    (found,) = used.tally.differences
    assert found.fault is Fault.POLICY_SET
    assert words in found.detail


def test_entries_that_are_missing():
    used = replayer()
    used.missing(3)
    assert (used.tally.differences[0].idx, used.tally.differences[0].fault) == (3, Fault.MISSING)


def test_the_worst_is_shown_first_and_the_list_is_bounded():
    one, other = Tally(), Tally()
    for idx in range(5 * DIFFERENCES_SHOWN):
        one.note(Difference(idx, "", Fault.SEAL, ""))
    assert len(one.differences) <= 2 * DIFFERENCES_SHOWN
    other.note(Difference(900, "", Fault.VERDICT, "", flip=("allow", "deny")))
    other.note(Difference(901, "", Fault.VERDICT, "", flip=("deny", "allow")))
    other.note(Difference(902, "", Fault.VERDICT, "", flip=("deny", "hold")))
    other.lagged, other.lag_max = 2, timedelta(seconds=3)
    one.add(other)
    assert [found.idx for found in one.differences[:4]] == [901, 900, 902, 0]
    assert len(one.differences) == DIFFERENCES_SHOWN
    assert (one.entries, one.agrees, one.lagged, one.lag_max) == (103, False, 2, timedelta(seconds=3))
    assert one.faults == {Fault.SEAL: 100, Fault.VERDICT: 3}
    assert min(one.flips, key=flip_order) == ("deny", "allow")
