"""The real decision service behind one endpoint, without a socket and without a database: for documents by the hundred.

Everything is allowed that does not say otherwise, so that an allow which should not be one is seen.
"""

import asyncio
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from starlette.types import ASGIApp

from app.core.budgets import Tally
from app.core.cel import one_line
from app.core.index import MESSAGE_MAX_CHARS
from app.core.quota import Limit, RouteClass
from app.core.types import BudgetUse
from app.edge.authn import UnsafeAnonymousAuthenticator
from app.edge.gate import Gate
from app.edge.limits import RateLimits, TokenBuckets
from app.errors import FirewallError
from app.ledger.receipt import SealedEntry
from app.ledger.spend import JudgeAll, Settled
from app.observability.metrics import Metrics
from app.policies.load import check_text
from app.service.decide import DecisionService

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
MAX_BODY_BYTES = 1_000_000
# Messages repeat what the caller said: whoever reads them must not be steered by it.
POLICY = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: open}
spec:
  match: {resources: [{type: "*"}]}
  rules:
    - name: all
      effect: allow
      messageExpression: "'about ' + resource.id + ' for ' + subject.id"
    - name: said
      effect: deny
      when: "resource.id.contains('deny') || !resource.id.matches('^[ -~]*$')"
      messageExpression: "'not ' + resource.id + ' of ' + resource.type + ' by ' + subject.id + ', ' + action.name"
"""


def _policy_set() -> Any:
    checked = check_text(POLICY, name="open.yaml")
    assert checked.policy_set is not None, checked.diagnostics
    return checked.policy_set


POLICY_SET = _policy_set()
METRICS = Metrics(version="0")


@dataclass
class Kept:
    """A ledger that keeps entries in a list."""

    entries: list[SealedEntry] = field(default_factory=list)

    async def append(self, entry: SealedEntry) -> int:
        self.entries.append(entry)
        return len(self.entries) - 1

    async def append_all(self, entries: Sequence[SealedEntry]) -> list[int | FirewallError]:
        return [await self.append(entry) for entry in entries]


class NoBudgets:
    """The policy has none; what stands or falls together is judged as a whole, with nothing to count."""

    async def settle(self, uses: Sequence[BudgetUse], *, judge: JudgeAll, **_: Any) -> Settled:
        assert not uses
        return Settled(judge(Tally()), None)

    async def settle_once(self, *_: Any, **__: Any) -> Any:
        raise AssertionError


def service(ledger: Kept) -> DecisionService:
    """The decision service over a ledger in memory."""
    return DecisionService(
        lambda: POLICY_SET,
        ledger=ledger,
        budgets=NoBudgets(),
        clock=lambda: NOW,
        entropy=lambda count: b"\x07" * count,
        engine="test",
        counted=lambda _: None,
        exhausted=lambda _: None,
    )


def gate() -> Gate:
    """Lets everybody in, and as often as they like."""
    limits = RateLimits(
        dict.fromkeys(RouteClass, Limit(per_minute=10**9, burst=10**9)), make=lambda _route, limit: TokenBuckets(limit)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        authenticator = UnsafeAnonymousAuthenticator()
    return Gate(authenticator, limits=limits, metrics=METRICS)


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


def ask(endpoint: ASGIApp, path: str, body: bytes, *, content_type: bytes = b"application/json") -> Answer:
    """Send one request, in as many pieces as it has kilobytes."""
    pieces = [body[at : at + 1024] for at in range(0, len(body), 1024)] or [b""]
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(b"content-type", content_type)],
        "client": ("192.0.2.1", 1),
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def send(message: Any) -> None:
        sent.append(message)

    async def run() -> None:
        await endpoint(scope, receive, send)

    asyncio.run(run())
    assert [one["type"] for one in sent[:1]] == ["http.response.start"]
    for name, value in sent[0]["headers"]:
        assert not {b"\r", b"\n", b"\x00"} & {value[i : i + 1] for i in range(len(value))}, (name, value)
    return Answer(sent[0]["status"], dict(sent[0]["headers"]), b"".join(one.get("body", b"") for one in sent[1:]))


def problem_of(answer: Answer, read: Any) -> Any:
    """The problem that an answer is (RFC 9457), which must be one that its reader can be told."""
    assert answer.headers[b"content-type"].startswith(b"application/problem+json"), answer
    found = read(answer.body)
    assert found["status"] == answer.status
    assert 400 <= answer.status < 500, found
    assert {"type", "title", "detail"} <= found.keys()
    return found


def said_of(asked: Any) -> str:
    """The message of an allow: what was decided is what was asked."""
    return one_line(f"about {asked['resource']['id']} for {asked['subject']['id']}", MESSAGE_MAX_CHARS)
