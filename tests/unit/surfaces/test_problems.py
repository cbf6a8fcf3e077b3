"""Every kind has its place on the wire, and nothing unforeseen keeps its detail."""

from typing import Annotated, Any

import httpx
import orjson
import pytest
from fastapi import FastAPI, Query
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from app.errors import FirewallError, Kind
from app.surfaces.problems import install_problem_handlers, internal_problem, problem, status_and_title

EXPECTED = {
    Kind.MALFORMED: 400,
    Kind.UNAUTHENTICATED: 401,
    Kind.TOKEN_EXPIRED: 401,
    Kind.FORBIDDEN: 403,
    Kind.NOT_FOUND: 404,
    Kind.METHOD_NOT_ALLOWED: 405,
    Kind.NOT_ACCEPTABLE: 406,
    Kind.CONFLICT: 409,
    Kind.TOO_LARGE: 413,
    Kind.UNSUPPORTED_MEDIA_TYPE: 415,
    Kind.UNSUPPORTED_ENCODING: 415,
    Kind.RATE_LIMITED: 429,
    Kind.UNAVAILABLE: 503,
    Kind.OVERLOADED: 503,
    Kind.TIMEOUT: 504,
    Kind.INVALID_SETTINGS: 503,
    Kind.INVALID_POLICY: 503,
    Kind.INVALID_SIGNATURE: 422,
    Kind.SCHEMA_MISMATCH: 503,
}


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_has_its_status_and_type(kind: Kind) -> None:
    answer = problem(FirewallError(kind, "what went wrong"), "r-1")
    body = orjson.loads(answer.body)
    assert answer.status == body["status"] == EXPECTED[kind]
    assert body == {
        "type": f"https://mutationfirewall.io/problems/{kind.value}",
        "title": status_and_title(kind)[1],
        "status": EXPECTED[kind],
        "detail": "what went wrong",
        "request_id": "r-1",
    }
    headers = dict(answer.headers)
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"content-length"] == str(len(answer.body)).encode()


@pytest.mark.parametrize("kind", list(Kind))
def test_which_codings_are_read_is_told_where_the_coding_was_at_fault_and_nowhere_else(kind: Kind) -> None:
    headers = dict(problem(FirewallError(kind, "d"), "r").headers)
    expected = b"gzip, zstd" if kind is Kind.UNSUPPORTED_ENCODING else None
    assert headers.get(b"accept-encoding") == expected


def test_what_is_known_is_told() -> None:
    error = FirewallError(Kind.UNAVAILABLE, "d", pointer="/change/diff", retry_after=1.2, fix="wait")
    answer = problem(error, "r", allow="GET, POST")
    body = orjson.loads(answer.body)
    assert (body["pointer"], body["retry_after"], body["fix"]) == ("/change/diff", 2, "wait")
    assert dict(answer.headers)[b"retry-after"] == b"2"
    assert dict(answer.headers)[b"allow"] == b"GET, POST"


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.0, b"1"), (0.001, b"1"), (1.0, b"1"), (1.000001, b"2"), (59.1, b"60")]
)
def test_retry_after_is_whole_seconds_rounded_up(seconds: float, told: bytes) -> None:
    answer = problem(FirewallError(Kind.RATE_LIMITED, "d", retry_after=seconds), "r")
    assert dict(answer.headers)[b"retry-after"] == told


def test_a_401_challenges_and_only_an_expired_token_hears_why() -> None:
    plain = dict(problem(FirewallError(Kind.UNAUTHENTICATED, "d"), "r").headers)[b"www-authenticate"]
    expired = dict(problem(FirewallError(Kind.TOKEN_EXPIRED, "d"), "r").headers)[b"www-authenticate"]
    assert plain == b'Bearer realm="mutation-firewall"'
    assert b'error="invalid_token"' in expired
    assert b"token expired" in expired


@given(st.text(st.characters()), st.text(st.characters()) | st.none())
def test_any_text_can_be_told(detail: str, pointer: str | None) -> None:
    """Half a surrogate pair included, which no JSON document can hold."""
    body = orjson.loads(problem(FirewallError(Kind.MALFORMED, detail, pointer=pointer), "r").body)
    assert body["detail"] == detail.encode("utf-8", "backslashreplace").decode()


def test_half_a_surrogate_pair_is_escaped() -> None:
    assert orjson.loads(problem(FirewallError(Kind.MALFORMED, "a\ud800"), "r").body)["detail"] == "a\\ud800"


def test_an_internal_error_tells_its_id_only() -> None:
    answer = internal_problem("r")
    body = orjson.loads(answer.body)
    assert (answer.status, body["request_id"], body["type"]) == (
        500,
        "r",
        "https://mutationfirewall.io/problems/internal",
    )


def test_an_internal_error_tells_what_it_was_in_debug_only() -> None:
    error = KeyError("the plan")
    quiet = orjson.loads(internal_problem("r", error=error).body)["detail"]
    assert "plan" not in quiet
    assert (
        orjson.loads(internal_problem("r", error=error, debug=True).body)["detail"] == f"{quiet}: KeyError: 'the plan'"
    )
    assert orjson.loads(internal_problem("r", debug=True).body)["detail"] == quiet


async def test_a_handler_tells_what_it_was_in_debug_only() -> None:
    transport = httpx.ASGITransport(application(debug=True), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://firewall") as client:
        detail = (await client.get("/unknown")).json()["detail"]
    assert detail.endswith(": RuntimeError: the secret plan")


def application(*, debug: bool = False) -> FastAPI:
    app = FastAPI()

    @app.get("/firewall")
    async def firewall() -> None:
        raise FirewallError(Kind.CONFLICT, "already there")

    @app.get("/unknown")
    async def unknown() -> None:
        raise RuntimeError("the secret plan")

    @app.get("/status/{code}")
    async def status(code: int) -> None:
        raise HTTPException(code, "the secret plan")

    @app.get("/query")
    async def query(number: Annotated[int, Query()]) -> None: ...

    @app.post("/body")
    async def body(value: dict[str, dict[str, int]]) -> None: ...

    install_problem_handlers(app, debug=debug)
    return app


async def ask(method: str, path: str, **options: Any) -> tuple[httpx.Response, dict[str, Any]]:
    transport = httpx.ASGITransport(application(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://firewall") as client:
        response = await client.request(method, path, **options)
    assert response.headers["content-type"] == "application/problem+json"
    assert int(response.headers["content-length"]) == len(response.content)
    body = response.json()
    assert body["status"] == response.status_code
    assert "secret plan" not in response.text
    return response, body


async def test_an_error_of_ours_becomes_its_problem() -> None:
    response, body = await ask("GET", "/firewall")
    assert (response.status_code, body["detail"]) == (409, "already there")


async def test_an_unknown_error_becomes_a_500_without_detail() -> None:
    response, body = await ask("GET", "/unknown")
    assert (response.status_code, body["type"].rpartition("/")[2]) == (500, "internal")


async def test_an_unknown_path_is_a_404() -> None:
    assert (await ask("GET", "/nowhere"))[0].status_code == 404


async def test_a_wrong_method_is_a_405_that_lists_the_right_ones() -> None:
    response, body = await ask("POST", "/firewall")
    assert response.status_code == 405
    assert response.headers["allow"] == "GET"
    assert body["fix"] == "use GET"


@pytest.mark.parametrize(
    ("raised", "answered"),
    [(400, 400), (401, 401), (403, 403), (404, 404), (405, 405), (418, 400), (422, 400), (502, 500)],
)
async def test_errors_of_the_framework_keep_to_the_documented_ones(raised: int, answered: int) -> None:
    assert (await ask("GET", f"/status/{raised}"))[0].status_code == answered


@pytest.mark.parametrize("path", ["/query", "/query?number=x", "/status/x"])
async def test_a_bad_parameter_is_a_400_and_never_a_422(path: str) -> None:
    response, body = await ask("GET", path)
    assert response.status_code == 400
    assert "pointer" not in body


async def test_a_bad_body_is_a_400_with_its_pointer() -> None:
    response, body = await ask("POST", "/body", json={"a/b": {"c": "x"}})
    assert response.status_code == 400
    assert body["pointer"] == "/a~1b/c"
