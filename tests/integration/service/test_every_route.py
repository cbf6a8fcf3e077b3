"""No route without a gate: each is asked with nothing, with every scope by itself, and with all but the one it needs."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from app.bootstrap import create_app
from app.core.principal import AccessScope
from app.persistence.api_keys import ApiKeyStore
from app.persistence.engine import create_engine
from app.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
ROW = re.compile(
    r"^\| (`(?:GET|POST|PUT|PATCH|DELETE) /.*`) \| (`[a-z:]+`(?: or `[a-z:]+`)?|none|any|signature) \|$", re.MULTILINE
)
NONE, ANY, SIGNATURE = "none", "any", "signature"
# What a route's path needs to reach its gate.
IN_PATHS = {
    "digest": "sha256:" + "0" * 64,
    "path": "0/000",
    "id": "5f0c6b0e-8d1f-4c59-9f8a-1c2d3e4f5a6b",
    "index": "0",
}
IN_QUERIES = {
    (method, path): {"reason": "a test"}
    for method, path in [("DELETE", "/v1/keys/{id}"), ("DELETE", "/v1/switches/{id}")]
} | {("GET", "/v1/ledger/consistency"): {"from": "0"}}

# Routes of gateways: their credential has a header of its own, and nobody is told 401.
GATEWAYS = "/envoy/"

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def credential_header(path: str) -> str:
    return "X-Mfw-Authorization" if path.startswith(GATEWAYS) else "Authorization"


def documented() -> dict[tuple[str, str], str]:
    """What docs/identity.md says each route needs."""
    found = {}
    for routes, needed in ROW.findall((ROOT / "docs" / "identity.md").read_text()):
        for route in routes.split(", "):
            method, path = route.strip("`").split(" ")
            found[method, path] = needed.replace("`", "")
    return found


def served(app: Any) -> Iterator[tuple[str, str]]:
    """Method and path of every route of the application behind the middleware."""
    while not isinstance(app, FastAPI):
        app = vars(app).get("_app") or vars(app)["app"]
    yield from routes_of(app.router)


def routes_of(router: Any) -> Iterator[tuple[str, str]]:
    for route in router.routes:
        # FastAPI keeps an included router as it is.
        if (included := getattr(route, "original_router", None)) is not None:
            assert not route.include_context.prefix
            yield from routes_of(included)
            continue
        assert isinstance(route, APIRoute), f"{route} is not behind a gate"
        for method in route.methods or ():
            yield method, route.path_format


@pytest.fixture(scope="module")
def routes(shared_database_dsn):
    settings = {
        "MFW_ENVIRONMENT": "test",
        "MFW_DATABASE__URL": shared_database_dsn,
        "MFW_POLICIES__DIRECTORY": str(ROOT / "policies" / "starter"),
        "MFW_METRICS__ENABLED": "false",
    }
    return sorted(served(create_app(Settings.load(settings))))


@pytest.fixture(scope="module")
def keys(shared_database_dsn):
    """A key for each scope by itself, and one for all but each."""

    async def make() -> dict[tuple[AccessScope, bool], str]:
        engine = create_engine(shared_database_dsn)
        store = ApiKeyStore(engine)
        made = {}
        for scope in AccessScope:
            for alone in (True, False):
                scopes = {scope} if alone else set(AccessScope) - {scope}
                made[scope, alone] = (await store.create("t", principal_id="t", scopes=scopes)).key
        await engine.dispose()
        return made

    return asyncio.run(make())


@pytest.fixture(scope="module")
def asked(shared_database_dsn, keys):
    """How the service answers a route with a key."""
    from tests.integration.service.conftest import running

    with (
        running(
            shared_database_dsn,
            keys={"key": "", "operator_key": "", "admin_key": ""},
            MFW_LIMITS__ADMIN_BURST="100000",
            MFW_LIMITS__READ_BURST="100000",
        ) as service,
        httpx.Client(base_url=service.url, timeout=60) as client,
    ):
        needed = documented()

        def ask(method: str, path: str, key: str | None) -> int:
            answer = client.request(
                method,
                path.format(**IN_PATHS),
                params=IN_QUERIES.get((method, path)),
                # Enough to get past step 1 and to the gate, not past step 4.
                json={} if method in {"POST", "PUT", "PATCH"} else None,
                headers={} if key is None else {credential_header(path): f"Bearer {key}"},
            )
            if needed[method, path] != NONE:
                # How often the class of the route may be asked, and what remains where somebody is known.
                assert "ratelimit-policy" in answer.headers, path
                assert ("ratelimit" in answer.headers) == (key is not None and needed[method, path] != SIGNATURE), path
                assert len(answer.headers.get_list("ratelimit-policy")) == 1, path
            return answer.status_code

        yield ask


def test_the_page_names_every_route(routes):
    assert sorted(documented()) == routes


def test_every_route_needs_what_the_page_says(routes, keys, asked):
    needed = documented()
    for route in routes:
        without = asked(*route, None)
        if needed[route] == NONE:
            assert without not in {401, 403}, route
            continue
        assert without == (403 if route[1].startswith(GATEWAYS) else 401), route
        passes = {scope for scope in AccessScope if asked(*route, keys[scope, True]) not in {401, 403}}
        if needed[route] == ANY:
            assert passes == set(AccessScope), route
            continue
        if needed[route] == SIGNATURE:
            assert passes == set(), route
            continue
        scopes = {AccessScope(one) for one in needed[route].split(" or ")}
        assert passes == scopes, route
        for scope in scopes:
            assert (asked(*route, keys[scope, False]) == 403) == (scopes == {scope}), route
