"""`/docs` and `/v1/version`: what there is to ask, and who answers."""

import base64
from hashlib import sha256
from typing import Final

import orjson
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from app.core.quota import RouteClass
from app.edge.gate import Gate
from app.surfaces.openapi import SECURITY, problem_responses
from app.surfaces.reference.page import PAGE, SCRIPT, STYLE

DOCS: Final = "/docs"
VERSION: Final = "/v1/version"

# Versions of the interface that this release answers, the newest last.
API_VERSIONS: Final = ("v1",)


def _source(text: str) -> str:
    """A hash source of CSP: this very text, and no other (CSP level 3, section 6.7.2)."""
    return f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'"


# Nothing but the page's own style and script, which may ask this server; nobody frames it, and its form goes nowhere.
CONTENT_SECURITY_POLICY: Final = "; ".join(
    [
        "default-src 'none'",
        f"script-src {_source(SCRIPT)}",
        f"style-src {_source(STYLE)}",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)


class VersionOut(BaseModel):
    """Who answers."""

    model_config = ConfigDict(extra="forbid")

    version: str = Field(description="of the release", examples=["0.1.0"])
    api: list[str] = Field(description="versions of the interface that this release answers, the newest last")


def reference_router(*, version: str, gate: Gate) -> APIRouter:
    """The page for anybody, since it says nothing of its own; the version for callers with any valid credential."""
    router = APIRouter(tags=["service"])

    @router.get(DOCS, include_in_schema=False)
    async def page() -> Response:
        headers = {
            "content-security-policy": CONTENT_SECURITY_POLICY,
            "cross-origin-opener-policy": "same-origin",
            "referrer-policy": "no-referrer",
            "x-frame-options": "DENY",
        }
        return Response(PAGE, media_type="text/html", headers=headers)

    @router.get(
        VERSION,
        responses={200: {"model": VersionOut}, **problem_responses(400, 401, 429, 503)},
        summary="Who answers",
        operation_id="version",
        openapi_extra={"security": SECURITY},
    )
    async def told(request: Request) -> Response:
        """The release, and the versions of the interface that it answers."""
        await gate.admit(request.scope, RouteClass.READ, None)
        return Response(orjson.dumps({"version": version, "api": API_VERSIONS}), media_type="application/json")

    return router
