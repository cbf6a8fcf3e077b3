"""What the API document says beside the routes: security schemes, problems, bodies that no pydantic model reads."""

from typing import Any, Final

import orjson
from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field
from starlette.responses import Response

from app.core.quota import RouteClass
from app.edge.encoding import ACCEPTED
from app.edge.gate import Gate
from app.surfaces.problems import CONTENT_TYPE

PATH: Final = "/openapi.json"

SECURITY: Final[list[dict[str, list[str]]]] = [{"bearer": []}, {"apiKey": []}]

_SCHEMES: Final[dict[str, dict[str, str]]] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "an API key (`mfw_...`) or a JSON Web Token of the configured issuer",
    },
    "gateway": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Mfw-Authorization",
        "description": "`Bearer` and a credential of a gateway; `Authorization` belongs to whoever asks the gateway",
    },
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "an API key (`mfw_...`)"},
    "githubSignature": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Hub-Signature-256",
        "description": "HMAC-SHA-256 of the body under the secret of the webhook: `sha256=...`",
    },
}

# For routes whose answers can be had again.
ONCE: Final[dict[str, Any]] = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "description": "the same request under the same key gets the same answer for 24 hours "
            "(draft-ietf-httpapi-idempotency-key-header)",
            "schema": {"type": "string", "pattern": '^("[A-Za-z0-9._~-]{1,255}"|[A-Za-z0-9._~-]{1,255})$'},
            "example": '"8e03978e-40d5-43dd-bc93-6894a57f9324"',
        }
    ]
}
# Of every route that can be late.
_TIMEOUT: Final[dict[str, Any]] = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "required": False,
    "description": "how long the caller waits, in milliseconds; what is not done by then is given up and answered 504",
    "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999_999},
    "example": 10_000,
}
REPLAYED_HEADER: Final[dict[str, Any]] = {
    "Idempotency-Replayed": {
        "description": "`true` where this answer was given before, and nothing was decided now",
        "schema": {"type": "string", "enum": ["true"]},
    }
}

_WHEN: Final = {
    400: "The request is malformed; `pointer` says where.",
    401: "No valid credential was sent.",
    403: "The caller lacks the role that is needed.",
    404: "There is nothing here.",
    405: "The method is not allowed here.",
    406: "There is no representation of this that `Accept` takes; `fix` has those that there are.",
    409: "The request conflicts with the present state.",
    413: "The body is too large.",
    415: "The body is not `application/json`, or in another coding than `gzip` or `zstd`.",
    422: "The signatures do not hold.",
    429: "Too many requests; `Retry-After` says when to come back.",
    500: "An internal error; nothing was allowed.",
    503: "A dependency is unavailable, or the service is overloaded; nothing was allowed.",
    504: "A dependency did not answer in time; nothing was allowed.",
}

_RETRY: Final = {
    "Retry-After": {"description": "seconds to wait (RFC 9110)", "schema": {"type": "integer", "minimum": 1}}
}
_CODINGS: Final = {
    "Accept-Encoding": {
        "required": False,
        "description": "there if the content encoding was at fault (RFC 9110 section 12.5.3)",
        "schema": {"type": "string", "enum": [ACCEPTED.decode()]},
    }
}
_CHALLENGE: Final = {
    "WWW-Authenticate": {"description": "RFC 6750", "schema": {"type": "string"}},
}


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(json_schema_extra={"format": "uri"}, description="stable; one per kind of error")
    title: str
    status: int
    detail: str
    request_id: str = Field(description="under which the log knows the request")
    pointer: str = Field(default="", description="RFC 6901 pointer of the member at fault")
    fix: str = Field(default="", description="what to do instead")
    retry_after: int = Field(default=1, ge=1, description="seconds to wait")


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems that a route may answer, for its `responses`."""
    return {status: _problem_response(status) for status in statuses}


def _problem_response(status: int) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": _WHEN[status],
        "content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    if status == 401:
        response["headers"] = _CHALLENGE
    elif status in {429, 503, 504}:
        response["headers"] = _RETRY
    elif status == 415:
        response["headers"] = _CODINGS
    return response


def json_body(model: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    """A required JSON body and the security schemes, for a route's `openapi_extra`; the model's parts stand inline."""
    return {
        "security": SECURITY,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": inlined(model), "example": example}},
        },
    }


def inlined(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of a model with its parts in their places, for what no `responses` of FastAPI can name."""
    schema = model.model_json_schema()
    parts: dict[str, Any] = schema.pop("$defs", {})
    made: dict[str, Any] = _inlined(schema, parts)
    return made


def install_openapi(app: FastAPI) -> None:
    """Make the application's document OpenAPI with our security schemes and the one schema of all problems."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                summary=app.summary,
                description=app.description,
                routes=app.routes,
            )
            components = document.setdefault("components", {})
            components["securitySchemes"] = _SCHEMES
            components.setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
            for path in document["paths"].values():
                for operation in path.values():
                    if "504" in operation["responses"]:
                        operation["parameters"] = [*operation.get("parameters", ()), _TIMEOUT]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI documents this assignment as the way to do it


def openapi_router(app: FastAPI, *, gate: Gate) -> APIRouter:
    """`/openapi.json`, for callers with any valid credential: nobody is anonymous here but probes of health."""
    router = APIRouter()

    @router.get(PATH, include_in_schema=False)
    async def document(request: Request) -> Response:
        await gate.admit(request.scope, RouteClass.READ, None)
        return Response(orjson.dumps(app.openapi()), media_type="application/json")

    return router


def _inlined(node: Any, parts: dict[str, Any]) -> Any:
    """A schema with every reference into `parts` replaced by what it names; the parts must not be recursive."""
    if isinstance(node, dict):
        reference = node.get("$ref")
        if isinstance(reference, str):
            name = reference.rpartition("/")[2]
            # A JSON value is anything at all: the empty schema.
            return {} if name == "JsonValue" else _inlined(parts[name], parts)
        return {name: _inlined(value, parts) for name, value in node.items()}
    if isinstance(node, list):
        return [_inlined(value, parts) for value in node]
    return node
