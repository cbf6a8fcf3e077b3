"""The client and a real service: every example of docs/client.md, and what only a network can show."""

import asyncio
import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.client import AsyncFirewall, Decision, Effect, Firewall, ProblemError, ProblemKind
from tests.integration.service.conftest import running
from tests.ports import free_port

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "client.md").read_text()
# For a whole call, however busy this machine is.
PATIENT = 120.0
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
MUTATION = {
    "subject": {"type": "agent", "id": "a"},
    "action": {"name": "update"},
    "resource": {"type": "note", "id": "n"},
    "change": {"before": {"a": 1}, "after": {"a": 2}},
}


@pytest.fixture(scope="module")
def service(shared_database_dsn):
    with running(shared_database_dsn) as started:
        yield started


def test_every_example(service, monkeypatch, capsys):
    """In the order of the page, each with what those before it left."""
    assert len(EXAMPLES) >= 7
    monkeypatch.setenv("MFW_URL", service.url)
    monkeypatch.setenv("MFW_API_KEY", service.key)
    monkeypatch.setenv("MFW_ADMIN_KEY", service.admin_key)
    # What the page leaves to its default.
    for kind in (Firewall, AsyncFirewall):
        monkeypatch.setitem(kind.__init__.__kwdefaults__, "timeout", PATIENT)
    names: dict[str, Any] = {"__name__": "example"}
    for number, text in enumerate(EXAMPLES):
        exec(compile(text, f"docs/client.md[{number}]", "exec"), names)
    names["firewall"].close()
    shown = capsys.readouterr().out
    assert shown.startswith("leave it\ndeny ")
    assert "/sbject did you mean `subject`?" in shown
    assert "[False, False, False, False, False, False, False, False, False, False]" in shown
    assert "['as it is']" in shown


def test_a_key_is_asked_once(service):
    with Firewall(service.url, service.key, timeout=PATIENT) as firewall:
        first = firewall.decide(MUTATION, idempotency_key="the-one")
        again = firewall.decide(MUTATION, idempotency_key="the-one")
        other = firewall.decide(MUTATION)
        assert first.raw == again.raw
        assert other.ledger_index != first.ledger_index
        with pytest.raises(ProblemError) as caught:
            firewall.decide({**MUTATION, "action": {"name": "delete"}}, idempotency_key="the-one")
        assert caught.value.kind is ProblemKind.CONFLICT


def test_a_batch_keeps_its_order(service):
    bad = {**MUTATION, "sbject": 1}
    with Firewall(service.url, service.key, timeout=PATIENT) as firewall:
        results = firewall.decide_batch([MUTATION, bad, MUTATION]).results
    assert isinstance(results[0], Decision)
    assert isinstance(results[1], ProblemError)
    assert (results[1].kind, results[1].pointer) == (ProblemKind.MALFORMED, "/mutations/1/sbject")
    assert isinstance(results[2], Decision)
    assert results[2].effect is Effect.DENY


def test_who_may_not_is_told_so(service):
    for key, kind in (("", "unauthenticated"), ("mfw_wrong", "unauthenticated"), (service.operator_key, "forbidden")):
        with Firewall(service.url, key, timeout=PATIENT) as firewall, pytest.raises(ProblemError) as caught:
            firewall.decide(MUTATION)
        assert caught.value.kind == kind
        assert caught.value.request_id


def test_connections_are_used_again_by_many_threads(service):
    with Firewall(service.url, service.key, timeout=PATIENT) as firewall:
        found: list[int] = []

        def ask() -> None:
            found.extend(firewall.decide(MUTATION).ledger_index for _ in range(20))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert len(set(found)) == len(found) == 160


async def test_many_at_once(service):
    async with AsyncFirewall(service.url, service.key, timeout=PATIENT) as firewall:
        decisions = await asyncio.gather(*(firewall.decide({**MUTATION, "request_id": str(n)}) for n in range(100)))
    assert [decision.request_id for decision in decisions] == [str(n) for n in range(100)]


def test_a_service_that_limits_is_waited_for(database_dsn):
    with running(database_dsn, MFW_LIMITS__PER_MINUTE="60", MFW_LIMITS__BURST="1") as service:
        with Firewall(service.url, service.key, timeout=PATIENT) as patient:
            began = time.monotonic()
            assert [patient.decide(MUTATION).ledger_index for _ in range(2)] == [0, 1]
            assert time.monotonic() - began >= 1
        with Firewall(service.url, service.key, retries=0, timeout=PATIENT) as hasty:
            # There is one token a second, and this machine may take longer between two calls.
            deadline = time.monotonic() + 60

            def ask() -> None:
                while time.monotonic() < deadline:
                    hasty.decide(MUTATION)

            with pytest.raises(ProblemError) as caught:
                ask()
            assert (caught.value.kind, caught.value.retry_after) == (ProblemKind.RATE_LIMITED, 1)
            while hasty.allows(MUTATION):
                assert time.monotonic() < deadline


def test_nobody_there():
    with Firewall(f"http://127.0.0.1:{free_port()}", "k") as firewall:
        with pytest.raises(ProblemError) as caught:
            firewall.health()
        assert caught.value.kind is ProblemKind.UNREACHABLE
        assert "connection refused" in caught.value.detail
        assert not firewall.allows(MUTATION)


@contextlib.contextmanager
def stranger(*turns: bytes | None) -> Iterator[tuple[str, list[bytes]]]:
    """A server that reads a request and gives these bytes, in turn; None hangs. And what it was sent."""
    ended = threading.Event()
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)

        def serve() -> None:
            left = list(turns)
            while not ended.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection:
                    seen.append(connection.recv(65_536))
                    turn = left.pop(0) if len(left) > 1 else left[0]
                    if turn is None:
                        ended.wait(60)
                    else:
                        connection.sendall(turn)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}", seen
        finally:
            ended.set()
            thread.join()


def test_a_service_that_hangs_is_given_up():
    with stranger(None) as (url, seen), Firewall(url, "k", timeout=2) as firewall:
        with pytest.raises(ProblemError) as caught:
            firewall.decide(MUTATION)
        assert caught.value.kind is ProblemKind.NO_ANSWER
        # The thread that reads it may have had no time yet; a second one would come before the first is let go.
        deadline = time.monotonic() + 60
        while not seen and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(seen) == 1


def test_a_connection_that_breaks_is_tried_again_with_its_key():
    with stranger(b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n") as (
        url,
        seen,
    ):
        with Firewall(url, "k", timeout=PATIENT) as firewall, pytest.raises(ProblemError) as caught:
            firewall.decide(MUTATION)
        assert caught.value.status == 403
        keys = {re.search(rb'(?i)idempotency-key: ("[^"]+")', one)[1] for one in seen}  # type: ignore[index]  # it is there
    assert len(seen) == 3
    assert len(keys) == 1


def test_an_answer_that_trickles_ends_with_the_time():
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
    with stranger(head + b"x" * 10) as (url, _), Firewall(url, "k", timeout=1) as firewall:
        assert not firewall.allows(MUTATION)
