"""Both clients, over a transport of the test's own: what is sent, what is asked again, and that doubt denies."""

import asyncio
import inspect
import json
import logging
import subprocess
import sys
import time
import types
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from app.client import AsyncFirewall, Firewall, ProblemError, ProblemKind, connection
from app.client import operations as asked
from tests.unit.client.test_answers import FULL

MUTATION = {
    "subject": {"type": "agent", "id": "a"},
    "action": {"name": "update"},
    "resource": {"type": "t", "id": "r"},
    "change": {"after": {}},
}
URL = "https://firewall.example.com"
OBLIGED = FULL
PLAIN = {name: value for name, value in FULL.items() if name != "obligations"}
BUSY = {"title": "overloaded", "type": "https://mutationfirewall.io/problems/overloaded", "retry_after": 0}


class Service:
    """Answers in turn; an exception is raised. The last one stays."""

    def __init__(self, *turns: "httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]") -> None:
        self.turns = list(turns)
        self.seen: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        turn = self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]
        if isinstance(turn, Exception):
            raise turn
        return turn(request) if callable(turn) else turn

    async def later(self, request: httpx.Request) -> httpx.Response:
        return self(request)


class Raw(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that is still on its way."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __iter__(self):
        yield self.content

    async def __aiter__(self):
        yield self.content


def answer(status: int = 200, value: Any = PLAIN, **headers: str) -> Callable[[httpx.Request], httpx.Response]:
    """A fresh response each time: a stream is read once."""
    return lambda _: httpx.Response(status, stream=Raw(json.dumps(value).encode()), headers=headers)


class Both:
    """One of the two clients, asked in the same way."""

    def __init__(self, kind: type[Firewall] | type[AsyncFirewall], service: Service, **options: Any) -> None:
        self.kind = kind
        self.service = service
        self.options = {"api_key": "mfw_k", **options}

    def __call__(self, method: str, *arguments: Any, **named: Any) -> Any:
        options: dict[str, Any] = dict(self.options)
        url = options.pop("url", URL)
        if self.kind is Firewall:
            with Firewall(url, transport=httpx.MockTransport(self.service), **options) as firewall:
                return getattr(firewall, method)(*arguments, **named)

        async def run() -> Any:
            async with AsyncFirewall(url, transport=httpx.MockTransport(self.service.later), **options) as firewall:
                return await getattr(firewall, method)(*arguments, **named)

        return asyncio.run(run())


@pytest.fixture(params=[Firewall, AsyncFirewall], ids=["threads", "asyncio"])
def ask(request):
    def make(*turns, **options):
        return Both(request.param, Service(*turns), **options)

    return make


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    """Pauses of no length, and no authorities to load."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr("app.trust.trust", lambda _: False)


def test_both_have_the_same_methods():
    def shape(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_")
        }

    assert shape(Firewall) == shape(AsyncFirewall)


def test_a_decision(ask):
    both = ask(answer())
    decision = both("decide", MUTATION)
    assert decision.allowed
    (request,) = both.service.seen
    assert (request.method, str(request.url)) == ("POST", f"{URL}/v1/decisions")
    assert json.loads(request.content) == MUTATION
    assert request.headers["authorization"] == "Bearer mfw_k"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept-encoding"] == "identity"
    assert len(request.headers["idempotency-key"]) == 38
    assert 0 < int(request.headers["x-request-timeout-ms"]) <= 10_000


def test_bytes_go_as_they_are_below_the_path_of_the_address(ask):
    both = ask(answer(), url=f"{URL}/firewall/", api_key=None)
    both("decide", b'{ "subject": 1 }')
    (request,) = both.service.seen
    assert request.content == b'{ "subject": 1 }'
    assert request.url.path == "/firewall/v1/decisions"
    assert "authorization" not in request.headers


def test_a_try_that_is_repeated_is_the_same_request(ask):
    both = ask(httpx.ReadError("reset"), answer(504, BUSY), answer())
    assert both("decide", MUTATION).allowed
    assert len({(request.content, request.headers["idempotency-key"]) for request in both.service.seen}) == 1
    assert len(both.service.seen) == 3
    left = [int(request.headers["x-request-timeout-ms"]) for request in both.service.seen]
    assert left == sorted(left, reverse=True)


def test_each_call_has_a_key_of_its_own_unless_one_is_given(ask):
    both = ask(answer())
    both("decide", MUTATION)
    both("decide", MUTATION)
    both("decide", MUTATION, idempotency_key='o"ne')
    keys = [request.headers["idempotency-key"] for request in both.service.seen]
    assert len(set(keys)) == 3
    assert keys[2] == '"o\\"ne"'


@pytest.mark.parametrize(
    "lost", [httpx.ReadError("reset"), httpx.WriteError("reset"), httpx.RemoteProtocolError("gone")]
)
def test_without_a_key_what_may_have_arrived_is_not_sent_again(ask, lost):
    both = ask(lost, answer(), idempotent=False)
    with pytest.raises(ProblemError) as caught:
        both("decide", MUTATION)
    assert caught.value.kind is ProblemKind.UNREACHABLE
    assert len(both.service.seen) == 1
    assert "idempotency-key" not in both.service.seen[0].headers


def test_without_a_key_what_surely_did_not_arrive_is_sent_again(ask):
    both = ask(httpx.ConnectError("refused"), answer(503, BUSY), answer(), idempotent=False)
    assert both("decide", MUTATION).allowed


def test_an_activation_is_not_repeated_blindly(ask):
    both = ask(httpx.ReadError("reset"), answer())
    with pytest.raises(ProblemError):
        both("activate", "sha256:" + "0" * 64, reason="x")
    assert len(both.service.seen) == 1


def test_tries_are_bounded(ask):
    both = ask(httpx.ConnectError("[Errno 111] Connection refused"), retries=3)
    with pytest.raises(ProblemError) as caught:
        both("health")
    assert len(both.service.seen) == 4
    assert "connection refused" in caught.value.detail
    assert URL in caught.value.detail


def test_words_of_the_system_come_without_their_number():
    error = httpx.ConnectError("all connection attempts failed")
    error.__cause__ = OSError(111, "Connection refused")
    assert connection.unreachable(error, URL).detail == f"cannot reach `{URL}`: connection refused"


@pytest.mark.parametrize("late", [httpx.ReadTimeout("late"), httpx.ConnectTimeout("late"), httpx.PoolTimeout("late")])
def test_no_answer_in_time(ask, late):
    both = ask(late)
    with pytest.raises(ProblemError) as caught:
        both("decide", MUTATION)
    assert caught.value.kind is ProblemKind.NO_ANSWER
    assert len(both.service.seen) == 1


async def test_asyncio_ends_with_the_time_whatever_the_transport_does():
    async def hang(_: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with AsyncFirewall(URL, "k", timeout=0.01, transport=httpx.MockTransport(hang)) as firewall:
        with pytest.raises(ProblemError) as caught:
            await firewall.decide(MUTATION)
        assert caught.value.kind is ProblemKind.NO_ANSWER
        assert not await firewall.allows(MUTATION)


def test_an_answer_without_end_is_none(ask, monkeypatch):
    monkeypatch.setattr(connection, "ANSWER_BYTES_MAX", 100)
    with pytest.raises(ProblemError) as caught:
        ask(answer())("decide", MUTATION)
    assert caught.value.kind is ProblemKind.NOT_A_FIREWALL


def test_a_redirect_is_not_followed(ask):
    both = ask(answer(302, {}, location="https://evil.example.com/"))
    with pytest.raises(ProblemError) as caught:
        both("decide", MUTATION)
    assert (caught.value.kind, caught.value.status) == (ProblemKind.NOT_A_FIREWALL, 302)
    assert len(both.service.seen) == 1


def test_a_coding_that_nobody_asked_for_is_not_unfolded(ask):
    import gzip

    packed = gzip.compress(json.dumps(PLAIN).encode())
    both = ask(lambda _: httpx.Response(200, stream=Raw(packed), headers={"content-encoding": "gzip"}))
    with pytest.raises(ProblemError) as caught:
        both("decide", MUTATION)
    assert caught.value.kind is ProblemKind.NOT_A_FIREWALL


WRONG: list[Any] = [
    answer(200, PLAIN | {"decision": "deny"}),
    answer(200, PLAIN | {"decision": "hold"}),
    answer(200, {"decision": "allow"}),
    answer(200, OBLIGED),
    answer(200, PLAIN | {"request_id": "another"}),
    answer(201, {}),
    answer(202, PLAIN),
    answer(302, PLAIN),
    answer(400, PLAIN),
    answer(500, PLAIN),
    answer(503, BUSY),
    lambda _: httpx.Response(200, stream=Raw(b"<html>")),
    httpx.ConnectError("refused"),
    httpx.ReadTimeout("late"),
    httpx.DecodingError("bad"),
    RuntimeError("a defect"),
]


@pytest.mark.parametrize("turn", WRONG)
def test_whatever_is_no_whole_allow_is_false(ask, turn, caplog):
    with caplog.at_level(logging.WARNING, logger="mfw.client"):
        assert ask(turn, retries=0)("allows", {**MUTATION, "request_id": "q"}) is False


@pytest.mark.parametrize("mutation", [{"a": float("nan")}, {"a": object()}, {1: {2}}])
def test_what_cannot_be_sent_is_not_allowed(ask, mutation):
    both = ask(answer())
    assert both("allows", mutation) is False
    assert both.service.seen == []


def test_the_log_names_the_kind_and_quotes_nothing(ask, caplog):
    problem = {"title": "no", "detail": "unknown member `s3cret`", "type": "x", "request_id": "r-9"}
    with caplog.at_level(logging.WARNING, logger="mfw.client"):
        ask(answer(400, problem))("allows", MUTATION)
        ask(RuntimeError("s3cret"))("allows", MUTATION)
    assert [record.fields for record in caplog.records] == [
        {"problem": "other", "request_id": "r-9"},
        {"error": "RuntimeError"},
    ]
    assert "s3cret" not in caplog.text


def test_an_allow_is_true_once_its_obligations_are_met(ask):
    assert ask(answer())("allows", MUTATION) is True
    assert ask(answer(200, OBLIGED))("allows", MUTATION, meets={"k"}) is True
    assert ask(answer(200, OBLIGED))("allows", MUTATION, meets={"other"}) is False


def test_a_batch(ask):
    both = ask(answer(200, {"results": [PLAIN | {"index": 0}]}))
    assert both("decide_batch", [MUTATION], atomic=True).allowed
    (request,) = both.service.seen
    assert request.url.path == "/v1/decisions:batch"
    assert json.loads(request.content) == {"mutations": [MUTATION], "mode": "atomic"}
    assert "idempotency-key" in request.headers


STORED = {"digest": "d", "policies": 1, "rules": 1, "created_at": "t", "created_by": "b", "active": True}
ACTIVATED = {
    "sequence": 1,
    "digest": "d",
    "reason": "r",
    "activated_by": "a",
    "activated_at": "t",
    "ledger_id": "i",
    "ledger_index": 0,
}
DIGEST = "sha256:" + "0" * 64
THROWN = {
    "id": "i",
    "kind": "deny-all",
    "in_force": True,
    "reason": "r",
    "thrown_by": "a",
    "thrown_at": "t",
    "ledger_index": 0,
}
KEY: dict[str, Any] = {
    "id": "i",
    "name": "ci",
    "principal_id": "ci",
    "roles": ["agent"],
    "scopes": [],
    "subjects": [],
    "networks": [],
    "created_at": "t",
}
MADE = KEY | {"key": "mfw_secret"}


@pytest.mark.parametrize(
    ("method", "arguments", "named", "value", "request_line", "body"),
    [
        (
            "publish",
            ([{"kind": "x"}],),
            {"note": "n"},
            STORED,
            "POST /v1/policy-sets",
            {"documents": [{"kind": "x"}], "note": "n"},
        ),
        ("publish", ([],), {}, STORED, "POST /v1/policy-sets", {"documents": []}),
        ("policy_set", (DIGEST,), {}, STORED, f"GET /v1/policy-sets/{DIGEST}", None),
        ("policy_set", ("../x?y",), {}, STORED, "GET /v1/policy-sets/..%2Fx%3Fy", None),
        (
            "policy_sets",
            (),
            {"limit": 2, "before": 7},
            {"items": [STORED]},
            "GET /v1/policy-sets?limit=2&before=7",
            None,
        ),
        (
            "active_policy_set",
            (),
            {},
            {"digest": "d", "source": "s", "since": "t", "stale": False, "policies": 1, "rules": 1, "documents": []},
            "GET /v1/policy-sets/active",
            None,
        ),
        ("activate", (DIGEST,), {"reason": "r"}, ACTIVATED, f"POST /v1/policy-sets/{DIGEST}/activate", {"reason": "r"}),
        ("activations", (), {}, {"items": [ACTIVATED]}, "GET /v1/policy-sets/activations?limit=50", None),
        ("health", (), {}, {"status": "healthy", "version": "1"}, "GET /health", None),
        ("version", (), {}, {"version": "1", "api": ["v1"]}, "GET /v1/version", None),
        (
            "throw_switch",
            ("deny-all",),
            {"reason": "r"},
            THROWN,
            "POST /v1/switches",
            {"kind": "deny-all", "reason": "r"},
        ),
        (
            "throw_switch",
            ("shadow",),
            {"target": "p", "reason": "r", "lasting": "1h"},
            THROWN,
            "POST /v1/switches",
            {"kind": "shadow", "target": "p", "reason": "r", "for": "1h"},
        ),
        ("switches", (), {}, {"items": [THROWN]}, "GET /v1/switches?limit=500", None),
        (
            "switches",
            (),
            {"limit": 2, "everything": True},
            {"items": [THROWN]},
            "GET /v1/switches?limit=2&all=true",
            None,
        ),
        ("end_switch", ("i/d",), {"reason": "a b"}, THROWN, "DELETE /v1/switches/i%2Fd?reason=a+b", None),
        (
            "create_key",
            ("ci",),
            {
                "reason": "r",
                "roles": {"agent"},
                "scopes": ["read"],
                "subjects": ("agent:*",),
                "networks": ["::/0"],
                "principal_id": "p",
                "expires_in_days": 3,
            },
            MADE,
            "POST /v1/keys",
            {
                "name": "ci",
                "reason": "r",
                "roles": ["agent"],
                "scopes": ["read"],
                "subjects": ["agent:*"],
                "networks": ["::/0"],
                "principal_id": "p",
                "expires_in_days": 3,
            },
        ),
        ("create_key", ("ci",), {"reason": "r"}, MADE, "POST /v1/keys", {"name": "ci", "reason": "r"}),
        ("keys", (), {}, {"items": [KEY]}, "GET /v1/keys?limit=50", None),
        (
            "keys",
            (),
            {"limit": 1, "after": "i", "everything": True},
            {"items": [KEY], "next": "i"},
            "GET /v1/keys?limit=1&after=i&all=true",
            None,
        ),
        ("key", ("i",), {}, KEY, "GET /v1/keys/i", None),
        ("rotate_key", ("i",), {"reason": "r"}, MADE, "POST /v1/keys/i/rotate", {"reason": "r"}),
        (
            "rotate_key",
            ("i",),
            {"reason": "r", "grace_hours": 0},
            MADE | {"replaced": KEY},
            "POST /v1/keys/i/rotate",
            {"reason": "r", "grace_hours": 0},
        ),
        ("revoke_key", ("i",), {"reason": "r"}, KEY, "DELETE /v1/keys/i?reason=r", None),
        ("revoke_key", ("i",), {"reason": "r", "force": True}, KEY, "DELETE /v1/keys/i?reason=r&force=true", None),
        ("ready", (), {}, {"ready": True, "reasons": []}, "GET /health/ready", None),
    ],
)
def test_everything_else(ask, method, arguments, named, value, request_line, body):
    both = ask(answer(200, value))
    assert both(method, *arguments, **named)
    (request,) = both.service.seen
    assert f"{request.method} {request.url.raw_path.decode()}" == request_line
    assert (json.loads(request.content) if request.content else None) == body
    assert ("content-type" in request.headers) is (body is not None)


def test_a_new_key_is_in_no_representation(ask):
    made = ask(answer(201, MADE | {"replaced": KEY}))("rotate_key", "i", reason="r")
    assert (made.text, made.replaced.id) == ("mfw_secret", "i")
    assert "mfw_secret" not in repr(made)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [("throw_switch", ("deny-all",)), ("end_switch", ("i",)), ("create_key", ("n",)), ("rotate_key", ("i",))],
)
def test_an_act_is_not_repeated_blindly(ask, method, arguments):
    both = ask(httpx.ReadError("gone"), answer(200, MADE | THROWN))
    with pytest.raises(ProblemError):
        both(method, *arguments, reason="r")
    assert len(both.service.seen) == 1


def test_a_revocation_is_repeated(ask):
    both = ask(httpx.ReadError("gone"), answer(200, KEY))
    assert both("revoke_key", "i", reason="r").id == "i"


@pytest.mark.parametrize(("method", "good"), [("key", KEY), ("end_switch", THROWN)])
def test_a_part_of_an_answer_is_none(ask, method, good):
    named = {"reason": "r"} if method == "end_switch" else {}
    for name in good:
        rest = {member: value for member, value in good.items() if member != name}
        with pytest.raises(ProblemError) as caught:
            ask(answer(200, rest))(method, "i", **named)
        assert caught.value.kind is ProblemKind.NOT_A_FIREWALL


def test_health_is_an_answer_even_if_it_is_bad(ask):
    assert ask(answer(503, {"status": "unhealthy", "version": "1"}))("health").status == "unhealthy"
    assert not ask(answer(503, {"ready": False, "reasons": ["starting"]}))("ready").ready


@pytest.mark.parametrize(
    "url", ["", "x", "ftp://a", "https://", "https://a b", "https://u:p@a", "https://a?b", "https://ä", "https://a:x"]
)
def test_what_is_no_address(ask, url):
    with pytest.raises(ProblemError) as caught:
        ask(answer(), url=url)("health")
    assert caught.value.kind is ProblemKind.INVALID_REQUEST


@pytest.mark.parametrize("key", ["mfw_a\nb", "mfw ä", "a b"])
def test_what_is_no_key(ask, key):
    with pytest.raises(ProblemError) as caught:
        ask(answer(), api_key=key)("health")
    assert caught.value.kind is ProblemKind.INVALID_REQUEST
    assert key not in str(caught.value)


def test_a_key_in_plain_text_is_warned_of(ask):
    with pytest.warns(RuntimeWarning, match="plain text"):
        ask(answer(), url="http://firewall.example.com")("decide", MUTATION)
    for local in ("http://localhost:8080", "http://127.0.0.1", "http://[::1]:80"):
        ask(answer(), url=local)("decide", MUTATION)
    ask(answer(), url="http://firewall.example.com", api_key=None)("decide", MUTATION)


def test_the_trace_is_passed_on(ask, monkeypatch):
    def inject(carrier: dict[str, str]) -> None:
        carrier.update(traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01", tracestate="x=y", baggage="secret=1")

    monkeypatch.setitem(sys.modules, "opentelemetry.propagate", types.SimpleNamespace(inject=inject))
    both = ask(answer())
    both("decide", MUTATION)
    headers = both.service.seen[0].headers
    assert headers["traceparent"].startswith("00-aaaa")
    assert headers["tracestate"] == "x=y"
    assert "baggage" not in headers


def test_without_a_trace_there_is_none(ask, monkeypatch):
    monkeypatch.delitem(sys.modules, "opentelemetry.propagate", raising=False)
    both = ask(answer())
    both("decide", MUTATION)
    assert "traceparent" not in both.service.seen[0].headers


def test_it_needs_nothing_of_the_service_and_httpx_only_when_made():
    program = (
        "import sys, app.client; "
        "print(sorted(n for n in sys.modules if n.split('.')[0] in ('httpx', 'asyncio', 'ssl', 'pydantic', 'fastapi')), "
        "sorted(n for n in sys.modules if n.startswith('app.') and not n.startswith('app.client')))"
    )
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert made.stdout == "[] []\n"


def test_a_call_of_ones_own(ask):
    both = ask(answer(200, {"a": 1}))
    assert json.loads(both("call", asked.Call("GET", "/v1/new"))) == {"a": 1}
