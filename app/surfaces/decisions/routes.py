"""`GET /v1/decisions` and `/v1/ledger/...`: reading what was decided and recorded, and erasing records."""

from base64 import b64encode
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID

import orjson
from fastapi import APIRouter, Path, Query, Request
from pydantic import AwareDatetime
from starlette.responses import Response

from app.core import dsse, strict_json
from app.core.members import listed, refuse_unknown, text
from app.core.principal import AccessScope, Principal
from app.core.quota import RouteClass
from app.core.types import Effect, JsonObject
from app.edge.body import ClientDisconnectedError, read_body
from app.edge.context import CLIENT_CLOSED_REQUEST
from app.edge.gate import Gate
from app.errors import FirewallError, Kind
from app.ledger.prove import Prover
from app.ledger.read import Erasure, LedgerEntry, RecordState
from app.ledger.receipt import timestamp
from app.ledger.search import FoundDecision, Wanted
from app.service.attest import PAYLOAD_TYPE, AttestService
from app.service.erase import EraseService
from app.service.read import ReadDecision, ReadService
from app.surfaces.answering import in_time
from app.surfaces.decisions.models import (
    EXAMPLE_ERASURE,
    LIMIT_DEFAULT,
    LIMIT_MAX,
    ConsistencyOut,
    EntryOut,
    EnvelopeOut,
    ErasedOut,
    ErasureIn,
    FoundPageOut,
    InclusionOut,
    RecordedDecisionOut,
)
from app.surfaces.negotiation import JSON, chosen
from app.surfaces.openapi import SECURITY, inlined, json_body, problem_responses

DECISIONS: Final = "/v1/decisions"
ENTRIES: Final = "/v1/ledger/entries"
ERASURES: Final = "/v1/ledger/erasures"
CONSISTENCY: Final = "/v1/ledger/consistency"

TEXT: Final = "text/plain"

# An id and a reason of 1000 characters, six bytes for each at the worst.
BODY_BYTES_MAX: Final = 16_384
# An index is a bigint.
INDEX_MAX: Final = 2**63 - 1
# A type and an id of 1024 characters each, and the colon.
_ENTITY_CHARACTERS_MAX: Final = 2049
_WORD_CHARACTERS_MAX: Final = 1024

T = TypeVar("T")

DecisionId = Annotated[UUID, Path(description="of the decision, as it was answered")]
EntryIndex = Annotated[int, Path(ge=0, le=INDEX_MAX, description="as an answer has it in `ledger_index`")]
Word = Annotated[str | None, Query(min_length=1, max_length=_WORD_CHARACTERS_MAX)]


class ReadEndpoints:
    """What the routes share: who asks, how often, and how long an answer may take."""

    def __init__(
        self,
        reading: ReadService,
        *,
        prover: Prover,
        attesting: AttestService,
        erasing: EraseService,
        gate: Gate,
        timeout_seconds: float,
    ) -> None:
        self.reading = reading
        self.prover = prover
        self.attesting = attesting
        self.erasing = erasing
        self._gate = gate
        self._timeout_seconds = timeout_seconds

    async def reader(self, request: Request, needed: AccessScope | None) -> Principal:
        """Who reads; where no scope is named the use case says which of several will do."""
        return await self._gate.admit(request.scope, RouteClass.READ, needed)

    async def eraser(self, request: Request) -> Principal:
        """Who erases, before the body is read."""
        return await self._gate.admit(request.scope, RouteClass.ADMIN, AccessScope.LEDGER_ERASE)

    async def timely(self, work: Awaitable[T]) -> T:
        """Give up after the time that any request may take."""
        return await in_time(
            work,
            seconds=self._timeout_seconds,
            fix="ask again; a search gets quicker by another filter, above all `subject` or `resource`",
        )


def decisions_read_router(endpoints: ReadEndpoints) -> APIRouter:
    """All routes of this surface."""
    router = APIRouter()

    @router.get(
        DECISIONS,
        tags=["decisions"],
        summary="Search recorded decisions",
        operation_id="search_decisions",
        responses={200: {"model": FoundPageOut}, **_READ_PROBLEMS},
        openapi_extra={"security": SECURITY},
    )
    async def search(
        request: Request,
        *,
        subject: Annotated[
            str | None,
            Query(
                pattern=r"^[^:]+:(?s:.)+$",
                max_length=_ENTITY_CHARACTERS_MAX,
                description="`TYPE:ID`, both exactly",
                examples=["agent:deploy-bot"],
            ),
        ] = None,
        resource: Annotated[
            str | None,
            Query(
                pattern=r"^[^:]+(:(?s:.)+)?$",
                max_length=_ENTITY_CHARACTERS_MAX,
                description="`TYPE:ID`, or `TYPE` for every one of it",
                examples=["apps/Deployment:prod/checkout"],
            ),
        ] = None,
        action: Word = None,
        decision: Annotated[Effect | None, Query(description="as it was decided")] = None,
        policy: Word = None,
        rule: Annotated[
            str | None,
            Query(min_length=1, max_length=_WORD_CHARACTERS_MAX, description="of `policy`, which must be given then"),
        ] = None,
        since: Annotated[AwareDatetime | None, Query(description="recorded at this time or later (RFC 3339)")] = None,
        until: Annotated[AwareDatetime | None, Query(description="recorded before this time")] = None,
        limit: Annotated[int, Query(ge=1, le=LIMIT_MAX, description="how many at most")] = LIMIT_DEFAULT,
        cursor: Annotated[str | None, Query(max_length=64, description="`next` of the page before")] = None,
    ) -> Response:
        """The newest first. Every filter must fit; what is recorded meanwhile does not move the pages."""
        principal = await endpoints.reader(request, AccessScope.READ)
        _refuse_unknown(request)
        wanted = _wanted(
            subject=subject,
            resource=resource,
            action=action,
            decision=decision,
            policy=policy,
            rule=rule,
            since=since,
            until=until,
        )
        found = await endpoints.timely(
            endpoints.reading.search(wanted, limit=limit, cursor=cursor, principal=principal)
        )
        more = {} if found.next is None else {"next": found.next}
        return _json({"items": [_found(one) for one in found.items], **more, "indexed": found.indexed})

    @router.get(
        f"{DECISIONS}/{{id}}",
        tags=["decisions"],
        summary="One recorded decision",
        operation_id="get_decision",
        responses={
            200: {
                "model": RecordedDecisionOut,
                "headers": _VARY,
                "content": {PAYLOAD_TYPE: {"schema": inlined(EnvelopeOut)}},
            },
            **_READ_PROBLEMS,
            **problem_responses(404, 406),
        },
        openapi_extra={"security": SECURITY},
    )
    async def get(request: Request, id: DecisionId) -> Response:  # noqa: A002 - the wire's name
        """With its record for as long as that is kept. With `decide` alone only what the caller asked for itself.

        `Accept: application/vnd.in-toto+json` gives an attestation of it, signed by the key of the ledger.
        """
        principal = await endpoints.reader(request, None)
        if _chosen(request, PAYLOAD_TYPE) == PAYLOAD_TYPE:
            envelope = await endpoints.timely(endpoints.attesting.attest(id, principal=principal))
            return _json(dsse.tree_of(envelope), media_type=PAYLOAD_TYPE)
        return _json(_decision(await endpoints.timely(endpoints.reading.decision(id, principal=principal))))

    @router.get(
        f"{ENTRIES}/{{index}}",
        tags=["ledger"],
        summary="One entry of the ledger",
        operation_id="get_ledger_entry",
        responses={200: {"model": EntryOut}, **_READ_PROBLEMS, **problem_responses(404)},
        openapi_extra={"security": SECURITY},
    )
    async def entry(request: Request, index: EntryIndex) -> Response:
        """Of whatever kind, with its bytes and the salt, so that the record can be verified against the receipt."""
        principal = await endpoints.reader(request, AccessScope.LEDGER_READ)
        return _json(_entry(await endpoints.timely(endpoints.reading.entry(index, principal=principal))))

    @router.get(
        f"{ENTRIES}/{{index}}/proof",
        tags=["ledger"],
        summary="The proof that an entry is in the ledger",
        operation_id="prove_ledger_entry",
        responses={
            200: {
                "model": InclusionOut,
                "headers": _VARY,
                "content": {TEXT: {"schema": {"type": "string", "description": "C2SP tlog-proof"}}},
            },
            **_READ_PROBLEMS,
            **problem_responses(404, 406, 409),
        },
        openapi_extra={"security": SECURITY},
    )
    async def proof(
        request: Request,
        index: EntryIndex,
        size: Annotated[
            int | None,
            Query(ge=1, le=INDEX_MAX, description="of the tree; that of the newest checkpoint if left out"),
        ] = None,
    ) -> Response:
        """As JSON, or with `Accept: text/plain` as C2SP tlog-proof. 503 while it is under no checkpoint yet."""
        await endpoints.reader(request, AccessScope.LEDGER_READ)
        form = _chosen(request, TEXT)
        made = await endpoints.timely(endpoints.prover.inclusion(index, size=size))
        if form == TEXT:
            return Response(made.text(), media_type=f"{TEXT}; charset=utf-8", headers=_VARIES)
        answer = {
            "index": made.index,
            "size": made.size,
            "leaf_hash": _base64(made.leaf_hash),
            "root": _base64(made.root),
            "hashes": [_base64(one) for one in made.hashes],
            **_checkpoint(made.checkpoint),
        }
        return _json(answer)

    @router.get(
        CONSISTENCY,
        tags=["ledger"],
        summary="The proof that the ledger begins with what it was",
        operation_id="prove_ledger_consistency",
        responses={200: {"model": ConsistencyOut}, **_READ_PROBLEMS, **problem_responses(404, 409)},
        openapi_extra={"security": SECURITY},
    )
    async def consistency(
        request: Request,
        *,
        old: Annotated[int, Query(alias="from", ge=0, le=INDEX_MAX, description="the size of a checkpoint you saved")],
        new: Annotated[
            int | None,
            Query(alias="to", ge=0, le=INDEX_MAX, description="that of the newest checkpoint if left out"),
        ] = None,
    ) -> Response:
        """From one size of the tree to another."""
        await endpoints.reader(request, AccessScope.LEDGER_READ)
        made = await endpoints.timely(endpoints.prover.consistency(old, new))
        answer = {
            "from_size": made.old,
            "to_size": made.new,
            "from_root": _base64(made.old_root),
            "to_root": _base64(made.new_root),
            "hashes": [_base64(one) for one in made.hashes],
            **_checkpoint(made.checkpoint),
        }
        return _json(answer)

    @router.post(
        ERASURES,
        status_code=201,
        tags=["ledger"],
        summary="Erase a record",
        operation_id="erase_record",
        responses={
            200: {"model": ErasedOut, "description": "It was erased before."},
            201: {"model": ErasedOut, "description": "It is erased, and the ledger says so."},
            **_READ_PROBLEMS,
            **problem_responses(404, 409, 413, 415),
        },
        openapi_extra=json_body(ErasureIn, EXAMPLE_ERASURE),
    )
    async def erase(request: Request) -> Response:
        """For good. The entry, its receipt and its place in the tree stay; docs/ledger.md says what lies elsewhere."""
        principal = await endpoints.eraser(request)
        try:
            body = await read_body(request.scope, request.receive, max_bytes=BODY_BYTES_MAX)
        except ClientDisconnectedError:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        sent = _members(body)
        done = await endpoints.timely(
            endpoints.erasing.erase(_id(sent), reason=text(sent, "reason", pointer=""), principal=principal)
        )
        answer = {
            "id": str(done.id),
            "ledger_index": done.idx,
            "record_state": RecordState.ERASED.value,
            "erasure": _erasure(done.erasure),
        }
        return _json(answer, status=200 if done.before else 201)

    return router


# The answer is another for another `Accept` (RFC 9110 section 12.5.5).
_VARIES: Final = {"vary": "accept"}
_VARY: Final = {"Vary": {"description": "`accept`", "schema": {"type": "string"}}}
_READ_PROBLEMS: Final = problem_responses(400, 401, 403, 429, 500, 503, 504)
_ERASURE_MEMBERS: Final = ("id", "reason")
_FILTERS: Final = (
    "subject",
    "resource",
    "action",
    "decision",
    "policy",
    "rule",
    "since",
    "until",
    "limit",
    "cursor",
)


def _refuse_unknown(request: Request) -> None:
    """A filter that is misspelt, or given twice, must not find what it does not say."""
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if name not in _FILTERS:
            raise FirewallError(
                Kind.MALFORMED, f"there is no filter `{name[:80]}`", fix=f"filters are {listed(_FILTERS)}"
            )
        if names.count(name) > 1:
            raise FirewallError(Kind.MALFORMED, f"`{name}` is given twice", fix="search for one, then for the other")


def _wanted(
    *,
    subject: str | None,
    resource: str | None,
    action: str | None,
    decision: Effect | None,
    policy: str | None,
    rule: str | None,
    since: datetime | None,
    until: datetime | None,
) -> Wanted:
    for name, value in (
        ("subject", subject),
        ("resource", resource),
        ("action", action),
        ("policy", policy),
        ("rule", rule),
    ):
        if value is not None and "\0" in value:
            raise FirewallError(Kind.MALFORMED, f"`{name}` has a NUL character in it, and no decision has")
    if rule is not None and policy is None:
        raise FirewallError(
            Kind.MALFORMED, "`rule` is given without `policy`, and policies name their rules alike", fix="give both"
        )
    of_type, colon, of_id = (resource or "").partition(":")
    kind, _, name = (subject or "").partition(":")
    return Wanted(
        subject=None if subject is None else (kind, name),
        resource=(of_type, of_id) if colon else None,
        resource_type=of_type if resource is not None and not colon else None,
        action=action,
        decision=decision,
        policy=policy,
        rule=rule,
        since=_utc(since),
        until=_utc(until),
    )


def _utc(moment: datetime | None) -> datetime | None:
    """The same moment in UTC; on the first and the last day that can be written, nearly."""
    if moment is None:
        return None
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        return moment.replace(tzinfo=UTC)


def _members(body: bytes) -> JsonObject:
    tree = strict_json.parse(body).tree
    if not isinstance(tree, dict):
        raise FirewallError(
            Kind.MALFORMED, "the body is not an object", pointer="", fix=f"members are {listed(_ERASURE_MEMBERS)}"
        )
    refuse_unknown(tree, known=_ERASURE_MEMBERS, pointer="")
    return tree


def _id(sent: JsonObject) -> UUID:
    value = text(sent, "id", pointer="")
    try:
        found = UUID(value)
    except ValueError:
        found = None
    # UUID takes braces, a URN and digits without hyphens as well.
    if found is None or str(found) != value.lower():
        raise FirewallError(
            Kind.MALFORMED,
            f"`{value[:80]}` is no id",
            pointer="/id",
            fix="write it as the decision was answered",
        )
    return found


def _found(one: FoundDecision) -> JsonObject:
    return {
        "id": str(one.id),
        "ledger_index": one.idx,
        "recorded_at": timestamp(one.recorded_at),
        "subject": dict(zip(("type", "id"), one.subject, strict=True)),
        "action": one.action,
        "resource": dict(zip(("type", "id"), one.resource, strict=True)),
        "decision": one.decision,
        "mode": one.mode,
        "policy": one.policy,
        "rule": one.rule,
    }


def _decision(read: ReadDecision) -> JsonObject:
    entry, record = read.entry, read.record
    receipt: JsonObject = orjson.loads(entry.receipt)
    return {
        "id": str(entry.id),
        "decision": receipt["decision"],
        "mode": receipt["mode"],
        "policy": receipt["policy"],
        "rule": receipt["rule"],
        **({} if record is None else {"reasons": record["reasons"]}),
        "policy_set": receipt["policy_set"],
        "mutation_digest": receipt["mutation"],
        "ledger_index": entry.idx,
        "receipt_hash": _hash(entry),
        "decided_at": receipt["at"],
        "recorded_at": timestamp(entry.recorded_at),
        "receipt": receipt,
        "record_state": entry.state.value,
        **({} if record is None else {"record": record}),
        **_salt(entry if read.with_salt else None),
        **_erased(entry),
        "links": {"entry": f"{ENTRIES}/{entry.idx}", "proof": f"{ENTRIES}/{entry.idx}/proof"},
    }


def _entry(entry: LedgerEntry) -> JsonObject:
    kept = {} if entry.record is None else {"record": _base64(entry.record)}
    return {
        "index": entry.idx,
        "id": str(entry.id),
        "kind": entry.kind.value,
        "recorded_at": timestamp(entry.recorded_at),
        "leaf_hash": _hash(entry),
        "receipt": orjson.Fragment(entry.receipt),
        "record_state": entry.state.value,
        **({} if entry.record is None else {"record": orjson.Fragment(entry.record)}),
        **_salt(entry),
        **_erased(entry),
        "bytes": {"receipt": _base64(entry.receipt), **kept},
    }


def _hash(entry: LedgerEntry) -> str:
    return "sha256:" + entry.leaf_hash.hex()


def _salt(entry: LedgerEntry | None) -> JsonObject:
    return {} if entry is None or entry.salt is None else {"salt": _base64(entry.salt)}


def _erased(entry: LedgerEntry) -> JsonObject:
    return {} if entry.erasure is None else {"erasure": _erasure(entry.erasure)}


def _erasure(erasure: Erasure) -> JsonObject:
    return {
        "at": timestamp(erasure.at),
        "by": erasure.by,
        "reason": erasure.reason,
        "ledger_id": str(erasure.ledger_id),
        "ledger_index": erasure.ledger_index,
    }


def _checkpoint(note: bytes | None) -> JsonObject:
    return {} if note is None else {"checkpoint": note.decode()}


def _chosen(request: Request, other: str) -> str:
    """JSON, unless the caller would rather have the other form. Raises FirewallError (NOT_ACCEPTABLE)."""
    return chosen(request.headers.getlist("accept"), (JSON, other))


def _base64(content: bytes) -> str:
    return b64encode(content).decode()


def _json(value: Any, *, status: int = 200, media_type: str = JSON) -> Response:
    """`Cache-Control: no-store` comes with every answer (edge/context.py)."""
    return Response(orjson.dumps(value), status_code=status, media_type=media_type, headers=_VARIES)
