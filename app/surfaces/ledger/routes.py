"""`/ledger/`: the log as C2SP tlog-tiles has it, so that readers and auditors of that format work on it unchanged."""

import asyncio
import gzip
from collections.abc import Awaitable
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Path, Request
from starlette.responses import Response
from starlette.types import Scope

from app.core.principal import AccessScope
from app.core.quota import RouteClass
from app.core.tiles import TileId, parse_path
from app.edge.context import context_of
from app.edge.gate import Gate
from app.errors import FirewallError, Kind
from app.ledger.published import PublishedLedger
from app.surfaces.answering import in_time
from app.surfaces.openapi import SECURITY, problem_responses

PREFIX: Final = "/ledger"
CHECKPOINT: Final = f"{PREFIX}/checkpoint"
TILE: Final = f"{PREFIX}/tile/{{path:path}}"

# A year, the longest that RFC 9111 caches are expected to honour; what a tile says never changes.
_FOR_EVER: Final = b"max-age=31536000, immutable"
# Receipts are half digests: more effort saves next to nothing.
_GZIP_LEVEL: Final = 5
_CODINGS: Final = frozenset({"gzip", "x-gzip", "*"})

_PROBLEMS: Final = problem_responses(400, 401, 403, 404, 429, 500, 503, 504)

T = TypeVar("T")


class LedgerEndpoints:
    """What the routes share: who asks, how often, and how long an answer may take."""

    def __init__(self, ledger: PublishedLedger, *, gate: Gate, public: bool, timeout_seconds: float) -> None:
        """`public` asks nobody who they are."""
        self.ledger = ledger
        self._gate = gate
        self._public = public
        self._timeout_seconds = timeout_seconds
        # A shared cache keeps what came with a credential only where it is told so (RFC 9111 section 3.5).
        self._keep = (b"public, " if public else b"private, ") + _FOR_EVER

    async def admit(self, scope: Scope) -> None:
        """Who may read the ledger."""
        if self._public:
            await self._gate.admit_anyone(scope, RouteClass.READ)
        else:
            await self._gate.admit(scope, RouteClass.READ, AccessScope.LEDGER_READ)

    async def timely(self, work: Awaitable[T]) -> T:
        """Give up after the time that any request may take."""
        return await in_time(work, seconds=self._timeout_seconds)

    def keep(self, scope: Scope) -> None:
        """The answer to this request never changes, if there is one: what is not there yet may come."""
        context_of(scope).keep = self._keep


def ledger_router(endpoints: LedgerEndpoints) -> APIRouter:
    """All routes of this surface."""
    router = APIRouter(tags=["ledger"])

    @router.get(
        CHECKPOINT,
        summary="The newest signed checkpoint",
        operation_id="ledger_checkpoint",
        response_class=Response,
        responses={200: _content("text/plain; charset=utf-8", {"type": "string"}), **_PROBLEMS},
        openapi_extra={"security": SECURITY},
    )
    async def checkpoint(request: Request) -> Response:
        """A signed note (C2SP tlog-checkpoint) with the cosignatures of witnesses: save it, to verify with it later."""
        await endpoints.admit(request.scope)
        note = await endpoints.timely(endpoints.ledger.checkpoint())
        return Response(note, media_type="text/plain; charset=utf-8")

    @router.get(
        TILE,
        summary="A tile of hashes, or a bundle of entries",
        operation_id="ledger_tile",
        response_class=Response,
        responses={
            200: _content("application/octet-stream", {"type": "string", "format": "binary"}),
            **_PROBLEMS,
        },
        openapi_extra={"security": SECURITY},
    )
    async def tile(
        request: Request,
        path: Annotated[
            str,
            Path(
                description="`<L>/<N>[.p/<W>]` for hashes, `entries/<N>[.p/<W>]` for entries (C2SP tlog-tiles)",
                examples=["0/x001/x234/067", "entries/000.p/12"],
            ),
        ],
    ) -> Response:
        """Hashes are 32 bytes each; an entry is a receipt with its length before it, 16 bits. They never change."""
        await endpoints.admit(request.scope)
        try:
            named = parse_path(f"tile/{path}")
        except FirewallError as error:
            raise FirewallError(Kind.NOT_FOUND, error.detail, fix=error.fix) from None
        headers: dict[str, str] = {}
        if isinstance(named, TileId):
            # Hashes do not get smaller.
            content = await endpoints.timely(endpoints.ledger.tile(named))
        else:
            content = await endpoints.timely(endpoints.ledger.bundle(named))
            headers["vary"] = "accept-encoding"
            if _takes_gzip(request):
                headers["content-encoding"] = "gzip"
                # Some milliseconds, in which decisions go on. No time in the header: the same bytes each time.
                content = await asyncio.to_thread(gzip.compress, content, _GZIP_LEVEL, mtime=0)
        endpoints.keep(request.scope)
        return Response(content, media_type="application/octet-stream", headers=headers)

    return router


def _takes_gzip(request: Request) -> bool:
    """Whether the client said that it reads gzip (RFC 9110 section 12.5.3); one that says nothing gets it plain."""
    taken: dict[str, bool] = {}
    for item in ",".join(request.headers.getlist("accept-encoding")).split(","):
        coding, _, weight = item.partition(";")
        name = coding.strip().lower()
        if name in _CODINGS:
            taken[name] = weight.replace(" ", "").lower() not in {"q=0", "q=0.", "q=0.0", "q=0.00", "q=0.000"}
    return taken.get("gzip", taken.get("x-gzip", taken.get("*", False)))


def _content(media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {media_type: {"schema": schema}}}
