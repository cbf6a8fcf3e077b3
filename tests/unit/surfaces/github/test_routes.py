"""The endpoint: nothing is a success that was not recorded and reported, and failures are told where people look."""

import asyncio
import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from app.core.principal import require_subject
from app.core.quota import DEFAULT_LIMIT, RouteClass
from app.edge.authn import FailedAttempts, SignedDeliveries, UnsafeAnonymousAuthenticator
from app.edge.body import ClientDisconnectedError
from app.edge.gate import Gate
from app.edge.limits import RateLimits, TokenBuckets
from app.errors import FirewallError, Kind
from app.observability.metrics import Metrics
from app.surfaces.github.routes import PRINCIPAL, WEBHOOK, WebhookEndpoint
from app.surfaces.github.wire import GithubView
from tests.corpus.deliveries import SECRET, pull_request, signed

METRICS = Metrics(version="0")
DIFF = "diff --git a/a b/a\nindex 1111111..2222222 100644\n--- a/a\n+++ b/a\n@@ -1 +1 @@\n-a\n+b\n"
REPORT = {"conclusion": "success"}

pytestmark = pytest.mark.filterwarnings("ignore:.*anybody.*")


class Service:
    """Takes the steps, then gives an answer or fails."""

    def __init__(self, failure: BaseException | None = None, *, hangs: bool = False) -> None:
        self.failure = failure
        self.hangs = hangs

    async def decide(self, exchange: Any) -> bytes:
        body = await exchange.read()
        principal = await exchange.authenticate()
        await exchange.limit(principal)
        assert exchange.claim(principal, body) is not None
        exchange.parse(body)
        if self.hangs:
            await asyncio.Event().wait()
        if self.failure is not None:
            raise self.failure
        return json.dumps({"report": REPORT}).encode()


class Github:
    def __init__(self, *, failure: FirewallError | None = None, hangs: bool = False) -> None:
        self.failure = failure
        self.hangs = hangs
        self.reports: list[Any] = []

    async def diff(self, _event: Any) -> str:
        return DIFF

    async def report(self, _event: Any, report: Any, *, again: bool) -> None:
        assert not again
        self.reports.append(report)
        if self.hangs:
            await asyncio.Event().wait()
        if self.failure is not None:
            raise self.failure


def endpoint_of(service: Any, github: Any) -> WebhookEndpoint:
    limits = RateLimits(dict.fromkeys(RouteClass, DEFAULT_LIMIT), make=lambda _route, limit: TokenBuckets(limit))
    return WebhookEndpoint(
        service,
        gate=Gate(UnsafeAnonymousAuthenticator(), limits=limits, metrics=METRICS),
        deliveries=SignedDeliveries(
            [SECRET.encode()], principal=PRINCIPAL, failures=FailedAttempts(DEFAULT_LIMIT), metrics=METRICS
        ),
        github=github,
        view=GithubView("https://api.github.com"),
        now=lambda: datetime.now(UTC),
        timeout_seconds=0.05,
        replay_window=timedelta(hours=1),
    )


def posted(service: Any, github: Any) -> httpx.Response:
    body = json.dumps(pull_request()).encode()

    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(endpoint_of(service, github))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(WEBHOOK, content=body, headers=signed(body, "pull_request"))

    return asyncio.run(post())


def test_the_principal_is_bound():
    subject = {"type": "agent", "id": "github:octo-agent[bot]", "properties": {}}
    require_subject(PRINCIPAL, subject)
    for other in ({"id": "deploy-bot"}, {"type": "service"}):
        with pytest.raises(FirewallError):
            require_subject(PRINCIPAL, subject | other)


def test_a_success_is_reported_before_it_is_answered():
    github = Github()
    answer = posted(Service(), github)
    assert (answer.status_code, answer.json()["report"], github.reports) == (200, REPORT, [REPORT])
    away = Github(failure=FirewallError(Kind.UNAVAILABLE, "away", retry_after=1))
    assert posted(Service(), away).status_code == 503
    # It was decided: nobody is told that it was not.
    assert away.reports == [REPORT]


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (FirewallError(Kind.UNAVAILABLE, "the ledger is away", retry_after=2), 503),
        (FirewallError(Kind.FORBIDDEN, "a kill switch is on"), 403),
    ],
)
def test_a_refusal_is_told_where_people_look(failure, status):
    github = Github()
    assert posted(Service(failure), github).status_code == status
    (told,) = github.reports
    assert told["conclusion"] == "action_required"
    assert failure.detail in told["summary"]


def test_a_conflict_says_nothing_of_what_was_decided():
    github = Github()
    assert posted(Service(FirewallError(Kind.CONFLICT, "x")), github).status_code == 409
    assert github.reports == []


def test_time_that_is_over(monkeypatch, caplog):
    github = Github()
    assert posted(Service(hangs=True), github).status_code == 504
    assert [one["conclusion"] for one in github.reports] == ["action_required"]
    # Decided, and not reported in time.
    slow = Github(hangs=True)
    assert posted(Service(), slow).status_code == 504
    assert slow.reports == [REPORT]
    monkeypatch.setattr("app.surfaces.github.routes.TELL_SECONDS", 0.01)
    with caplog.at_level(logging.INFO, logger="mfw.github"):
        assert posted(Service(hangs=True), Github(hangs=True)).status_code == 504
    assert "refusal not reported" in caplog.text


def test_what_nobody_foresaw_is_told_without_a_word_of_it():
    github = Github()
    with pytest.raises(RuntimeError):
        posted(Service(RuntimeError("secret")), github)
    (told,) = github.reports
    assert told["conclusion"] == "action_required"
    assert "secret" not in json.dumps(told)


def test_a_client_that_left_is_nobodys_error():
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    body = b"{}"
    headers = [(name.lower().encode(), value.encode()) for name, value in signed(body, "ping").items()]
    scope = {"type": "http", "headers": headers, "query_string": b"", "client": ("192.0.2.1", 1)}
    asyncio.run(endpoint_of(Service(ClientDisconnectedError()), Github())(scope, receive, send))
    assert sent == []
