"""The API document is true: schemathesis asks what the document allows and what it forbids; every answer is in it."""

import pytest
import schemathesis
from hypothesis import HealthCheck, example, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.surfaces.native.models import EXAMPLE_REQUEST


@pytest.fixture(scope="module")
def document(service):
    return schemathesis.openapi.from_url(
        f"{service.url}/openapi.json", headers={"Authorization": f"Bearer {service.key}"}
    )


OPERATIONS = (
    ("/v1/decisions", "POST"),
    ("/kubernetes/v1/validate", "POST"),
    ("/envoy/v1/check/{path}", "GET"),
    ("/envoy/v1/check/{path}", "POST"),
    ("/v1/decisions:batch", "POST"),
    ("/v1/decisions", "GET"),
    ("/v1/decisions/{id}", "GET"),
    ("/v1/ledger/entries/{index}", "GET"),
    ("/v1/ledger/entries/{index}/proof", "GET"),
    ("/v1/ledger/consistency", "GET"),
    ("/v1/ledger/erasures", "POST"),
    ("/v1/policy-sets", "POST"),
    ("/v1/policy-sets", "GET"),
    ("/v1/policy-sets/active", "GET"),
    ("/v1/policy-sets/activations", "GET"),
    ("/v1/policy-sets/{digest}", "GET"),
    ("/v1/policy-sets/{digest}/activate", "POST"),
    ("/v1/policy-sets/{digest}/signatures", "GET"),
    ("/v1/policy-sets/{digest}/signatures", "POST"),
    ("/v1/switches", "POST"),
    ("/v1/switches", "GET"),
    ("/v1/switches/{id}", "DELETE"),
    ("/v1/keys", "GET"),
    ("/v1/keys", "POST"),
    ("/v1/keys/{id}", "GET"),
    ("/v1/keys/{id}", "DELETE"),
    ("/v1/keys/{id}/rotate", "POST"),
    ("/ledger/checkpoint", "GET"),
    ("/ledger/tile/{path}", "GET"),
    ("/v1/version", "GET"),
    ("/health", "GET"),
    ("/health/live", "GET"),
    ("/health/ready", "GET"),
    ("/health/startup", "GET"),
    ("/health/detailed", "GET"),
)
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.value)
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_every_answer_is_documented(document, service, path, method, mode):
    operation = document[path][method]
    statuses = set()

    @settings(max_examples=60 if method == "POST" else 5, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case):
        if isinstance(wait := (case.query or {}).get("wait"), int | float) and wait > 1:
            case.query["wait"] = 0.1  # a long poll is a right answer as well, but not in this test's time
        if str((case.headers or {}).get("X-Request-Timeout-Ms", "")).isdigit():
            # Who waits for a millisecond is rightly told that this is too little.
            case.headers["X-Request-Timeout-Ms"] = "60000"
        mine = path.startswith(("/v1/policy-sets", "/v1/keys", "/v1/switches", "/ledger", "/v1/ledger")) or (
            path.startswith("/v1/decisions") and method == "GET"
        )
        key = service.admin_key if mine else service.key
        answer = case.call(
            timeout=130, headers={"Authorization": f"Bearer {key}", "X-Mfw-Authorization": f"Bearer {key}"}
        )
        statuses.add(answer.status_code)
        case.validate_response(answer, checks=CHECKS)

    if (path, method) == ("/v1/decisions", "POST") and mode is GenerationMode.POSITIVE:
        # The document's own example goes first: what is generated may be malformed in ways that no schema can say.
        ask = example(case=operation.Case(body=EXAMPLE_REQUEST, media_type="application/json"))(ask)
    try:
        ask()
    except Unsatisfiable:
        # An operation without parameters has no wrong request.
        assert (method, mode) == ("GET", GenerationMode.NEGATIVE)
        return
    assert 500 not in statuses
    if (path, method) == ("/v1/decisions", "POST") and mode is GenerationMode.POSITIVE:
        assert 200 in statuses


def test_document_names_every_path(service):
    with service.client(key="") as client:
        assert client.get("/openapi.json").status_code == 401
    with service.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        "/v1/decisions",
        "/v1/decisions/{id}",
        "/v1/ledger/entries/{index}",
        "/v1/ledger/entries/{index}/proof",
        "/v1/ledger/consistency",
        "/v1/ledger/erasures",
        "/v1/decisions:batch",
        "/access/v1/evaluation",
        "/access/v1/evaluations",
        "/access/v1/search/subject",
        "/access/v1/search/resource",
        "/access/v1/search/action",
        "/.well-known/authzen-configuration",
        "/kubernetes/v1/validate",
        "/envoy/v1/check/{path}",
        "/agents/v1/claude-code",
        "/agents/v1/tool-call",
        "/agents/v1/mcp/check",
        "/github/v1/webhook",
        "/v1/policy-sets",
        "/v1/policy-sets/active",
        "/v1/policy-sets/activations",
        "/v1/policy-sets/{digest}",
        "/v1/policy-sets/{digest}/activate",
        "/v1/policy-sets/{digest}/signatures",
        "/v1/switches",
        "/v1/switches/{id}",
        "/v1/keys",
        "/v1/keys/{id}",
        "/v1/keys/{id}/rotate",
        "/ledger/checkpoint",
        "/ledger/tile/{path}",
        "/v1/version",
        "/health",
        "/health/live",
        "/health/ready",
        "/health/startup",
        "/health/detailed",
    }
