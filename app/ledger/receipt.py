"""What the ledger keeps of one entry: a receipt for ever, a record for as long as the law allows.

The receipt is RFC 8785 canonical JSON of at most 4 KiB. It is the leaf of the Merkle tree, so its form is final: a
later form gets another `version`. The record is JSON that keeps what replay needs, the type of every number included;
the receipt holds its digest, salted, so that an erased record cannot be guessed back. docs/adr/0003-receipt.md has the
reasons.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from app.core import merkle
from app.core.budgets import to_record
from app.core.canonical import canonical
from app.core.principal import Principal
from app.core.record_masks import Hidden, Masked
from app.core.switches import Switch
from app.core.switches import to_record as switches_to_record
from app.core.types import Effect, JsonObject, Mode, Mutation, Reason, Verdict
from app.errors import FirewallError, Kind

VERSION = 1
RECORD_VERSION = 1
# A leaf is read by everybody who verifies; the tile format that will carry leaves has 16 bits for a length.
RECEIPT_BYTES_MAX = 4096
# As long as the hash, so that guessing the salt is not easier than breaking the hash.
SALT_BYTES = 32
# A policy's or a rule's name is at most 253 characters when it is loaded; longer ones (in bytes of JSON) are digested.
NAME_BYTES_MAX = 512

# Each digest names what it is of, so that a digest of one thing can never pass for a digest of another.
RECORD_PREFIX = b"mutationfirewall.io/record/v1\x00"
PRINCIPAL_PREFIX = b"mutationfirewall.io/principal/v1\x00"
SUBJECT_PREFIX = b"mutationfirewall.io/subject/v1\x00"

# Members of every receipt, whatever its kind.
ENVELOPE = frozenset({"at", "id", "kind", "principal", "record", "version"})
# Members of a decision's receipt beyond the envelope.
DECISION_MEMBERS = frozenset({"decision", "mode", "mutation", "policy", "policy_set", "rule", "subject"})

_TIMESTAMP_CHARS = len("2026-01-31T09:30:00.000000Z")


class EntryKind(StrEnum):
    """What an entry is about; the database holds the same set."""

    DECISION = "decision"
    REQUEST = "request"
    VOTE = "vote"
    PERMIT = "permit"
    ACTIVATION = "activation"
    BREAK_GLASS = "break-glass"
    SNAPSHOT = "snapshot"
    ROLLBACK = "rollback"
    KEY = "key"
    ERASURE = "erasure"
    ARCHIVE = "archive"


class SealedEntry(NamedTuple):
    """An entry that is ready for the ledger: nothing in it depends on the index it will get."""

    id: UUID
    kind: EntryKind
    receipt: bytes
    salt: bytes
    record: bytes

    @property
    def receipt_hash(self) -> str:
        """The leaf hash as the wire shows it: "sha256:" and 64 hex digits."""
        return "sha256:" + leaf_hash(self.receipt).hex()


@dataclass(slots=True)
class _Recorded:
    """A reason as it is written: orjson writes a dataclass in the order of its fields, which is part of the form."""

    policy: str
    rule: str
    effect: Effect
    message: str
    mode: Mode
    clause: Any


@dataclass(slots=True)
class _Lifted(_Recorded):
    """A reason that did not count."""

    exception: str


@dataclass(slots=True)
class _Bound(_Recorded):
    """A reason of an admission policy."""

    binding: str


@dataclass(slots=True)
class _LiftedBound(_Bound):
    """A reason of an admission policy that did not count."""

    exception: str


class PendingDecision(NamedTuple):
    """A verdict and everything that is kept of how it came about.

    `mutation` is as it was sent (step 4), not normalised: replay normalises again. `decided_at` is the `now` that the
    rules saw, aware and in UTC. `engine` names the release that decided. `sent` is `NormalisedMutation.sent`: where it
    is there, the mutation need not be written a second time. `switches` are the kill switches that it was made under.
    Where the set's masks hide something `masked` has the mutation without it, and `mutation_digest` is of that one.
    """

    id: UUID
    decided_at: datetime
    principal: Principal
    mutation: Mutation
    mutation_digest: str
    policy_set: str
    verdict: Verdict
    engine: str
    sent: bytes | None = None
    switches: tuple[Switch, ...] = ()
    masked: Masked | None = None


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds and `Z`: one text for one moment.

    Raises ValueError for a moment that is not in UTC, which is a defect of the caller.
    """
    text = _written(moment)
    if not text.endswith("Z"):
        raise ValueError("a moment in the ledger is in UTC")
    # A fraction of nothing is left out.
    return text if len(text) == _TIMESTAMP_CHARS else f"{text[:-1]}.000000Z"


def leaf_hash(receipt: bytes) -> bytes:
    """The hash of a receipt as a leaf of the Merkle tree, 32 bytes."""
    return merkle.leaf_hash(receipt)


def record_digest(salt: bytes, record: bytes) -> str:
    """What a receipt holds of its record: "sha256:" and 64 hex digits."""
    return _salted(RECORD_PREFIX, salt, record)


def principal_digest(salt: bytes, principal: Principal) -> str:
    """What a receipt holds of who asked. Salted: the plain digest of an e-mail address can be guessed back."""
    return _salted(PRINCIPAL_PREFIX, salt, principal.identity)


def subject_digest(salt: bytes, subject: JsonObject) -> str:
    """What a receipt holds of who wants the change; salted for the same reason."""
    return _salted(SUBJECT_PREFIX, salt, orjson.dumps((subject["type"], subject["id"])))


def seal_decision(pending: PendingDecision, *, salt: bytes) -> SealedEntry:
    """Step 9, first half: the receipt and the record of a decision. `salt` is 32 random bytes, used once."""
    at = timestamp(pending.decided_at)
    identifier = _written(pending.id)
    masked = pending.masked
    mutation = pending.mutation if masked is None else masked.mutation
    verdict = pending.verdict if masked is None else _masked(pending.verdict, masked)
    record = _dump(
        {
            "version": RECORD_VERSION,
            "engine": pending.engine,
            "id": identifier,
            "now": at,
            "principal": orjson.Fragment(pending.principal.description),
            "policy_set": pending.policy_set,
            "input": {
                "subject": mutation.subject,
                "action": mutation.action,
                "resource": mutation.resource,
                "change": mutation.change,
                "context": mutation.context,
            }
            if pending.sent is None or masked is not None
            else orjson.Fragment(pending.sent),
            "request_id": mutation.request_id,
            "rationale": mutation.rationale,
            "mutation": pending.mutation_digest,
            "decision": verdict.effect,
            "reasons": [_recorded(reason) for reason in verdict.reasons],
            "approval": verdict.approval,
            # Inputs as well: a decision is made again with what it saw of its budgets.
            **({"budgets": budgets} if (budgets := to_record(verdict.budgets)) else {}),
            **({"switches": switches_to_record(pending.switches)} if pending.switches else {}),
            # Left out where there are none: the form of a record changes by what is new in it alone.
            **({"obligations": verdict.obligations} if verdict.obligations else {}),
            **({"warnings": verdict.warnings} if verdict.warnings else {}),
            **({"annotations": verdict.annotations} if verdict.annotations else {}),
            **({"masked": [_hidden(one) for one in masked.hidden]} if masked is not None else {}),
        }
    )
    deciding = verdict.reasons[0]
    receipt = build_decision(
        id=identifier,
        at=at,
        decision=verdict.effect,
        mode=deciding.mode,
        policy=deciding.policy,
        rule=deciding.rule,
        mutation=pending.mutation_digest,
        policy_set=pending.policy_set,
        principal=principal_digest(salt, pending.principal),
        subject=subject_digest(salt, mutation.subject),
        record=record_digest(salt, record),
    )
    return SealedEntry(pending.id, EntryKind.DECISION, receipt, salt, record)


def seal(
    kind: EntryKind,
    *,
    id: UUID,  # noqa: A002 - the member's name
    at: datetime,
    principal: Principal,
    members: Mapping[str, str],
    record: Mapping[str, Any],
    salt: bytes,
) -> SealedEntry:
    """The receipt and the record of an entry of any kind.

    `members` are what this kind's receipt says beyond the envelope: ids, digests, words of closed sets; never text that
    somebody may have to erase. `record` is the rest. Raises FirewallError (TOO_LARGE) beyond 4 KiB of receipt,
    ValueError for a member that the envelope has.
    """
    moment = timestamp(at)
    kept = _dump(
        {
            "version": RECORD_VERSION,
            "id": str(id),
            "now": moment,
            "principal": orjson.Fragment(principal.description),
            **record,
        }
    )
    receipt = build(
        kind,
        id=str(id),
        at=moment,
        principal=principal_digest(salt, principal),
        record=record_digest(salt, kept),
        members=members,
    )
    return SealedEntry(id=id, kind=kind, receipt=receipt, salt=salt, record=kept)


def build(
    kind: EntryKind,
    *,
    id: str,  # noqa: A002 - the member's name
    at: str,
    principal: str,
    record: str,
    members: Mapping[str, str],
) -> bytes:
    """A receipt of any kind. Raises FirewallError (TOO_LARGE), ValueError for a member that the envelope has."""
    if not ENVELOPE.isdisjoint(members):
        raise ValueError("a member of the envelope is given twice")
    receipt = canonical(
        {
            **members,
            "at": at,
            "id": id,
            "kind": str(kind),
            "principal": principal,
            "record": record,
            "version": VERSION,
        }
    )
    if len(receipt) > RECEIPT_BYTES_MAX:
        raise FirewallError(
            Kind.TOO_LARGE, f"a receipt of {len(receipt)} bytes, and the ledger takes {RECEIPT_BYTES_MAX} at most"
        )
    return receipt


def build_decision(
    *,
    id: str,  # noqa: A002 - the member's name
    at: str,
    decision: Effect,
    mode: Mode,
    policy: str,
    rule: str,
    mutation: str,
    policy_set: str,
    principal: str,
    subject: str,
    record: str,
) -> bytes:
    """A decision's receipt: the same bytes as `build` gives, written straight in the order of RFC 8785, 5 times as
    fast.

    INVARIANT: every member but `policy` and `rule` is ASCII without quotes or backslashes, and of bounded length, so
    the whole stays far below 4 KiB.
    """
    # orjson escapes strings as RFC 8785 section 3.2.2.2 says; a test compares with `canonical`.
    return (
        f'{{"at":"{at}","decision":"{decision}","id":"{id}","kind":"decision","mode":"{mode}","mutation":"{mutation}",'
        f'"policy":{_name(policy)},"policy_set":"{policy_set}","principal":"{principal}","record":"{record}",'
        f'"rule":{_name(rule)},"subject":"{subject}","version":1}}'
    ).encode()


def parse(receipt: bytes) -> JsonObject:
    """A receipt's members, if it is one: canonical, within 4 KiB, of this version, with the members of its kind.

    Raises FirewallError (MALFORMED). Does not check: that it is in any ledger, or that its digests are of anything.
    """
    if len(receipt) > RECEIPT_BYTES_MAX:
        raise FirewallError(Kind.MALFORMED, f"a receipt has at most {RECEIPT_BYTES_MAX} bytes")
    try:
        members = orjson.loads(receipt)
    except orjson.JSONDecodeError:
        raise FirewallError(Kind.MALFORMED, "a receipt that is not json") from None
    if not isinstance(members, dict) or canonical(members) != receipt:
        raise FirewallError(Kind.MALFORMED, "a receipt that is not a canonical json object")
    if members.get("version") != VERSION:
        raise FirewallError(
            Kind.MALFORMED,
            "a receipt of a version that this release does not know",
            pointer="/version",
            fix="verify it with a newer release",
        )
    # Compared one by one: what came in may be a list, which no set takes.
    if members.get("kind") not in tuple(EntryKind):
        raise FirewallError(Kind.MALFORMED, "a receipt of an unknown kind", pointer="/kind")
    needed = ENVELOPE | DECISION_MEMBERS if members["kind"] == EntryKind.DECISION else ENVELOPE
    if (missing := sorted(needed - members.keys())) != []:
        raise FirewallError(Kind.MALFORMED, f"a receipt without `{missing[0]}`", pointer=f"/{missing[0]}")
    return members


def _salted(prefix: bytes, salt: bytes, content: bytes) -> str:
    # The prefix ends with NUL and the salt's length is fixed: no two pairs of salt and content hash the same bytes.
    if len(salt) != SALT_BYTES:
        raise ValueError(f"a salt has {SALT_BYTES} bytes")
    return "sha256:" + sha256(prefix + salt + content).hexdigest()


@lru_cache(maxsize=4096)  # the names of a policy set
def _name(name: str) -> str:
    """A name as a JSON string, or its digest as one where it would take too much of the receipt."""
    try:
        text = orjson.dumps(name)
    except orjson.JSONEncodeError:  # a lone surrogate
        text = None
    if text is None or len(text) > NAME_BYTES_MAX:
        return f'"sha256:{sha256(name.encode("utf-8", "surrogatepass")).hexdigest()}"'
    return text.decode()


def _written(value: UUID | datetime) -> str:
    """An id or a moment as text; orjson is three to six times as fast as Python itself."""
    return orjson.dumps(value, option=orjson.OPT_UTC_Z)[1:-1].decode()


def _dump(record: Mapping[str, Any]) -> bytes:
    """The record's bytes. Not RFC 8785: that writes 1.0 as 1, and a rule can tell them apart."""
    return orjson.dumps(record, option=orjson.OPT_SORT_KEYS, default=_plain)


def _masked(verdict: Verdict, masked: Masked) -> Verdict:
    """What is said beside a decision, without what its record must not have; who said it stays."""
    return verdict._replace(
        reasons=tuple(
            replace(
                reason,
                message=masked.said(reason.message),
                clause=None
                if reason.clause is None
                else replace(reason.clause, values=masked.said(reason.clause.values)),
            )
            for reason in verdict.reasons
        ),
        obligations=tuple(replace(one, value=masked.said(one.value)) for one in verdict.obligations),
        warnings=tuple(masked.said(verdict.warnings)),
        annotations=masked.said(verdict.annotations),
    )


def _hidden(one: Hidden) -> dict[str, str]:
    members = {"pointer": one.pointer, "mask": one.mask}
    return members if one.commitment is None else {**members, "commitment": one.commitment}


def _recorded(reason: Reason) -> "_Recorded":
    """A reason as records have it; `exception` and `binding` are left out where there is none, as obligations are."""
    members = (reason.policy, reason.rule, reason.effect, reason.message, reason.mode, reason.clause)
    if reason.binding is not None:
        return (
            _Bound(*members, reason.binding)
            if reason.exception is None
            else _LiftedBound(*members, reason.binding, reason.exception)
        )
    return _Recorded(*members) if reason.exception is None else _Lifted(*members, reason.exception)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, frozenset):
        return sorted(value)
    raise TypeError
