"""Deriving decisions again: from its record and its policy set each one comes out as it is recorded, byte for byte.

For each entry, in this order:

    (1) receipt   it is one, and says the same as the entry's columns
    (2) record    it is what the receipt's salted digest is of; or it is gone, and rightly so
    (3) in force  the set that judged was the one that the activations before this entry put into force
    (4) decide    steps 5 to 8 again, with the inputs that the record has: `now`, budgets, switches
    (5) seal      step 9 again; receipt and record have to be the same bytes

Nothing is taken from the record but inputs, with one exception: what an atomic batch says of its *other* mutations.
Entries of other kinds end after (2).
"""

import re
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson

from app.core import pointer
from app.core.batch import BATCH_NOT_ALLOWED
from app.core.budgets import from_record as counters_from_record
from app.core.decide import FIREWALL, decide
from app.core.index import CompiledPolicySet
from app.core.masking import MASK
from app.core.normalise import digest, normalise
from app.core.principal import AccessScope, AuthMethod, Principal, PrincipalKind, Role
from app.core.switches import from_record as switches_from_record
from app.core.types import Effect, JsonObject, Mode, Mutation, NormalisedMutation, Reason, Verdict
from app.errors import FirewallError, Kind
from app.ledger.receipt import (
    RECORD_VERSION,
    EntryKind,
    PendingDecision,
    SealedEntry,
    build_decision,
    parse,
    principal_digest,
    record_digest,
    seal_decision,
    subject_digest,
)
from app.ledger.rows import Absent, Activated, LedgerRow
from app.policies.load import check_documents
from app.policies.store import documents_of

# Compiled sets that are kept: a ledger goes back and forth between a few at most.
SETS_MAX: Final = 8
# A replica that is 30 s behind turns unready (MFW_POLICIES__MAX_LAG_SECONDS), and an append takes 5 s at most.
LAG_MAX: Final = timedelta(seconds=60)
# A report is for a person; the counts are complete, the list is not.
DIFFERENCES_SHOWN: Final = 20
_SHOWN_MAX_CHARS: Final = 400

_BATCH_MESSAGE: Final = re.compile(
    r"all or none: mutation \d+ of this batch (?:is (?:deny|hold)|cannot be read or asked)"
    r"(?:, and [1-9]\d* more are not allowed)?"
)


class Fault(StrEnum):
    """In which step an entry came out otherwise than it is recorded."""

    RECEIPT = "receipt"
    RECORD = "record"
    RECORD_MISSING = "record-missing"
    POLICY_SET = "policy-set"
    NOT_IN_FORCE = "not-in-force"
    ACTIVATION = "activation"
    INPUT = "input"
    VERDICT = "verdict"
    SEAL = "seal"
    MISSING = "missing"


class Result(StrEnum):
    """What became of one entry; every entry has exactly one."""

    AGREES = "agrees"
    DIFFERS = "differs"
    MASKED = "masked"  # it does not agree, and its record lacks values that a mask took out
    ERASED = "erased"
    ARCHIVED = "archived"
    CHECKED = "checked"  # of another kind than a decision: receipt and record fit


class Member(NamedTuple):
    """One member of a record or a receipt, as it is recorded and as it came out again."""

    name: str
    recorded: str
    derived: str


@dataclass(frozen=True, slots=True)
class Difference:
    """One entry that did not come out as it is recorded; `flip` where the decision itself is another one."""

    idx: int
    id: str
    fault: Fault
    detail: str
    members: tuple[Member, ...] = ()
    flip: tuple[str, str] | None = None


@dataclass(slots=True)
class Tally:
    """What replaying some entries found. `flips` are from the recorded decision to the one that came out."""

    results: Counter[Result] = field(default_factory=Counter)
    faults: Counter[Fault] = field(default_factory=Counter)
    flips: Counter[tuple[str, str]] = field(default_factory=Counter)
    engines: Counter[str] = field(default_factory=Counter)
    lagged: int = 0
    lag_max: timedelta = timedelta()
    differences: list[Difference] = field(default_factory=list)

    @property
    def entries(self) -> int:
        """How many entries there were."""
        return self.results.total()

    @property
    def agrees(self) -> bool:
        """Whether nothing differs."""
        return not self.results[Result.DIFFERS]

    def add(self, other: "Tally") -> None:
        """Take what other entries gave."""
        self.results.update(other.results)
        self.faults.update(other.faults)
        self.flips.update(other.flips)
        self.engines.update(other.engines)
        self.lagged += other.lagged
        self.lag_max = max(self.lag_max, other.lag_max)
        self.differences = sorted([*self.differences, *other.differences], key=_by_weight)[:DIFFERENCES_SHOWN]

    def note(self, difference: Difference) -> None:
        """Count a difference and keep it, if it is among those that are shown."""
        self.results[Result.DIFFERS] += 1
        self.faults[difference.fault] += 1
        if difference.flip is not None:
            self.flips[difference.flip] += 1
        self.differences.append(difference)
        if len(self.differences) > 2 * DIFFERENCES_SHOWN:
            self.differences = sorted(self.differences, key=_by_weight)[:DIFFERENCES_SHOWN]


# What would be allowed now and was not is the worst.
_FLIPS: Final = (("deny", "allow"), ("hold", "allow"), ("allow", "deny"), ("allow", "hold"))


def flip_order(flip: tuple[str, str]) -> int:
    """Where a direction stands in a list of them, the worst first."""
    return _FLIPS.index(flip) if flip in _FLIPS else len(_FLIPS)


def _by_weight(one: Difference) -> tuple[int, int]:
    return (len(_FLIPS) + 1 if one.flip is None else flip_order(one.flip), one.idx)


class PolicySets:
    """Compiled sets by digest. `load` gives the documents, None where they are not there."""

    def __init__(self, given: Mapping[str, CompiledPolicySet] | None = None) -> None:
        """`given` are sets that are compiled already: those of a directory, which no ledger stores."""
        self._given = dict(given or {})
        self._kept: OrderedDict[str, CompiledPolicySet | FirewallError] = OrderedDict()

    def knows(self, digest: str) -> bool:
        """Whether `get` needs no content for this set."""
        return digest in self._given or digest in self._kept

    def put(self, digest: str, content: bytes | None) -> None:
        """Compile a set, if these are its documents, and keep it or why there is none."""
        compiled: CompiledPolicySet | FirewallError
        try:
            compiled = _compiled(digest, content)
        except FirewallError as error:
            compiled = error
        self._kept[digest] = compiled
        while len(self._kept) > SETS_MAX:
            self._kept.popitem(last=False)

    def get(self, digest: str) -> CompiledPolicySet:
        """A set that is known. Raises FirewallError (INVALID_POLICY) that says why there is none."""
        found = self._given.get(digest)
        if found is not None:
            return found
        self._kept.move_to_end(digest)
        kept = self._kept[digest]
        if isinstance(kept, FirewallError):
            raise FirewallError(kept.kind, kept.detail, fix=kept.fix)
        return kept


def _compiled(digest: str, content: bytes | None) -> CompiledPolicySet:
    if content is None:
        raise FirewallError(
            Kind.INVALID_POLICY,
            f"the policy set `{digest}` is not there",
            fix="if it came from a directory, name that with --policies",
        )
    checked = check_documents(documents_of(content, digest=digest))
    if checked.policy_set is None or checked.policy_set.digest != digest:
        raise FirewallError(
            Kind.INVALID_POLICY,
            f"the policy set `{digest}` has errors under this release",
            fix="replay with the release that decided, as `engine` says",
        )
    return checked.policy_set


class Timeline:
    """Which set was in force where, by the activations."""

    def __init__(self, activations: Sequence[Activated]) -> None:
        self._activations = tuple(sorted(activations, key=lambda one: one.index))
        self._indexes = [one.index for one in self._activations]

    def at(self, idx: int) -> Activated | None:
        """The activation that is the entry at `idx`."""
        position = bisect_left(self._indexes, idx)
        found = self._activations[position : position + 1]
        return found[0] if found and found[0].index == idx else None

    def in_force(self, idx: int) -> Activated | None:
        """The last activation before an entry, None before the first one."""
        position = bisect_left(self._indexes, idx)
        return self._activations[position - 1] if position else None

    def behind(self, digest: str, *, idx: int, at: datetime) -> timedelta | None:
        """For how long, at a moment, a set had been out of force; None where it had never been in force.

        Nothing where it is in force, or was when it judged: an entry may be appended after one that it did not see.
        """
        position = bisect_left(self._indexes, idx)
        if position and self._activations[position - 1].digest == digest:
            return timedelta()
        for place in range(position - 2, -1, -1):
            if self._activations[place].digest == digest:
                return max(timedelta(), at - self._activations[place + 1].at)
        return None


class _Differs(Exception):  # noqa: N818 - no error: it ends the replay of one entry
    def __init__(
        self,
        fault: Fault,
        detail: str,
        *,
        members: tuple[Member, ...] = (),
        flip: tuple[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.fault = fault
        self.detail = detail
        self.members = members
        self.flip = flip


class Replayer:
    """Replays entries one after the other into a tally. Has no clock, and reads nothing."""

    def __init__(self, *, sets: PolicySets, timeline: Timeline, absent: Absent, lag_max: timedelta = LAG_MAX) -> None:
        self._sets = sets
        self._timeline = timeline
        # Replaced by whoever reads, where records went meanwhile.
        self.absent = absent
        self._lag_max = lag_max
        self.tally = Tally()

    def missing(self, idx: int) -> None:
        """Note that there is no entry at an index."""
        self.tally.note(Difference(idx, "", Fault.MISSING, "there is no entry at this index"))

    def take(self, row: LedgerRow) -> str | None:
        """Replay one entry; or give the digest of the set that it needs, if that is not known, and do nothing."""
        try:
            receipt = _receipt(row)  # (1)
            digest = receipt.get("policy_set") if receipt["kind"] == EntryKind.DECISION else None
            if digest is not None and row.record is not None and not self._sets.knows(digest):
                return str(digest)
            self.tally.results[self._replayed(row, receipt)] += 1
        except _Differs as found:
            self.tally.note(Difference(row.idx, str(row.id), found.fault, found.detail, found.members, found.flip))
        return None

    def _replayed(self, row: LedgerRow, receipt: JsonObject) -> Result:
        if receipt["kind"] in _ACTIVATING:
            self._follow(row, receipt)
        if row.salt is None or row.record is None:
            return self._gone(row)
        record = _record(row, receipt, salt=row.salt, content=row.record)  # (2)
        if receipt["kind"] != EntryKind.DECISION:
            return Result.CHECKED
        try:
            engine = str(record["engine"])
            self.tally.engines[engine] += 1
            now = datetime.fromisoformat(record["now"])
            self._judge_set(row, receipt["policy_set"], now)  # (3)
            return _derived(row, record, receipt, now=now, policy_set=self._set(receipt["policy_set"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _Differs(Fault.RECORD, f"the record cannot be read (`{type(error).__name__}`)") from error

    def _gone(self, row: LedgerRow) -> Result:
        if row.idx in self.absent.erased:
            return Result.ERASED
        if self.absent.is_archived(row.idx):
            return Result.ARCHIVED
        raise _Differs(Fault.RECORD_MISSING, "the record is gone, and nothing says that it was erased or archived")

    def _set(self, digest: str) -> CompiledPolicySet:
        try:
            return self._sets.get(digest)
        except FirewallError as error:
            raise _Differs(Fault.POLICY_SET, str(error)) from error

    def _follow(self, row: LedgerRow, receipt: JsonObject) -> None:
        """An entry that activates a set is the one that the table of activations has at its index."""
        if "policy_set" not in receipt:
            return
        listed = self._timeline.at(row.idx)
        if listed is None or listed.digest != receipt["policy_set"]:
            raise _Differs(
                Fault.ACTIVATION,
                "the list of activations says otherwise",
                members=(Member("policy_set", receipt["policy_set"], "none" if listed is None else listed.digest),),
            )

    def _judge_set(self, row: LedgerRow, digest: str, now: datetime) -> None:
        current = self._timeline.in_force(row.idx)
        # Before the first activation a set can only have come from a directory, which leaves no trace here.
        if current is None or current.digest == digest:
            return
        behind = self._timeline.behind(digest, idx=row.idx, at=now)
        if behind is None or behind > self._lag_max:
            late = "it had never been in force" if behind is None else f"it had been out of force for {behind}"
            raise _Differs(
                Fault.NOT_IN_FORCE,
                f"the set that judged was not in force: {late}",
                members=(Member("policy_set", digest, current.digest),),
            )
        self.tally.lagged += 1
        self.tally.lag_max = max(self.tally.lag_max, behind)


_ACTIVATING: Final = frozenset({EntryKind.ACTIVATION.value, EntryKind.BREAK_GLASS.value})


def _receipt(row: LedgerRow) -> JsonObject:
    """Step (1)."""
    try:
        receipt = parse(row.receipt)
    except FirewallError as error:
        raise _Differs(Fault.RECEIPT, str(error)) from error
    members = tuple(
        Member(name, _shown(column), _shown(receipt[name]))
        for name, column in (("id", str(row.id)), ("kind", row.kind))
        if receipt[name] != column
    )
    if members:
        raise _Differs(Fault.RECEIPT, "the entry's columns say something else than its receipt", members=members)
    return receipt


def _record(row: LedgerRow, receipt: JsonObject, *, salt: bytes, content: bytes) -> JsonObject:
    """Step (2)."""
    digest = record_digest(salt, content)
    if digest != receipt["record"]:
        raise _Differs(
            Fault.RECORD,
            "the record, or its salt, is not the one that the receipt was written for",
            members=(Member("record", _shown(receipt["record"]), digest),),
        )
    try:
        record = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise _Differs(Fault.RECORD, "the record is not json") from error
    if not isinstance(record, dict) or record.get("version") != RECORD_VERSION or record.get("id") != str(row.id):
        raise _Differs(Fault.RECORD, "the record is of a form that this release does not know, or of another entry")
    return record


def _derived(
    row: LedgerRow, record: JsonObject, receipt: JsonObject, *, now: datetime, policy_set: CompiledPolicySet
) -> Result:
    """Steps (4) and (5)."""
    masked = "masked" in record
    if masked:
        _judge_masks(row, record, receipt, policy_set)
    try:
        normalised, verdict, sealed = _again(row, record, now=now, policy_set=policy_set)
    except FirewallError as error:
        if masked:
            return Result.MASKED
        raise _Differs(Fault.INPUT, f"what was recorded cannot be decided: {error}") from error
    if sealed.record == row.record and sealed.receipt == row.receipt:
        return Result.AGREES
    derived = orjson.loads(sealed.record)
    if masked:
        return Result.AGREES if _same_but_masked(record, derived) else Result.MASKED
    recorded, now_decided = record.get("decision"), verdict.effect.value
    flip = (str(recorded), now_decided) if recorded != now_decided else None
    members = _members(record, derived)
    if normalised.digest != record.get("mutation"):
        raise _Differs(Fault.INPUT, "the mutation has another digest", members=members, flip=flip)
    if any(member.name in _OUTPUTS for member in members):
        raise _Differs(Fault.VERDICT, "the decision came out otherwise", members=members, flip=flip)
    if not members:
        members = _members(receipt, orjson.loads(sealed.receipt))
    raise _Differs(Fault.SEAL, "the same decision gives another record or receipt", members=members)


def _judge_masks(row: LedgerRow, record: JsonObject, receipt: JsonObject, policy_set: CompiledPolicySet) -> None:
    """Refuse what no missing value explains: places that no mask of the set took out, a digest or a receipt that is not
    that of the record as it stands. Without this a record that says `masked` could differ in anything.
    """
    mutation = Mutation(**record["input"], request_id=record["request_id"], rationale=record["rationale"])
    tree: JsonObject = {**record["input"], "rationale": record["rationale"]}
    names = {one.name for one in policy_set.masks}
    places = [(one["pointer"], one["mask"]) for one in record["masked"]]
    if not places or not all(mask in names and _is_hidden(tree, place) for place, mask in places):
        raise _Differs(Fault.RECORD, "the record lacks values that no mask of its policy set took out")
    if digest(mutation) != record["mutation"]:
        raise _Differs(
            Fault.INPUT,
            "the mutation has another digest",
            members=(Member("mutation", _shown(record["mutation"]), digest(mutation)),),
        )
    first, salt = record["reasons"][0], row.salt or b""
    told = build_decision(
        id=record["id"],
        at=record["now"],
        decision=Effect(record["decision"]),
        mode=Mode(first["mode"]),
        policy=first["policy"],
        rule=first["rule"],
        mutation=record["mutation"],
        policy_set=record["policy_set"],
        principal=principal_digest(salt, _principal(record["principal"])),
        subject=subject_digest(salt, mutation.subject),
        record=receipt["record"],
    )
    if told != row.receipt:
        members = _members(receipt, orjson.loads(told))
        raise _Differs(Fault.SEAL, "the receipt says something else than its record", members=members)


def _is_hidden(tree: JsonObject, place: str) -> bool:
    """Whether a mask left its mark at a place. Raises AttributeError, TypeError for what is no pointer."""
    node: Any = tree
    try:
        for token in pointer.split(place):
            node = pointer.step(node, token)
    except pointer.PointerError:
        return False
    return bool(node == MASK)


# What a decision is, in its record.
_OUTPUTS: Final = frozenset({"annotations", "approval", "budgets", "decision", "obligations", "reasons", "warnings"})


def _same_but_masked(record: JsonObject, derived: JsonObject) -> bool:
    """Whether the record is what came out of it, but for the list of what was taken out of it."""
    return {name: value for name, value in record.items() if name != "masked"} == derived


def _again(
    row: LedgerRow, record: JsonObject, *, now: datetime, policy_set: CompiledPolicySet
) -> tuple[NormalisedMutation, Verdict, SealedEntry]:
    """Everything once more from the inputs. Raises FirewallError, KeyError, TypeError, ValueError."""
    mutation = Mutation(**record["input"], request_id=record["request_id"], rationale=record["rationale"])
    normalised = normalise(mutation)
    switches = switches_from_record(record)
    verdict = _in_batch(
        decide(policy_set, normalised, now, counters_from_record(record), switches), record["reasons"][0]
    )
    pending = PendingDecision(
        id=UUID(record["id"]),
        decided_at=now,
        principal=_principal(record["principal"]),
        mutation=mutation,
        mutation_digest=normalised.digest,
        policy_set=policy_set.digest,
        verdict=verdict,
        engine=record["engine"],
        switches=switches,
    )
    return normalised, verdict, seal_decision(pending, salt=row.salt or b"")


def _in_batch(verdict: Verdict, first: JsonObject) -> Verdict:
    """Deny what alone was allowed, where the record says that it stood in an atomic batch that was not.

    Which other mutation barred it is an input: the text that says so, and no more, is taken from the record.
    """
    if (first["policy"], first["rule"]) != (FIREWALL, BATCH_NOT_ALLOWED) or verdict.effect is not Effect.ALLOW:
        return verdict
    if _BATCH_MESSAGE.fullmatch(first["message"]) is None:
        return verdict
    reason = Reason(FIREWALL, BATCH_NOT_ALLOWED, Effect.DENY, first["message"])
    return verdict._replace(effect=Effect.DENY, reasons=(reason, *verdict.reasons), obligations=())


def _principal(described: JsonObject) -> Principal:
    """Who asked, as the record describes them. Raises KeyError, ValueError."""
    return Principal(
        described["id"],
        PrincipalKind(described["kind"]),
        frozenset(map(Role, described["roles"])),
        AuthMethod(described["method"]),
        frozenset(map(AccessScope, described.get("scopes", ()))),
    )


def _members(recorded: JsonObject, derived: JsonObject) -> tuple[Member, ...]:
    """The members that are not the same, as JSON."""
    return tuple(
        Member(name, _shown(recorded.get(name)), _shown(derived.get(name)))
        for name in sorted(recorded.keys() | derived.keys())
        # 1 and 1.0 and true are equal to Python.
        if _text(recorded.get(name)) != _text(derived.get(name))
    )


def _text(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else _text(value)
    return text if len(text) <= _SHOWN_MAX_CHARS else f"{text[: _SHOWN_MAX_CHARS - 1]}…"
