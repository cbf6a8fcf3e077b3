"""`/v1/keys`: making, listing, rotating and revoking API keys."""

from collections.abc import Awaitable
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID

import orjson
from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from app.core import strict_json
from app.core.members import listed, refuse_type, refuse_unknown, text
from app.core.principal import AccessScope, Principal, Role
from app.core.quota import RouteClass
from app.core.types import JsonObject
from app.edge.body import ClientDisconnectedError, read_body
from app.edge.context import CLIENT_CLOSED_REQUEST
from app.edge.gate import Gate
from app.errors import FirewallError, Kind
from app.ledger.receipt import timestamp
from app.persistence.api_keys import ApiKeyStore, StoredApiKey
from app.policies.store import TEXT_CHARACTERS_MAX
from app.service.keys import KeyService, WantedKey
from app.surfaces.answering import in_time
from app.surfaces.keys.models import (
    DAYS_MAX,
    EXAMPLE_KEY,
    EXAMPLE_ROTATION,
    GRACE_HOURS_DEFAULT,
    GRACE_HOURS_MAX,
    LIMIT_DEFAULT,
    LIMIT_MAX,
    KeyIn,
    KeyOut,
    KeysOut,
    NewKeyOut,
    RotatedKeyOut,
    RotateIn,
)
from app.surfaces.openapi import SECURITY, json_body, problem_responses

PATH: Final = "/v1/keys"

# 64 patterns and 64 networks of the longest kind.
BODY_BYTES_MAX: Final = 65_536

KeyId = Annotated[UUID, Path(description="as `GET /v1/keys` lists it")]

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)


class KeyEndpoints:
    """What the routes share: who asks, how often, and how long an answer may take."""

    def __init__(self, *, store: ApiKeyStore, keys: KeyService, gate: Gate, timeout_seconds: float) -> None:
        self.store = store
        self.keys = keys
        self._gate = gate
        self._timeout_seconds = timeout_seconds

    async def admit(self, request: Request, route: RouteClass) -> Principal:
        """Who may administer keys; to see which there are needs no less."""
        return await self._gate.admit(request.scope, route, AccessScope.KEYS_ADMIN)

    async def timely(self, work: Awaitable[T]) -> T:
        """Give up after the time that any request may take."""
        return await in_time(
            work,
            seconds=self._timeout_seconds,
            fix="look at `GET /v1/keys` first: it may have been done, and a key that nobody saw is to be revoked",
        )


def keys_router(endpoints: KeyEndpoints) -> APIRouter:
    """All routes of this surface."""
    router = APIRouter(tags=["keys"])

    @router.get(
        PATH,
        summary="List API keys",
        operation_id="list_keys",
        responses={200: {"model": KeysOut}, **_READ_PROBLEMS},
        openapi_extra={"security": SECURITY},
    )
    async def list_keys(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=LIMIT_MAX, description="how many at most")] = LIMIT_DEFAULT,
        after: Annotated[UUID | None, Query(description="`next` of the page before")] = None,
        all: Annotated[bool, Query(description="revoked and expired ones too")] = False,  # noqa: A002, FBT002 - the wire's
    ) -> Response:
        """Oldest first. The keys themselves cannot be shown again."""
        await endpoints.admit(request, RouteClass.READ)
        found = await endpoints.timely(endpoints.store.page(limit=limit + 1, after=after, everything=all))
        more = {"next": str(found[limit - 1].id)} if len(found) > limit else {}
        return _json({"items": [_key(one) for one in found[:limit]], **more})

    @router.post(
        PATH,
        status_code=201,
        summary="Make an API key",
        operation_id="create_key",
        responses={
            201: {"model": NewKeyOut, "description": "It is made; its text is in this answer and nowhere else."},
            **_WRITE_PROBLEMS,
        },
        openapi_extra=json_body(KeyIn, EXAMPLE_KEY),
    )
    async def create(request: Request) -> Response:
        """Recorded in the ledger. Nobody can give scopes that they do not have; an administrator can give all."""
        principal = await endpoints.admit(request, RouteClass.ADMIN)
        body = await _body(request)
        if body is None:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        wanted, reason = _wanted(_members(body, _CREATE_MEMBERS))
        made = await endpoints.timely(endpoints.keys.create(wanted, principal=principal, reason=reason))
        return _json(
            {"key": made.key, **_key(made.stored)}, status=201, headers={"Location": f"{PATH}/{made.stored.id}"}
        )

    @router.get(
        f"{PATH}/{{id}}",
        summary="One API key",
        operation_id="get_key",
        responses={200: {"model": KeyOut}, **_READ_PROBLEMS, **problem_responses(404)},
        openapi_extra={"security": SECURITY},
    )
    async def get(request: Request, id: KeyId) -> Response:  # noqa: A002 - the wire's name
        """Whatever became of it."""
        await endpoints.admit(request, RouteClass.READ)
        return _json(_key(await endpoints.timely(endpoints.store.get(id))))

    @router.post(
        f"{PATH}/{{id}}/rotate",
        status_code=201,
        summary="Replace an API key",
        operation_id="rotate_key",
        responses={
            201: {"model": RotatedKeyOut, "description": "Both work until the end of the old one."},
            **_WRITE_PROBLEMS,
            **problem_responses(404, 409),
        },
        openapi_extra=json_body(RotateIn, EXAMPLE_ROTATION),
    )
    async def rotate(request: Request, id: KeyId) -> Response:  # noqa: A002 - the wire's name
        """A new key with the same rights; the old one ends after the grace period. Recorded in the ledger."""
        principal = await endpoints.admit(request, RouteClass.ADMIN)
        body = await _body(request)
        if body is None:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        sent = _members(body, ("reason", "grace_hours"))
        hours = _whole(sent, "grace_hours", low=0, high=GRACE_HOURS_MAX)
        grace = timedelta(hours=GRACE_HOURS_DEFAULT if hours is None else hours)
        reason = text(sent, "reason", pointer="")
        done = await endpoints.timely(endpoints.keys.rotate(id, principal=principal, reason=reason, grace=grace))
        answer = {"key": done.new.key, **_key(done.new.stored), "replaced": _key(done.old)}
        return _json(answer, status=201, headers={"Location": f"{PATH}/{done.new.stored.id}"})

    @router.delete(
        f"{PATH}/{{id}}",
        summary="Revoke an API key",
        operation_id="revoke_key",
        responses={
            200: {"model": KeyOut, "description": "It is worthless; other replicas refuse it within two seconds."},
            **_READ_PROBLEMS,
            **problem_responses(404, 409),
        },
        openapi_extra={"security": SECURITY},
    )
    async def revoke(
        request: Request,
        id: KeyId,  # noqa: A002 - the wire's name
        reason: Annotated[
            str, Query(min_length=1, max_length=TEXT_CHARACTERS_MAX, pattern=r"\S", description="for the ledger")
        ],
        force: Annotated[bool, Query(description="even the last key of an administrator")] = False,  # noqa: FBT002
    ) -> Response:
        """Recorded in the ledger; once more changes nothing."""
        principal = await endpoints.admit(request, RouteClass.ADMIN)
        done = await endpoints.timely(endpoints.keys.revoke(id, principal=principal, reason=reason, force=force))
        return _json(_key(done))

    return router


_READ_PROBLEMS: Final = problem_responses(400, 401, 403, 429, 500, 503, 504)
_WRITE_PROBLEMS: Final = {**_READ_PROBLEMS, **problem_responses(413, 415)}
_CREATE_MEMBERS: Final = (
    "name",
    "principal_id",
    "roles",
    "scopes",
    "subjects",
    "networks",
    "expires_in_days",
    "reason",
)


async def _body(request: Request) -> bytes | None:
    """Step 1: None for a client that left, which no answer reaches."""
    try:
        return await read_body(request.scope, request.receive, max_bytes=BODY_BYTES_MAX)
    except ClientDisconnectedError:
        return None


def _members(body: bytes, known: tuple[str, ...]) -> JsonObject:
    tree = strict_json.parse(body).tree
    if not isinstance(tree, dict):
        raise FirewallError(Kind.MALFORMED, "the body is not an object", pointer="", fix=f"members are {listed(known)}")
    refuse_unknown(tree, known=known, pointer="")
    return tree


def _wanted(sent: JsonObject) -> tuple[WantedKey, str]:
    days = _whole(sent, "expires_in_days", low=1, high=DAYS_MAX)
    wanted = WantedKey(
        name=text(sent, "name", pointer=""),
        principal_id=text(sent, "principal_id", pointer="") if "principal_id" in sent else "",
        roles=_named(sent, "roles", Role),
        scopes=_named(sent, "scopes", AccessScope),
        subjects=_texts(sent, "subjects"),
        networks=_texts(sent, "networks"),
        lifetime=None if days is None else timedelta(days=days),
    )
    return wanted, text(sent, "reason", pointer="")


def _texts(sent: JsonObject, name: str) -> tuple[str, ...]:
    values = sent.get(name, [])
    if not isinstance(values, list):
        raise refuse_type(values, expected="an array", pointer=f"/{name}")
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise refuse_type(value, expected="a string", pointer=f"/{name}/{index}")
    return tuple(values)


def _named(sent: JsonObject, name: str, known: type[E]) -> frozenset[E]:
    """Members of a closed set. Unlike names that are stored, one that is not known is refused."""
    found = set()
    for index, value in enumerate(_texts(sent, name)):
        try:
            found.add(known(value))
        except ValueError:
            raise FirewallError(
                Kind.MALFORMED,
                f"`{value[:80]}` is none of the {name}",
                pointer=f"/{name}/{index}",
                fix=f"known are {listed(known)}",
            ) from None
    return frozenset(found)


def _whole(sent: JsonObject, name: str, *, low: int, high: int) -> int | None:
    value = sent.get(name, low)
    # JSON Schema does not tell 7 from 7.0.
    if isinstance(value, bool) or not (isinstance(value, int) or (isinstance(value, float) and value.is_integer())):
        raise refuse_type(value, expected="a whole number", pointer=f"/{name}")
    if not low <= value <= high:
        raise FirewallError(Kind.MALFORMED, f"`{name}` is a whole number from {low} to {high}", pointer=f"/{name}")
    return int(value) if name in sent else None


def _key(key: StoredApiKey) -> JsonObject:
    moments = {"expires_at": key.expires_at, "revoked_at": key.revoked_at, "last_used_at": key.last_used_at}
    return {
        "id": str(key.id),
        "name": key.name,
        "principal_id": key.principal_id,
        "roles": sorted(key.roles),
        "scopes": sorted(key.scopes),
        "subjects": list(key.subjects),
        "networks": list(key.networks),
        "created_at": timestamp(key.created_at),
        **{name: timestamp(moment) for name, moment in moments.items() if moment is not None},
        **({} if key.replaces is None else {"replaces": str(key.replaces)}),
    }


def _json(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """`Cache-Control: no-store` comes with every answer (edge/context.py)."""
    return Response(orjson.dumps(value), status_code=status, media_type="application/json", headers=headers)
