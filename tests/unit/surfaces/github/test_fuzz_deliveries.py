"""Hostile deliveries, signed: whatever they say, a success is about the very commits that were decided and recorded."""

import re
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from app.core.quota import DEFAULT_LIMIT
from app.edge.authn import FailedAttempts, SignedDeliveries
from app.surfaces.github.routes import PRINCIPAL, WEBHOOK, WebhookEndpoint
from app.surfaces.github.wire import DEPLOYMENT, PULL_REQUEST, Event, GithubView
from tests.corpus.deliveries import SECRET, deployment, pull_request, signed
from tests.corpus.hostile import hostile, reading
from tests.corpus.served import MAX_BODY_BYTES, METRICS, NOW, Kept, ask, gate, problem_of, service

API = "https://api.github.com"
WHEN = "2026-01-31T11:59:30Z"
DIFF = "diff --git a/a b/a\nindex 1111111..2222222 100644\n--- a/a\n+++ b/a\n@@ -1 +1 @@\n-a\n+b\n"
PULL_REQUESTS = [
    pull_request(updated_at=WHEN),
    pull_request(updated_at=WHEN, user={"login": "octocat", "type": "User"}),
]
DEPLOYMENTS = [deployment(), deployment(pull_requests=[PULL_REQUESTS[0]["pull_request"]])]
for one in DEPLOYMENTS:
    one["deployment"]["updated_at"] = WHEN
PLAIN = re.compile(r"[A-Za-z0-9._/-]+")

pytestmark = pytest.mark.filterwarnings("ignore:.*anybody.*")


class Github:
    """Has one diff for everything, and keeps what it is told."""

    def __init__(self) -> None:
        self.asked: list[Event] = []
        self.reports: list[tuple[Event, Any]] = []

    async def diff(self, event: Event) -> str:
        self.asked.append(event)
        return DIFF

    async def report(self, event: Event, report: Any, *, again: bool) -> None:
        assert not again
        self.reports.append((event, report))


class Keyless:
    """An exchange whose answer is not kept under a key: that needs a database."""

    def __init__(self, exchange: Any) -> None:
        self._exchange = exchange

    def __getattr__(self, name: str) -> Any:
        return getattr(self._exchange, name)

    def claim(self, *_: Any) -> None:
        return None


class Service:
    """The real one."""

    def __init__(self, ledger: Kept) -> None:
        self._service = service(ledger)

    async def decide(self, exchange: Any) -> bytes:
        return await self._service.decide(Keyless(exchange))


def delivered(body: bytes, event: str) -> tuple[Any, Kept, Github]:
    ledger, github = Kept(), Github()
    endpoint = WebhookEndpoint(
        Service(ledger),
        gate=gate(),
        deliveries=SignedDeliveries(
            [SECRET.encode()], principal=PRINCIPAL, failures=FailedAttempts(DEFAULT_LIMIT), metrics=METRICS
        ),
        github=github,
        view=GithubView(API),
        now=lambda: NOW,
        timeout_seconds=10,
        replay_window=timedelta(hours=1),
        max_body_bytes=MAX_BODY_BYTES,
    )
    headers = [(name.lower().encode(), value.encode()) for name, value in signed(body, event).items()]

    async def with_headers(scope: Scope, receive: Receive, send: Send) -> None:
        await endpoint({**scope, "headers": headers}, receive, send)

    return ask(with_headers, WEBHOOK, body), ledger, github


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(hostile([*PULL_REQUESTS, *DEPLOYMENTS]), st.sampled_from([PULL_REQUEST, DEPLOYMENT]))
def test_delivery(body, event):
    answer, ledger, github = delivered(body, event)
    if answer.status != 200:
        problem_of(answer, reading)
        assert not ledger.entries
        for _, report in github.reports:
            assert (report["conclusion"], report["state"], report["status"]) == ("action_required", None, "error")
        return
    told, asked = reading(answer.body), reading(body)
    if told["outcome"] != "decided":
        assert not ledger.entries
        assert not github.asked
        assert not github.reports
        return
    assert len(ledger.entries) == 1
    about: Any
    ((about, report),) = github.reports
    assert github.asked == [about]
    # Whatever becomes a part of an address that is called.
    assert PLAIN.fullmatch(about.repository)
    assert ".." not in about.repository.split("/")
    assert PLAIN.fullmatch(about.sha)
    assert about.repository == asked["repository"]["full_name"]
    if event == PULL_REQUEST:
        assert about.sha == asked["pull_request"]["head"]["sha"]
        passed = report["conclusion"] == "success"
        assert not (passed and (about.fork or about.draft))
    else:
        assert about.sha == asked["deployment"]["sha"]
        assert (
            asked["deployment_callback_url"] == f"{API}/repos/{about.repository}/actions/runs/{about.run}/{DEPLOYMENT}"
        )
        passed = report["state"] == "approved"
    assert not passed or told["decision"]["decision"] == "allow"
