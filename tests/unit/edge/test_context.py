"""Around everything: ids, safe headers, metrics, one log line, and an answer whatever breaks."""

import asyncio
import json
import logging
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.principal import AuthMethod, Principal, PrincipalKind
from app.edge.body import ClientDisconnectedError
from app.edge.context import ContextMiddleware, client_address, context_of, deliver, request_id_of
from app.errors import FirewallError, Kind
from app.observability.logs import current_request
from app.observability.metrics import Metrics
from app.surfaces.problems import internal_problem, problem

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def scope(*headers: tuple[bytes, bytes], path: str = "/v1/decisions", method: str = "POST") -> dict[str, Any]:
    return {"type": "http", "method": method, "path": path, "headers": list(headers), "client": ("192.0.2.7", 1)}


async def receive() -> Any:
    raise AssertionError("nobody reads here")


class Around:
    """The middleware around an application, and what came out of it."""

    def __init__(self, app: Any, **options: Any) -> None:
        self.sent: list[Any] = []
        self.events: list[dict[str, Any]] = []
        self.metrics = SHARED
        ticks = iter([10.0, 10.25])
        self.app = ContextMiddleware(
            app,
            metrics=self.metrics,
            problem=problem,
            internal_problem=internal_problem,
            log=self.events.append,
            clock=lambda: next(ticks),
            **options,
        )

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def __call__(self, asked: dict[str, Any]) -> "Around":
        await self.app(asked, receive, self.send)
        return self

    @property
    def problem(self) -> Any:
        return json.loads(self.sent[1]["body"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])


SHARED = Metrics(version="0")


async def answers(asked: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"x")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def test_an_answer_gets_the_safe_headers_and_the_request_id() -> None:
    around = await Around(answers)(scope((b"x-request-id", b"abc-1.2_3")))
    assert around.headers == {
        b"content-type": b"x",
        b"x-request-id": b"abc-1.2_3",
        b"cache-control": b"no-store",
        b"x-content-type-options": b"nosniff",
    }


@pytest.mark.parametrize(("status", "kept"), [(200, b"max-age=60"), (404, b"no-store"), (304, b"no-store")])
async def test_only_a_good_answer_that_says_so_is_kept(status: int, kept: bytes) -> None:
    async def never_changes(asked: Any, _receive: Any, send: Any) -> None:
        context_of(asked).keep = b"max-age=60"
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    around = Around(never_changes)
    around.app.drain()
    sent = (await around(scope())).sent[0]["headers"]
    assert [name for name, _ in sent] == [b"x-request-id", b"cache-control", b"x-content-type-options", b"connection"]
    assert around.headers[b"cache-control"] == kept


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ((b"x-request-id", b""),),
        ((b"x-request-id", b"a b"),),
        ((b"x-request-id", b"a\n"),),
        ((b"x-request-id", b'"a"'),),
        ((b"x-request-id", b"${a}"),),
        ((b"x-request-id", b"<a>"),),
        ((b"x-request-id", b"x" * 129),),
        ((b"x-request-id", "ä".encode()),),
        ((b"x-request-id", b"one"), (b"x-request-id", b"two")),
    ],
)
async def test_an_id_that_is_not_harmless_is_replaced(headers: Any) -> None:
    around = await Around(answers)(scope(*headers))
    assert re.fullmatch(rb"[0-9a-f]{24}", around.headers[b"x-request-id"])


async def test_fresh_ids_differ() -> None:
    assert len({(await Around(answers)(scope())).headers[b"x-request-id"] for _ in range(100)}) == 100


@pytest.mark.parametrize("parent", [PARENT, PARENT[:-2] + "00", "01" + PARENT[2:], "cc" + PARENT[2:] + "-more"])
async def test_the_trace_id_is_taken_from_a_valid_traceparent(parent: str) -> None:
    around = await Around(answers)(scope((b"traceparent", parent.encode())))
    assert around.events[0]["trace_id"] == TRACE


@pytest.mark.parametrize(
    "parents",
    [
        [],
        [PARENT, PARENT],
        ["ff" + PARENT[2:]],
        [PARENT + "-more"],
        [PARENT + "0"],
        ["01" + PARENT[2:] + "0"],
        [PARENT.upper()],
        [PARENT.replace(TRACE, "0" * 32)],
        [PARENT.replace("b7ad6b7169203331", "0" * 16)],
        [PARENT[:-1]],
        ["x"],
    ],
)
async def test_another_traceparent_is_none(parents: list[str]) -> None:
    around = await Around(answers)(scope(*((b"traceparent", parent.encode()) for parent in parents)))
    assert "trace_id" not in around.events[0]


@pytest.mark.parametrize("sent", [b"Root=1-67891233-abcdef", b"kX9/a+b==", b"urn:uuid:7", b"|4bf9.1.", b"me@host,2"])
async def test_what_gateways_make_comes_back(sent: bytes) -> None:
    around = await Around(answers)(scope((b"x-request-id", sent)))
    assert around.headers[b"x-request-id"] == sent


@pytest.mark.parametrize("sent", [b"a b", b'"a"', b"${a}", b"<a>", b"x" * 129, b"y" * 1024, "ä".encode()])
async def test_any_text_comes_back_where_a_specification_says_so_and_stands_nowhere_else(sent: bytes) -> None:
    asked = scope((b"x-request-id", sent), path="/access/v1/evaluation")
    around = await Around(answers, echoes="/access/v1/")(asked)
    assert around.headers[b"x-request-id"] == sent
    assert re.fullmatch(r"[0-9a-f]{24}", around.events[0]["request_id"])
    assert request_id_of(asked) == around.events[0]["request_id"]


@pytest.mark.parametrize("sent", [(b"",), (b"a\n",), (b"\x7f",), (b"x" * 1025,), (b"a b", b"a b")])
async def test_what_no_header_holds_comes_back_nowhere(sent: tuple[bytes, ...]) -> None:
    asked = scope(*((b"x-request-id", one) for one in sent), path="/access/v1/evaluation")
    around = await Around(answers, echoes="/access/v1/")(asked)
    assert re.fullmatch(rb"[0-9a-f]{24}", around.headers[b"x-request-id"])


async def test_any_text_comes_back_below_that_path_alone() -> None:
    around = await Around(answers, echoes="/access/v1/")(scope((b"x-request-id", b"a b"), path="/v1/decisions"))
    assert re.fullmatch(rb"[0-9a-f]{24}", around.headers[b"x-request-id"])


@given(st.lists(st.tuples(st.sampled_from([b"x-request-id", b"traceparent"]), st.binary(max_size=140)), max_size=3))
async def test_no_header_breaks_it(headers: list[tuple[bytes, bytes]]) -> None:
    around = await Around(answers)(scope(*headers))
    assert re.fullmatch(rb"[A-Za-z0-9._~:/+=@|,-]{1,128}", around.headers[b"x-request-id"])


async def test_one_event_tells_the_request() -> None:
    async def app(asked: Any, _receive: Any, send: Any) -> None:
        context_of(asked).principal = Principal("ci", PrincipalKind.SERVICE, frozenset(), AuthMethod.API_KEY)
        await answers(asked, _receive, send)

    around = await Around(app)(scope((b"x-request-id", b"r")))
    (event,) = around.events
    assert event.pop("ts") > 0
    assert event == {
        "level": "info",
        "event": "request",
        "logger": "mfw.access",
        "request_id": "r",
        "method": "POST",
        "route": "/v1/decisions",
        "status": 200,
        "duration_ms": 250.0,
        "client": "192.0.2.7",
        "principal": "ci",
    }


async def test_an_unknown_path_is_told_cut_and_counted_as_other() -> None:
    around = await Around(answers)(scope(path="/" + "x" * 500, method="BREW"))
    assert around.events[0]["route"] == "other"
    assert around.events[0]["path"] == "/" + "x" * 199
    labels = {"route": "other", "method": "other", "code": "200"}
    assert (SHARED.registry.get_sample_value("mfw_requests_total", labels) or 0) >= 1


async def test_the_route_that_was_matched_is_the_label() -> None:
    class Route:
        path = "/health"

    async def app(asked: Any, _receive: Any, send: Any) -> None:
        asked["route"] = Route()
        await answers(asked, _receive, send)

    assert (await Around(app)(scope(path="/prefix/health"))).events[0]["route"] == "/health"


async def test_without_a_log_nothing_is_logged() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    app = ContextMiddleware(answers, metrics=SHARED, problem=problem, internal_problem=internal_problem, log=None)
    await app(scope(), receive, send)
    assert sent[0]["status"] == 200


async def test_log_lines_of_the_request_carry_its_ids() -> None:
    seen: list[Any] = []

    async def app(asked: Any, _receive: Any, send: Any) -> None:
        seen.append((current_request.get(), request_id_of(asked)))
        await answers(asked, _receive, send)

    await Around(app)(scope((b"x-request-id", b"r"), (b"traceparent", PARENT.encode())))
    assert seen == [(("r", TRACE), "r")]


async def test_what_nobody_foresaw_becomes_a_problem_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    async def app(*_: Any) -> None:
        raise RuntimeError("the secret plan")

    with caplog.at_level(logging.ERROR):
        around = await Around(app)(scope((b"x-request-id", b"r")))
    assert around.sent[0]["status"] == 500
    assert around.headers[b"content-type"] == b"application/problem+json"
    assert around.headers[b"x-content-type-options"] == b"nosniff"
    assert b"secret plan" not in around.sent[1]["body"]
    assert b'"request_id":"r"' in around.sent[1]["body"]
    assert around.events[0]["status"] == 500
    assert caplog.records[0].exc_info


async def test_half_an_answer_is_left_to_the_server_to_end() -> None:
    async def app(_asked: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        await Around(app)(scope())


async def test_an_error_after_a_whole_answer_is_logged_and_ends_there(caplog: pytest.LogCaptureFixture) -> None:
    async def app(asked: Any, _receive: Any, send: Any) -> None:
        await answers(asked, _receive, send)
        raise RuntimeError("too late")

    around = await Around(app)(scope())
    assert [message["type"] for message in around.sent] == ["http.response.start", "http.response.body"]
    assert len(caplog.records) == 1


async def test_a_client_that_leaves_is_counted_and_not_answered() -> None:
    async def app(*_: Any) -> None:
        raise ClientDisconnectedError

    around = await Around(app)(scope())
    assert around.sent == []
    assert around.events[0]["status"] == 499


async def test_what_is_not_http_passes_untouched() -> None:
    passed: list[Any] = []

    async def app(asked: Any, *_: Any) -> None:
        passed.append(asked)

    around = await Around(app)({"type": "lifespan"})
    assert passed == [{"type": "lifespan"}]
    assert around.events == []


async def test_a_client_that_is_gone_when_the_answer_comes_is_no_error() -> None:
    async def send(_message: Any) -> None:
        raise BrokenPipeError

    await deliver(internal_problem("r"), send)


def test_an_address_may_be_unknown() -> None:
    assert client_address({"client": None}) == "unknown"
    assert client_address({"client": ("192.0.2.1", 5)}) == "192.0.2.1"


def test_a_context_is_made_where_nobody_made_one() -> None:
    asked: dict[str, Any] = {"type": "http"}
    assert request_id_of(asked) == request_id_of(asked)


async def hangs(_asked: Any, _receive: Any, _send: Any) -> None:
    await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("name", [b"x-request-timeout-ms", b"x-envoy-expected-rq-timeout-ms"])
async def test_who_waits_no_longer_is_told_so(name: bytes) -> None:
    around = await Around(hangs)(scope((name, b"1")))
    assert around.sent[0]["status"] == around.events[0]["status"] == 504
    assert around.headers[b"retry-after"] == b"1"
    assert around.problem["type"].endswith("/timeout")
    assert around.problem["detail"] == "the request took longer than its caller waits"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_an_answer_in_time_is_an_answer() -> None:
    assert (await Around(answers)(scope((b"x-request-timeout-ms", b"60000")))).sent[0]["status"] == 200


@pytest.mark.parametrize(
    "values",
    [[b""], [b"0"], [b"000"], [b"-1"], [b"1.5"], [b"1s"], [b" 1"], ["²".encode()], [b"9" * 13], [b"1", b"1"]],
)
async def test_a_time_that_is_none_is_refused_by_its_name(values: list[bytes]) -> None:
    around = await Around(hangs)(scope(*((b"x-request-timeout-ms", value) for value in values)))
    assert around.sent[0]["status"] == 400
    assert around.problem["detail"] == "`X-Request-Timeout-Ms` is not one whole number of milliseconds above 0"
    assert around.problem["request_id"].encode() == around.headers[b"x-request-id"]


async def test_the_shorter_of_two_times_counts() -> None:
    asked = scope((b"x-request-timeout-ms", b"600000"), (b"x-envoy-expected-rq-timeout-ms", b"1"))
    assert (await Around(hangs)(asked)).sent[0]["status"] == 504


async def test_a_time_beyond_the_longest_is_none_of_its_own() -> None:
    async def app(_asked: Any, _receive: Any, send: Any) -> None:
        # Longer than the caller says, were it to count.
        await asyncio.sleep(0.01)
        await answers(_asked, _receive, send)

    asked = scope((b"x-request-timeout-ms", b"5"))
    assert (await Around(app, longest=0.005)(asked)).sent[0]["status"] == 200


async def test_what_would_certainly_be_late_is_not_begun() -> None:
    began: list[str] = []

    async def app(asked: Any, _receive: Any, send: Any) -> None:
        began.append(asked["path"])
        await answers(asked, _receive, send)

    def least(path: str) -> float | None:
        return 0.002 if path == "/v1/decisions" else None

    around = await Around(app, least=least)(scope((b"x-request-timeout-ms", b"1")))
    assert around.sent[0]["status"] == 503
    assert around.headers[b"retry-after"] == b"1"
    assert around.problem["type"].endswith("/overloaded")
    assert around.problem["detail"] == "an answer takes 2.0 ms at least just now, and its caller waits for less"
    await Around(app, least=least)(scope((b"x-request-timeout-ms", b"1000")))
    await Around(app, least=least)(scope((b"x-request-timeout-ms", b"1000"), path="/v1/version"))
    assert began == ["/v1/decisions", "/v1/version"]


@pytest.mark.parametrize("path", ["/access/v1/evaluation", "/kubernetes/v1/validate", "/ledger/checkpoint", "/healthy"])
async def test_every_other_route_keeps_to_the_time_of_its_caller(path: str) -> None:
    async def never(_scope: Any, _receive: Any, _send: Any) -> None:
        await asyncio.Event().wait()

    around = await Around(never)(scope((b"x-request-timeout-ms", b"20"), path=path))
    assert around.sent[0]["status"] == 504


async def test_health_answers_whatever_its_caller_says_of_time() -> None:
    for value in (b"1", b"soon"):
        around = await Around(answers, least=lambda _: 9)(scope((b"x-request-timeout-ms", value), path="/health/live"))
        assert around.sent[0]["status"] == 200


async def test_a_timeout_that_is_not_the_callers_is_a_defect() -> None:
    async def app(*_: Any) -> None:
        raise TimeoutError

    around = await Around(app)(scope((b"x-request-timeout-ms", b"60000")))
    assert around.sent[0]["status"] == 500


async def test_half_an_answer_that_is_late_is_left_to_the_server_to_end() -> None:
    async def app(_asked: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await hangs(_asked, _receive, send)

    with pytest.raises(FirewallError):
        await Around(app)(scope((b"x-request-timeout-ms", b"1")))


async def test_a_whole_answer_is_one_however_long_its_end_takes() -> None:
    async def app(_asked: Any, _receive: Any, send: Any) -> None:
        await answers(_asked, _receive, send)
        await hangs(_asked, _receive, send)

    around = await Around(app)(scope((b"x-request-timeout-ms", b"1")))
    assert [message["type"] for message in around.sent] == ["http.response.start", "http.response.body"]


@pytest.mark.parametrize("fails", [False, True])
async def test_the_end_of_each_request_is_told(fails: bool) -> None:
    ended: list[tuple[str, int]] = []

    async def app(asked: Any, _receive: Any, send: Any) -> None:
        if fails:
            raise RuntimeError
        await answers(asked, _receive, send)

    await Around(app, ended=lambda asked, status: ended.append((asked["path"], status)))(scope())
    assert ended == [("/v1/decisions", 500 if fails else 200)]


async def test_an_outcome_inside_an_answer_of_200_is_what_counts() -> None:
    async def refuses(asked: Any, receive: Any, send: Any) -> None:
        context_of(asked).outcome = 503
        await deliver(problem(FirewallError(Kind.FORBIDDEN, "no"), "r")._replace(status=200), send)

    before = _counted("503")
    around = await Around(refuses)(scope())
    assert around.sent[0]["status"] == 200
    assert _counted("503") == before + 1
    assert around.events[0]["status"] == 503


async def test_an_outcome_that_nobody_was_told_is_not_counted() -> None:
    async def leaves(asked: Any, receive: Any, send: Any) -> None:
        context_of(asked).outcome = 503
        raise ClientDisconnectedError

    before = _counted("499")
    await Around(leaves)(scope())
    assert _counted("499") == before + 1


def _counted(code: str) -> float:
    labels = {"route": "/v1/decisions", "method": "POST", "code": code}
    return SHARED.registry.get_sample_value("mfw_requests_total", labels) or 0
