"""Hostile requests at gateways: a yes is about the one thing that any server behind would take the request for."""

import asyncio
import json
import unicodedata
from typing import Any
from urllib.parse import unquote

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from app.core.types import JsonObject
from app.surfaces.ext_authz.checking import Checks
from app.surfaces.ext_authz.grpc.messages import CheckRequest, CheckResponse
from app.surfaces.ext_authz.grpc.server import CheckServer
from app.surfaces.ext_authz.mapping import (
    DEFAULT_ROUTE,
    DEFAULT_SUBJECT,
    BodyUse,
    Gateway,
    GatewayKind,
    GatewayMapping,
    PathPattern,
    Refusals,
    Route,
    SubjectSource,
    Template,
)
from app.surfaces.ext_authz.routes import PREFIX, CheckEndpoint
from tests.corpus.cases import load
from tests.corpus.hostile import hostile, reading
from tests.corpus.served import MAX_BODY_BYTES, Kept, ask, gate, problem_of, service

QUICK = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
CREDENTIAL = "x-mfw-authorization"
STATED = [
    {name: value for name, value in case.mutation.items() if name in {"action", "resource", "change", "context"}}
    for case in load()[::8]
]
ROUTES = (
    Route(
        path=PathPattern(("orders", None), ("order",), None),
        resource_type="order",
        resource_id=Template("{host}/{order}"),
        methods=frozenset({"PUT"}),
        body=BodyUse.JSON,
        query=frozenset({"dry_run"}),
    ),
    Route(PathPattern(("mutations",), (), None), "-", Template("-"), body=BodyUse.MUTATION),
    DEFAULT_ROUTE,
)


def checks(ledger: Kept, kind: GatewayKind, subject: SubjectSource = DEFAULT_SUBJECT) -> Checks:
    return Checks(
        service(ledger),
        gate=gate(),
        mapping=GatewayMapping((Gateway((), kind, subject, Refusals.OWN),), ROUTES),
        credential_header=CREDENTIAL,
        certificate_header=None,
        max_body_bytes=MAX_BODY_BYTES,
    )


def asked(
    kind: GatewayKind, method: str, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes = b"", **more: Any
) -> tuple[Any, Kept]:
    """Ask as a gateway of a kind does."""
    ledger = Kept()
    endpoint = CheckEndpoint(checks(ledger, kind, **more), timeout_seconds=10)
    path = target if kind is GatewayKind.ENVOY else b"/"
    raw, _, query = path.partition(b"?")

    async def sent(scope: Scope, receive: Receive, send: Send) -> None:
        told = {"method": method, "raw_path": PREFIX.encode()[:-1] + raw, "query_string": query, "headers": headers}
        await endpoint({**scope, **told}, receive, send)

    return ask(sent, PREFIX, body), ledger


def judged(answer: Any, ledger: Kept) -> bool:
    """Whether it is let through; all that must hold of any answer holds."""
    if answer.status == 200:
        assert len(ledger.entries) == 1
        assert not answer.body
        return True
    told = problem_of(answer, reading)
    assert len(ledger.entries) == ("decision_id" in told)
    for text in (told["detail"], *(one["message"] for one in told.get("reasons", ()))):
        assert not [c for c in text if unicodedata.category(c) in {"Cc", "Cf", "Zl", "Zp", "Cs"}], text
    return False


def recorded(ledger: Kept) -> JsonObject:
    (entry,) = ledger.entries
    found: JsonObject = json.loads(entry.record)
    return found


PIECES = st.sampled_from(
    [
        *(
            b"/",
            b"//",
            b"a",
            b"A",
            b"..",
            b".",
            b"%2e",
            b"%2F",
            b"%252f",
            b"%5c",
            b"\\",
            b";",
            b";a=b",
            b"?",
            b"&",
            b"=",
        ),
        *(b"#", b"%", b"%00", b"%0d%0a", b"%c0%ae", b"%E2%80%AE", b"%EF%BC%8F", b"%C3%A9", b"\xc3\xa9", b" ", b"\t"),
        *(
            b"+",
            b"@",
            b":",
            b"*",
            b"~",
            b"http://h/",
            b"_method=DELETE",
            b"orders",
            b"mutations",
            b"%61",
            b"%7E",
            b"%20",
        ),
    ]
)
TARGETS = st.lists(PIECES, max_size=8).map(lambda pieces: b"/" + b"".join(pieces))
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *(b"host", b"x-agent-id", b"content-type", b"x-http-method-override", b"x_http_method_override"),
                *(b"x-original-url", b"x-rewrite-url", b"x-original-uri", b"x-forwarded-uri", b"x-forwarded-method"),
                *(b"x-envoy-auth-partial-body", b"content-encoding", b"x-mfw-authorization", b"x-method-override"),
            ]
        ),
        st.one_of(
            st.sampled_from(
                [b"", b"a", b"bot", b"a, b", b"DELETE", b"/admin", b"h:1", b"[::1]", b"\xff", b"true", b"gzip"]
            ),
            st.binary(max_size=6),
        ),
    ),
    max_size=4,
)
ALWAYS = [(b"host", b"api.example.com"), (b"x-agent-id", b"bot")]


@QUICK
@given(
    st.sampled_from(GatewayKind),
    st.sampled_from(["GET", "PUT", "DELETE", "OPTIONS", "get", "", "CONNECT", "A B"]),
    TARGETS,
    HEADERS,
)
def test_request(kind, method, target, headers):
    named = {
        GatewayKind.ENVOY: [],
        GatewayKind.NGINX: [b"x-original-method", b"x-original-host", b"x-original-uri"],
        GatewayKind.TRAEFIK: [b"x-forwarded-method", b"x-forwarded-host", b"x-forwarded-uri"],
    }[kind]
    own = list(zip(named, (method.encode(), b"api.example.com", target), strict=False))
    headers = [*ALWAYS, *own, *headers]
    answer, ledger = asked(kind, method, target, headers)
    if not judged(answer, ledger):
        return
    names = [name.replace(b"_", b"-") for name, _ in headers]
    for name in (b"host", b"x-agent-id", *named):
        assert (kind is not GatewayKind.ENVOY and name == b"host") or names.count(name) == 1, names
    path, _, query = target.partition(b"?")
    text = unquote(path.decode("ascii"), errors="strict")
    assert "//" not in text
    for bad in ("/./", "/../", "\\", ";", "%", "#", "?", "\x00", "\n"):
        assert bad not in f"{text.rstrip('/')}/" or bad == "%", text
    for name, value in headers:
        folded = name.replace(b"_", b"-")
        assert folded not in {b"x-http-method-override", b"x-method-override"} or value.decode() == method
        assert folded not in {b"x-original-url", b"x-rewrite-url"} or value == target
    assert b"_method=DELETE" not in query.replace(b"%5f", b"_").split(b"&") or method == "DELETE"


@QUICK
@given(hostile([{"total": 1, "lines": [{"sku": "a", "count": 2}]}]))
def test_body(body):
    answer, ledger = asked(
        GatewayKind.ENVOY, "PUT", b"/orders/7", [*ALWAYS, (b"content-type", b"application/json")], body
    )
    if judged(answer, ledger):
        reading(body)


@QUICK
@given(hostile(STATED))
def test_mutation(body):
    answer, ledger = asked(
        GatewayKind.ENVOY, "POST", b"/mutations", [*ALWAYS, (b"content-type", b"application/json")], body
    )
    if judged(answer, ledger):
        stated = reading(body)
        assert stated.get("subject", {"id": "bot"})["id"] == "bot"
        assert "deny" not in stated["resource"]["id"]


@QUICK
@given(hostile([{"type": "agent", "id": "bot", "properties": {"model": "m"}}]))
def test_subject(text):
    header = SubjectSource("x-subject", None)
    answer, ledger = asked(GatewayKind.ENVOY, "GET", b"/a", [(b"host", b"h"), (b"x-subject", text)], subject=header)
    if judged(answer, ledger):
        assert reading(text)["id"]


@QUICK
@given(
    st.builds(
        lambda cut, tail, good: good[: len(good) - cut] + tail,
        st.integers(0, 9),
        st.binary(max_size=9),
        st.sampled_from(
            [
                CheckRequest(
                    attributes={
                        "request": {
                            "http": {"method": "GET", "path": path, "host": host, "headers": {"x-agent-id": "bot"}}
                        }
                    }
                ).SerializeToString()
                for path in ("/a", "/a?b=c", "", "/\u202e")
                for host in ("h", "")
            ]
        ),
    )
)
def test_message(message):
    ledger = Kept()
    endpoint = CheckEndpoint(checks(ledger, GatewayKind.ENVOY), timeout_seconds=10)

    async def ready() -> bool:
        return True

    server = CheckServer(
        endpoint,
        host="127.0.0.1",
        port=0,
        tls=None,
        credential_header=CREDENTIAL,
        max_body_bytes=MAX_BODY_BYTES,
        concurrent_max=1,
        timeout_seconds=10,
        ready=ready,
    )
    told = CheckResponse.FromString(asyncio.run(server.check(message, _Context())))
    if told.status.code == 0:
        assert told.HasField("ok_response")
        assert len(ledger.entries) == 1
    else:
        assert told.denied_response.status.code in {400, 403}, told
        assert not told.HasField("ok_response")


class _Context:
    """What grpc tells of a call."""

    def peer(self) -> str:
        return "ipv4:192.0.2.1:4321"

    def auth_context(self) -> dict[str, Any]:
        return {}

    def time_remaining(self) -> None:
        return None

    def invocation_metadata(self) -> tuple[()]:
        return ()
