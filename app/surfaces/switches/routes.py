"""`/v1/switches`: throwing, listing and ending kill switches."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID

import orjson
from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response
from starlette.types import Scope

from app.core import strict_json
from app.core.members import refuse_type, refuse_unknown, text
from app.core.principal import AccessScope, Principal
from app.core.quota import RouteClass
from app.core.switches import SwitchKind
from app.core.types import JsonObject
from app.edge.body import ClientDisconnectedError, read_body
from app.edge.context import CLIENT_CLOSED_REQUEST
from app.edge.gate import Gate
from app.errors import FirewallError, Kind
from app.ledger.receipt import timestamp
from app.persistence.switchboard import Switchboard
from app.persistence.switches import StoredSwitch
from app.policies.durations import check_duration, seconds
from app.policies.store import TEXT_CHARACTERS_MAX
from app.service.switch import SwitchService, Wanted
from app.surfaces.answering import in_time
from app.surfaces.openapi import SECURITY, json_body, problem_responses
from app.surfaces.switches.models import (
    EXAMPLE_SWITCH,
    LIMIT_DEFAULT,
    LIMIT_MAX,
    SwitchesOut,
    SwitchIn,
    SwitchOut,
)

PATH: Final = "/v1/switches"

BODY_BYTES_MAX: Final = 16_384

Everything = Annotated[bool, Query(alias="all", description="those that are over too, from the database")]

T = TypeVar("T")


class SwitchEndpoints:
    """What the routes share. `now` is aware and in UTC."""

    def __init__(
        self,
        service: SwitchService,
        *,
        board: Switchboard,
        gate: Gate,
        now: Callable[[], datetime],
        timeout_seconds: float,
    ) -> None:
        self.service = service
        self.board = board
        self.now = now
        self._gate = gate
        self._timeout_seconds = timeout_seconds

    async def operator(self, scope: Scope) -> Principal:
        """Who may throw switches, and see them."""
        return await self._gate.admit(scope, RouteClass.ADMIN, AccessScope.OPS)

    async def timely(self, work: Awaitable[T]) -> T:
        """Give up after the time that any request may take."""
        return await in_time(
            work,
            seconds=self._timeout_seconds,
            fix="look at `GET /v1/switches` before asking again: it may have been done",
        )

    def shown(self, one: StoredSwitch) -> JsonObject:
        """A switch as it is shown; what does not apply is left out."""
        switch = one.switch
        ended: JsonObject = {}
        if one.ended_at is not None:
            ended = {
                "ended_at": timestamp(one.ended_at),
                "ended_by": one.ended_by,
                "end_reason": one.end_reason,
                "end_ledger_index": one.end_ledger_index,
            }
        return {
            "id": switch.id,
            "kind": switch.kind.value,
            **({} if switch.target is None else {"target": switch.target}),
            "in_force": one.ended_at is None and switch.holds(self.now()),
            **({} if switch.until is None else {"until": timestamp(switch.until)}),
            "reason": one.reason,
            "thrown_by": one.thrown_by,
            "thrown_at": timestamp(one.thrown_at),
            "ledger_index": one.ledger_index,
            **ended,
        }


def switches_router(endpoints: SwitchEndpoints) -> APIRouter:
    """All routes of this surface."""
    router = APIRouter(tags=["kill switches"])

    @router.post(
        PATH,
        status_code=201,
        summary="Throw a kill switch",
        operation_id="throw_switch",
        responses={
            201: {"model": SwitchOut, "description": "It is in force here, and at every replica within 2 seconds."},
            **problem_responses(400, 401, 403, 404, 409, 413, 415, 429, 500, 503, 504),
        },
        openapi_extra=json_body(SwitchIn, EXAMPLE_SWITCH),
    )
    async def throw(request: Request) -> Response:
        """No policy judges it, and the ledger has it. A `shadow` needs the scope `policy:activate` as well."""
        principal = await endpoints.operator(request.scope)
        try:
            body = await read_body(request.scope, request.receive, max_bytes=BODY_BYTES_MAX)
        except ClientDisconnectedError:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        wanted = _wanted(strict_json.parse(body).tree)
        made = await endpoints.timely(endpoints.service.throw(wanted, principal=principal))
        return _json(endpoints.shown(made), status=201, headers={"Location": f"{PATH}/{made.switch.id}"})

    @router.get(
        PATH,
        summary="List kill switches",
        operation_id="list_switches",
        responses={200: {"model": SwitchesOut}, **problem_responses(400, 401, 403, 429, 500, 503, 504)},
        openapi_extra={"security": SECURITY},
    )
    async def list_switches(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=LIMIT_MAX, description="how many at most")] = LIMIT_DEFAULT,
        everything: Everything = False,  # noqa: FBT002 - a query parameter
    ) -> Response:
        """Those in force as the replica that answers knows them, the latest first; with `all` every one ever."""
        await endpoints.operator(request.scope)
        if everything:
            found = await endpoints.timely(endpoints.service.history(limit=limit))
        elif not endpoints.board.known:
            raise FirewallError(Kind.UNAVAILABLE, "the kill switches are not known yet", retry_after=1)
        else:
            found = endpoints.board.in_force()[::-1][:limit]
        return _json({"items": [endpoints.shown(one) for one in found]})

    @router.delete(
        f"{PATH}/{{id}}",
        summary="End a kill switch",
        operation_id="end_switch",
        responses={
            200: {"model": SwitchOut, "description": "It is over here, and at every replica within 2 seconds."},
            **problem_responses(400, 401, 403, 404, 409, 429, 500, 503, 504),
        },
        openapi_extra={"security": SECURITY},
    )
    async def end(
        request: Request,
        id: Annotated[UUID, Path(description="what throwing it gave")],  # noqa: A002 - the parameter's name
        reason: Annotated[str, Query(min_length=1, max_length=TEXT_CHARACTERS_MAX, description="why, for the ledger")],
    ) -> Response:
        """Before its time, or because it has none. The reason is a parameter, since a DELETE has no body."""
        principal = await endpoints.operator(request.scope)
        made = await endpoints.timely(endpoints.service.end(id, reason=reason, principal=principal))
        return _json(endpoints.shown(made))

    return router


def _wanted(tree: Any) -> Wanted:
    if not isinstance(tree, dict):
        raise FirewallError(
            Kind.MALFORMED, "the body is not an object", pointer="", fix='send `{"kind": "...", "reason": "..."}`'
        )
    refuse_unknown(tree, known=("kind", "target", "reason", "for"), pointer="")
    kind = text(tree, "kind", pointer="")
    if kind not in tuple(SwitchKind):
        raise FirewallError(
            Kind.MALFORMED,
            f"`{kind[:80]}` is no kind of switch",
            pointer="/kind",
            fix=f"the kinds are {', '.join(f'`{one}`' for one in SwitchKind)}",
        )
    target, duration = tree.get("target"), tree.get("for")
    if target is not None and not isinstance(target, str):
        raise refuse_type(target, expected="a string", pointer="/target")
    return Wanted(
        kind=SwitchKind(kind),
        target=target or None,
        reason=text(tree, "reason", pointer=""),
        seconds=None if duration is None or duration == "" else _seconds(duration),
    )


def _seconds(duration: Any) -> int:
    if not isinstance(duration, str):
        raise refuse_type(duration, expected="a string such as `1h`", pointer="/for")
    try:
        check_duration(duration)
    except ValueError as error:
        detail, _, fix = str(error).partition("; ")
        raise FirewallError(Kind.MALFORMED, detail, pointer="/for", fix=fix) from None
    return seconds(duration)


def _json(value: JsonObject, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status_code=status, media_type="application/json", headers=headers)
