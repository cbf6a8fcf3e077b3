"""What becomes of the canary is told as it was: denied by the firewall, by somebody else, allowed, or not known."""

import asyncio
import logging
from typing import Any

import pytest

from app.cluster.api import Reply
from app.cluster.canary import CanaryFlight
from app.core.admission.canary import ANNOTATION, Canary
from app.core.types import JsonObject
from app.errors import FirewallError, Kind
from app.observability.metrics import CanaryResult

KEY = "k" * 32


class Server:
    """An API server that answers what it is told to."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.sent: list[tuple[str, str, Any, Any]] = []
        self.closed = False
        self.enough = asyncio.Event()

    async def send(self, method: str, path: str, body: Any = None, *, query: Any = None) -> Reply:
        self.sent.append((method, path, body, query))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if len(self.sent) == 3:
            self.enough.set()
        if isinstance(answer, Exception):
            raise answer
        if answer == "denied":
            nonce = body["metadata"]["annotations"][ANNOTATION]
            return said(403, f'admission webhook "x" denied the request: proof {Canary(KEY).proof(nonce)}')
        assert isinstance(answer, Reply)
        return answer

    async def close(self) -> None:
        self.closed = True


def said(status: int, message: str) -> Reply:
    body: JsonObject = {"kind": "Status", "message": message}
    return Reply(status, body)


class Flying:
    def __init__(self, *answers: Any, every: float = 60) -> None:
        self.now = 1000.0
        self.results: list[CanaryResult] = []
        self.server = Server(*answers)
        self.flight = CanaryFlight(
            self.server,
            Canary(KEY),
            namespace="shop",
            every_seconds=every,
            entropy=lambda count: bytes([len(self.results)]) * count,
            counted=self.results.append,
            clock=lambda: self.now,
        )


async def test_a_denial_of_the_firewall_is_what_is_wanted(caplog: pytest.LogCaptureFixture) -> None:
    flying = Flying("denied")
    caplog.set_level(logging.INFO)
    assert flying.flight.report() == (True, "not sent yet")
    for _ in range(2):
        flying.now += 60
        assert await flying.flight.send() is CanaryResult.DENIED
    assert flying.flight.last_success == flying.now
    assert flying.flight.report() == (True, "denied by the firewall, as it must be, in namespace `shop`")
    assert caplog.records == []
    (method, path, first, query), (_, _, second, _) = flying.server.sent
    assert (method, path, query) == ("POST", "/api/v1/namespaces/shop/configmaps", {"dryRun": "All"})
    # A number that was never used before.
    assert first != second


@pytest.mark.parametrize(
    ("answer", "result", "words"),
    [
        (Reply(201, {"kind": "ConfigMap"}), CanaryResult.ALLOWED, "it does not ask"),
        (said(403, "configmaps is forbidden: no RBAC"), CanaryResult.UNPROVEN, "no RBAC"),
        (said(403, f"denied, proof {Canary('another' * 5).proof('00' * 16)}"), CanaryResult.UNPROVEN, "somebody else"),
        (said(403, f"denied, proof {Canary(KEY).proof('ff' * 16)}"), CanaryResult.UNPROVEN, "somebody else"),
        (said(401, "Unauthorized"), CanaryResult.UNPROVEN, "Unauthorized"),
        (said(500, "failed calling webhook"), CanaryResult.ERROR, "failed calling webhook"),
        (FirewallError(Kind.UNAVAILABLE, "away"), CanaryResult.ERROR, "not sent: away"),
    ],
)
async def test_everything_else_is_not(
    answer: Any, result: CanaryResult, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    flying = Flying(answer, "denied")
    assert await flying.flight.send() is result
    well, detail = flying.flight.report()
    # One look that failed is nothing yet; one that was allowed is.
    assert well is (result is CanaryResult.ERROR)
    assert words in detail
    assert flying.flight.last_success == 0
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    flying.now += 181
    assert not flying.flight.report()[0]
    await flying.flight.send()
    assert flying.flight.report()[0]


async def test_it_goes_on_whatever_happens(caplog: pytest.LogCaptureFixture) -> None:
    flying = Flying(RuntimeError("out of order"), every=0.001)
    await flying.flight.start()
    async with asyncio.timeout(60):
        await flying.server.enough.wait()
    await flying.flight.stop()
    assert flying.server.closed
    assert "canary not sent" in caplog.text


async def test_without_a_start_there_is_nothing_to_stop() -> None:
    flying = Flying("denied")
    await flying.flight.stop()
    assert flying.server.closed
