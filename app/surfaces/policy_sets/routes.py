"""`/v1/policy-sets`: storing, listing and activating policy sets, and following the one in force."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any, Final, TypeVar

import orjson
from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response
from starlette.types import Scope

from app.core import dsse, strict_json
from app.core.members import refuse_unknown
from app.core.principal import AccessScope, Principal
from app.core.quota import RouteClass
from app.core.types import JsonObject
from app.edge.body import ClientDisconnectedError, read_body
from app.edge.context import CLIENT_CLOSED_REQUEST
from app.edge.gate import Gate
from app.errors import FirewallError, Kind
from app.ledger.receipt import timestamp
from app.policies.distribute import PolicySource
from app.policies.load import FILE_MAX_BYTES, Checked, check_documents, check_text
from app.policies.signatures import merged
from app.policies.store import Activation, PolicySetStore, StoredSet
from app.service.activate import ActivateService
from app.service.publish import PublishService
from app.service.sign import Collected, SignService, described
from app.surfaces.answering import in_time
from app.surfaces.openapi import SECURITY, json_body, problem_responses
from app.surfaces.policy_sets.models import (
    DIGEST_PATTERN,
    EXAMPLE_ENVELOPE,
    EXAMPLE_REASON,
    EXAMPLE_SET,
    LIMIT_DEFAULT,
    LIMIT_MAX,
    ActivateIn,
    ActivationOut,
    ActivationsOut,
    ActiveOut,
    EnvelopeIn,
    NotAllowedProblem,
    PolicySetDocumentsOut,
    PolicySetIn,
    PolicySetsOut,
    PublishedOut,
    RefusedSetProblem,
    SetSignaturesOut,
)
from app.surfaces.problems import CONTENT_TYPE

PATH: Final = "/v1/policy-sets"

# Five thousand policies of a page each.
SET_BYTES_MAX: Final = 8 * 1024 * 1024
REASON_BYTES_MAX: Final = 16_384
# A proxy between here and there commonly gives up after 60 s.
WAIT_SECONDS_MAX: Final = 30
# A page goes on before this number, a bigint.
NUMBER_MAX: Final = 2**63 - 1

_TEXT_NAME: Final = "policies.yaml"
# RFC 9512, and what was in use before it.
_YAML: Final = frozenset({b"application/yaml", b"application/x-yaml", b"text/yaml"})

Limit = Annotated[int, Query(ge=1, le=LIMIT_MAX, description="how many at most")]
Before = Annotated[int | None, Query(ge=1, le=NUMBER_MAX, description="`next` of the page before")]
DigestPath = Annotated[str, Path(pattern=DIGEST_PATTERN, description="`sha256:` and 64 hex digits")]

T = TypeVar("T")


class PolicySetEndpoints:
    """What the routes share: who asks, how often, and how long an answer may take."""

    def __init__(
        self,
        *,
        store: PolicySetStore,
        source: PolicySource,
        publishing: PublishService,
        signing: SignService,
        activating: ActivateService,
        gate: Gate,
        timeout_seconds: float,
    ) -> None:
        self.store = store
        self.source = source
        self.publishing = publishing
        self.signing = signing
        self.activating = activating
        self._gate = gate
        self._timeout_seconds = timeout_seconds

    async def author(self, scope: Scope, needed: AccessScope) -> Principal:
        """Who may change policies; before the body is read, which may be larger here than elsewhere."""
        return await self._gate.admit(scope, RouteClass.ADMIN, needed)

    async def timely(self, work: Awaitable[T]) -> T:
        """Give up after the time that any request may take."""
        return await in_time(
            work,
            seconds=self._timeout_seconds,
            fix="look at `GET /v1/policy-sets/activations` before asking again: it may have been done",
        )

    async def reader(self, scope: Scope) -> Principal:
        """Who may read policies: not agents, who could look up how to get past them."""
        return await self._gate.admit(scope, RouteClass.READ, AccessScope.READ)

    def listed(self, stored: StoredSet) -> JsonObject:
        """A set as it is listed."""
        in_force = self.source.in_force
        return {
            "digest": stored.digest,
            "policies": stored.policies,
            "rules": stored.rules,
            "created_at": timestamp(stored.created_at),
            "created_by": stored.created_by,
            **({"note": stored.note} if stored.note else {}),
            "active": in_force is not None and in_force.digest == stored.digest,
        }


def policy_sets_router(endpoints: PolicySetEndpoints) -> APIRouter:
    """All routes of this surface."""
    router = APIRouter(tags=["policy sets"])

    @router.post(
        PATH,
        status_code=201,
        summary="Store a policy set",
        operation_id="put_policy_set",
        responses={
            200: {"model": PublishedOut, "description": "It was there already."},
            201: {"model": PublishedOut, "description": "It is stored."},
            **problem_responses(401, 403, 413, 415, 429, 500, 503, 504),
            400: _problem(RefusedSetProblem, "The request is malformed, or the set has errors: `errors` has them all."),
        },
        openapi_extra=_with_yaml(json_body(PolicySetIn, EXAMPLE_SET)),
    )
    async def put(request: Request) -> Response:
        """Check the set whole and store it under its digest. It decides nothing until it is activated."""
        principal = await endpoints.author(request.scope, AccessScope.POLICY_WRITE)
        received = await _body(request, yaml=True, max_bytes=SET_BYTES_MAX)
        if received is None:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        body, is_yaml = received

        async def publish() -> Response:
            note: str | None = None
            if is_yaml:
                check: Callable[[], Checked] = partial(check_text, _text(body), name=_TEXT_NAME)
            else:
                tree = (await asyncio.to_thread(strict_json.parse, body)).tree
                documents, note = _documents(tree)
                check = partial(check_documents, documents)
            made = await endpoints.publishing.publish(check, principal=principal, note=note)
            answer = {
                **endpoints.listed(made.stored),
                "diagnostics": [asdict(one) for one in made.diagnostics],
                "signatures": described(made.signed),
            }
            return _json(
                answer,
                status=201 if made.created else 200,
                headers={"Location": f"{PATH}/{made.stored.digest}"},
            )

        return await endpoints.timely(publish())

    @router.get(
        PATH,
        summary="List policy sets",
        operation_id="list_policy_sets",
        responses={200: {"model": PolicySetsOut}, **_READ_PROBLEMS},
        openapi_extra={"security": SECURITY},
    )
    async def list_sets(request: Request, limit: Limit = LIMIT_DEFAULT, before: Before = None) -> Response:
        """The latest first."""
        await endpoints.reader(request.scope)
        found = await endpoints.timely(endpoints.store.list(limit=limit + 1, before=before))
        more = {"next": found[limit - 1].number} if len(found) > limit else {}
        return _json({"items": [endpoints.listed(one) for one in found[:limit]], **more})

    @router.get(
        f"{PATH}/active",
        summary="The policy set in force",
        operation_id="active_policy_set",
        responses={
            200: {"model": ActiveOut, "headers": _ETAG},
            304: {"description": "It is still the one of `If-None-Match`.", "headers": _ETAG},
            **_READ_PROBLEMS,
            **problem_responses(404),
        },
        openapi_extra={
            "security": SECURITY,
            "parameters": [
                {
                    "name": "If-None-Match",
                    "in": "header",
                    "required": False,
                    "description": "the `ETag` that is known already (RFC 9110 section 13.1.2)",
                    "schema": {"type": "string"},
                }
            ],
        },
    )
    async def active(
        request: Request,
        wait: Annotated[
            float,
            Query(ge=0, le=WAIT_SECONDS_MAX, description="seconds to wait for another set than the known one"),
        ] = 0,
    ) -> Response:
        """At the replica that answers, with its documents; a long poll with `If-None-Match` and `wait`."""
        await endpoints.reader(request.scope)
        source = endpoints.source
        known = _etags(request)
        held = source.in_force
        if wait and known and (held is None or _is_known(held.digest, known)):
            await source.wait_changed(None if held is None else held.digest, within=wait)
            held = source.in_force
        if held is None:
            raise FirewallError(
                Kind.NOT_FOUND,
                "no policy set is in force",
                fix="store and activate one: `mfw policies push`, `mfw policies activate`",
            )
        headers = {"ETag": f'"{held.digest}"'}
        if _is_known(held.digest, known):
            return Response(status_code=304, headers=headers)
        answer = {
            "digest": held.digest,
            "source": source.name,
            **({} if held.sequence is None else {"sequence": held.sequence}),
            "since": timestamp(held.since),
            **({} if held.signed is None else {"signed_by": [one.name for one in held.signed.signers]}),
            "stale": held.stale,
            "policies": len(held.policy_set.policies),
            "rules": len(held.policy_set.rules),
            "documents": orjson.Fragment(held.content),
        }
        return _json(answer, headers=headers)

    @router.get(
        f"{PATH}/activations",
        summary="The history of activations",
        operation_id="list_policy_set_activations",
        responses={200: {"model": ActivationsOut}, **_READ_PROBLEMS},
        openapi_extra={"security": SECURITY},
    )
    async def history(request: Request, limit: Limit = LIMIT_DEFAULT, before: Before = None) -> Response:
        """The latest first; each one has its entry in the ledger."""
        await endpoints.reader(request.scope)
        found = await endpoints.timely(endpoints.store.history(limit=limit + 1, before=before))
        more = {"next": found[limit - 1].sequence} if len(found) > limit else {}
        return _json({"items": [_activation(one) for one in found[:limit]], **more})

    @router.get(
        f"{PATH}/{{digest}}",
        summary="One policy set with its documents",
        operation_id="get_policy_set",
        responses={200: {"model": PolicySetDocumentsOut}, **_READ_PROBLEMS, **problem_responses(404)},
        openapi_extra={"security": SECURITY},
    )
    async def get(request: Request, digest: DigestPath) -> Response:
        """The documents are the very ones that the digest names."""
        await endpoints.reader(request.scope)

        async def read() -> Response:
            stored, documents = await endpoints.store.get(digest)
            found = await endpoints.signing.of(digest)
            return _json({**endpoints.listed(stored), "documents": documents, "signatures": described(found.signed)})

        return await endpoints.timely(read())

    @router.get(
        f"{PATH}/{{digest}}/signatures",
        summary="Who signed a policy set",
        operation_id="get_policy_set_signatures",
        responses={200: {"model": SetSignaturesOut}, **_READ_PROBLEMS, **problem_responses(404)},
        openapi_extra={"security": SECURITY},
    )
    async def get_signatures(request: Request, digest: DigestPath) -> Response:
        """Verified for this answer, and with the envelopes, to verify elsewhere."""
        await endpoints.reader(request.scope)

        async def read() -> Response:
            await endpoints.store.require(digest)
            return _json(_signatures(digest, await endpoints.signing.of(digest)))

        return await endpoints.timely(read())

    @router.post(
        f"{PATH}/{{digest}}/signatures",
        status_code=201,
        summary="Add signatures to a policy set",
        operation_id="add_policy_set_signatures",
        responses={
            200: {"model": SetSignaturesOut, "description": "They were there already."},
            201: {"model": SetSignaturesOut, "description": "They are stored."},
            **problem_responses(400, 401, 403, 404, 413, 415, 422, 429, 500, 503, 504),
        },
        openapi_extra=json_body(EnvelopeIn, EXAMPLE_ENVELOPE),
    )
    async def add_signatures(request: Request, digest: DigestPath) -> Response:
        """A DSSE envelope. Good signatures of known signers are stored, others are left out; 422 if none is good."""
        principal = await endpoints.author(request.scope, AccessScope.POLICY_WRITE)
        received = await _body(request, yaml=False, max_bytes=dsse.ENVELOPE_BYTES_MAX)
        if received is None:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        envelope = dsse.read(received[0])
        found = await endpoints.timely(endpoints.signing.add(digest, envelope, principal=principal))
        return _json(_signatures(digest, found), status=201 if found.created else 200)

    @router.post(
        f"{PATH}/{{digest}}/activate",
        summary="Put a policy set into force",
        operation_id="activate_policy_set",
        responses={
            200: {"model": ActivationOut, "description": "It is in force; other replicas follow within seconds."},
            **problem_responses(400, 401, 404, 413, 415, 429, 500, 503, 504),
            403: _problem(
                NotAllowedProblem,
                "The caller lacks the role `admin`, the set lacks signatures, or the set in force denies it.",
            ),
            409: _problem(NotAllowedProblem, "The set in force holds it, or another set came into force meanwhile."),
        },
        openapi_extra=json_body(ActivateIn, EXAMPLE_REASON),
    )
    async def activate(request: Request, digest: DigestPath) -> Response:
        """Judged by the set in force, recorded in the ledger. To roll back, activate an earlier set."""
        principal = await endpoints.author(request.scope, AccessScope.POLICY_ACTIVATE)
        received = await _body(request, yaml=False, max_bytes=REASON_BYTES_MAX)
        if received is None:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        reason = _reason(strict_json.parse(received[0]).tree)
        made = await endpoints.timely(endpoints.activating.activate(digest, principal=principal, reason=reason))
        decision = {} if made.decision_id is None else {"decision_id": made.decision_id}
        return _json({**_activation(made.activation), **decision})

    return router


_ETAG: Final = {"ETag": {"description": "the digest, quoted", "schema": {"type": "string"}}}
_READ_PROBLEMS: Final = problem_responses(400, 401, 403, 429, 500, 503, 504)


def _problem(model: type[Any], description: str) -> dict[str, Any]:
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return {"description": description, "content": {CONTENT_TYPE: {"schema": schema}}}


def _with_yaml(extra: dict[str, Any]) -> dict[str, Any]:
    """The same body as a stream of YAML documents."""
    extra["requestBody"]["content"]["application/yaml"] = {
        "schema": {"type": "string", "description": "documents separated by `---`"}
    }
    return extra


async def _body(request: Request, *, yaml: bool, max_bytes: int) -> tuple[bytes, bool] | None:
    """Step 1: the body and whether it is YAML; None for a client that left, which no answer reaches."""
    scope = request.scope
    types = [value for name, value in scope["headers"] if name == b"content-type"]
    is_yaml = yaml and len(types) == 1 and types[0].split(b";")[0].strip().lower() in _YAML
    if is_yaml:
        # Everything but the type is judged alike; a file of YAML has the limit that it has in a directory.
        others = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
        scope = {**scope, "headers": [*others, (b"content-type", b"application/json")]}
        max_bytes = min(max_bytes, FILE_MAX_BYTES)
    try:
        return await read_body(scope, request.receive, max_bytes=max_bytes), is_yaml
    except ClientDisconnectedError:
        return None


def _text(body: bytes) -> str:
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise FirewallError(Kind.MALFORMED, "the body is not UTF-8", fix="send it as UTF-8") from None


def _documents(tree: Any) -> tuple[list[Any], str | None]:
    members = _members(tree, ("documents", "note"), fix='send `{"documents": [...]}`')
    documents, note = members.get("documents"), members.get("note")
    if not isinstance(documents, list) or not documents:
        raise FirewallError(
            Kind.MALFORMED,
            "`documents` is not a list with policies in it",
            pointer="/documents",
            fix="send at least one",
        )
    if note is not None and not isinstance(note, str):
        raise FirewallError(Kind.MALFORMED, "`note` is not a string", pointer="/note", fix="leave it out")
    return documents, note


def _reason(tree: Any) -> str:
    reason = _members(tree, ("reason",), fix='send `{"reason": "..."}`').get("reason")
    if not isinstance(reason, str):
        raise FirewallError(
            Kind.MALFORMED, "`reason` is not a string", pointer="/reason", fix='say why: `{"reason": "..."}`'
        )
    return reason


def _members(tree: Any, known: tuple[str, ...], *, fix: str) -> JsonObject:
    if not isinstance(tree, dict):
        raise FirewallError(Kind.MALFORMED, "the body is not an object", pointer="", fix=fix)
    refuse_unknown(tree, known=known, pointer="")
    return tree


def _etags(request: Request) -> frozenset[str]:
    """RFC 9110 section 13.1.2: a list, compared weakly, so that `W/` does not count; `*` is whatever there is."""
    listed = ",".join(request.headers.getlist("if-none-match"))
    return frozenset(part.strip().removeprefix("W/").strip('"') for part in listed.split(",") if part.strip())


def _is_known(digest: str, known: frozenset[str]) -> bool:
    return digest in known or "*" in known


def _signatures(digest: str, found: Collected) -> JsonObject:
    names = {one.keyid: one.name for one in found.signed.signers}
    return {
        "digest": digest,
        **described(found.signed),
        "stored": [
            {
                "name": names[one.keyid],
                "keyid": one.keyid,
                "added_by": one.added_by,
                "added_at": timestamp(one.added_at),
            }
            for one in found.stored
        ],
        "envelopes": [dsse.tree_of(one) for one in merged(one.envelope for one in found.stored)],
    }


def _activation(activation: Activation) -> JsonObject:
    return {
        "sequence": activation.sequence,
        "digest": activation.digest,
        **({} if activation.previous is None else {"previous": activation.previous}),
        "reason": activation.reason,
        "activated_by": activation.activated_by,
        "activated_at": timestamp(activation.activated_at),
        "ledger_id": str(activation.ledger_id),
        "ledger_index": activation.ledger_index,
    }


def _json(value: JsonObject, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status_code=status, media_type="application/json", headers=headers)
