"""The one host that is called, how often, and with what."""

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

import httpx
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from jose import jwt

from app.errors import FirewallError, Kind
from app.surfaces.github.client import GithubClient, app_of
from app.surfaces.github.wire import GithubView, event_of
from tests.corpus.deliveries import deployment, pull_request

KEY = rsa.generate_private_key(65537, 2048)
PEM = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
API = "https://api.github.com"
EVENT: Any = event_of("pull_request", json.dumps(pull_request()).encode(), GithubView(API))
WAITING: Any = event_of("deployment_protection_rule", json.dumps(deployment()).encode(), GithubView(API))
REPORT = {
    "conclusion": "success",
    "state": "approved",
    "status": "success",
    "external_id": "e",
    "title": "t" * 200,
    "summary": "s",
    "comment": "c",
    "annotations": [],
}
NOW = 1_800_000_000.0


class Peer:
    """Answers in turn: a status, a reply, or what is raised."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if request.url.path.endswith("/access_tokens") and not (self.answers and self.answers[0] == "token"):
            return httpx.Response(201, json={"token": "ghs_x", "expires_at": "2027-01-15T09:00:00Z"})
        answer = self.answers.pop(0)
        if answer == "token":
            answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(answer)

    @property
    def paths(self) -> list[str]:
        return [f"{one.method} {one.url.path}" for one in self.requests]


def client_of(peer: Peer, **options: Any) -> GithubClient:
    async def public(_host: str, _port: int) -> list[str]:
        return ["140.82.112.5"]

    given = {"app": app_of(1, PEM), "resolve": public, "backoff_seconds": 0.0, "clock": lambda: NOW, **options}
    client = GithubClient(given.pop("api", API), **given)
    client._client = httpx.AsyncClient(transport=httpx.MockTransport(peer), follow_redirects=False)
    return client


def run(client: GithubClient, work: Callable[[GithubClient], Any]) -> Any:
    async def through() -> Any:
        try:
            return await work(client)
        finally:
            await client.close()
            await client.close()

    return asyncio.run(through())


def fails(client: GithubClient, work: Callable[[GithubClient], Any]) -> FirewallError:
    with pytest.raises(FirewallError) as caught:
        run(client, work)
    return caught.value


def diff(client: GithubClient) -> Any:
    return client.diff(EVENT)


def test_the_address_that_was_looked_at_is_called():
    peer = Peer(httpx.Response(200, content=b"diff"))
    assert run(client_of(peer), diff) == "diff"
    token, got = peer.requests
    for request in peer.requests:
        assert (request.url.host, request.headers["host"]) == ("140.82.112.5", "api.github.com")
        assert request.extensions["sni_hostname"] == "api.github.com"
    claims = jwt.decode(
        token.headers["authorization"].removeprefix("Bearer "),
        KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
        algorithms=["RS256"],
        options={"verify_exp": False, "verify_iat": False},
    )
    assert claims == {"iss": "1", "iat": NOW - 60, "exp": NOW + 540}
    assert got.headers["authorization"] == "Bearer ghs_x"


def test_a_host_of_ones_own_with_a_port():
    async def here(_host: str, _port: int) -> list[str]:
        return ["fd00::5%eth0"]

    peer = Peer(httpx.Response(200, content=b"diff"))
    client = client_of(peer, api="https://ghe.example:8443/api/v3/", private_addresses=True, resolve=here)
    assert run(client, diff) == "diff"
    assert str(peer.requests[0].url) == "https://[fd00::5]:8443/api/v3/app/installations/5/access_tokens"
    assert peer.requests[0].headers["host"] == "ghe.example:8443"


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["10.0.0.1"], ["140.82.112.5", "169.254.169.254"], ["::1"], ["::ffff:10.0.0.1"], ["x"], []],
    ids=str,
)
def test_only_public_addresses_are_called(addresses):
    async def private(_host: str, _port: int) -> list[str]:
        return list(addresses)

    peer = Peer()
    assert fails(client_of(peer, resolve=private), diff).kind is Kind.UNAVAILABLE
    assert peer.requests == []


def test_a_proxy_looks_names_up_itself():
    peer = Peer(httpx.Response(200, content=b"diff"))
    assert run(client_of(peer, environment=True, resolve=None), diff) == "diff"
    assert {request.url.host for request in peer.requests} == {"api.github.com"}


def test_three_tries_and_each_is_counted():
    counted: list[bool] = []
    peer = Peer(httpx.ConnectError("no"), 502, httpx.Response(200, content=b"diff"))
    assert run(client_of(peer, counted=counted.append), diff) == "diff"
    assert counted == [True, False, False, True]
    assert "ReadTimeout" in fails(client_of(Peer(*[httpx.ReadTimeout("slow")] * 3)), diff).detail


def test_a_breaker_leaves_it_alone():
    now = 0.0
    peer = Peer(*[500] * 5, 500, httpx.Response(200, content=b"diff"))
    client = client_of(peer, app=None, token="t", monotonic=lambda: now)

    async def work(client: GithubClient) -> Any:
        nonlocal now
        errors = []
        for _ in range(3):
            with pytest.raises(FirewallError) as caught:
                await diff(client)
            errors.append(caught.value)
        assert "breaker" in errors[-1].detail
        assert errors[-1].retry_after == 30.0
        asked = len(peer.requests)
        now = 31.0
        with pytest.raises(FirewallError):
            await diff(client)
        assert len(peer.requests) == asked + 1
        now = 62.0
        return await diff(client)

    assert run(client, work) == "diff"


def test_whoever_gives_up_leaves_no_probe_behind():
    now = 0.0
    peer = Peer(*[500] * 6)
    client = client_of(peer, app=None, token="t", monotonic=lambda: now)

    async def work(client: GithubClient) -> Any:
        nonlocal now
        for _ in range(2):
            with pytest.raises(FirewallError):
                await diff(client)
        now = 31.0

        async def forever(_host: str, _port: int) -> list[str]:
            await asyncio.Event().wait()
            return []

        looked, client._resolve = client._resolve, forever
        task = asyncio.create_task(diff(client))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        client._resolve = looked
        now = 62.0
        peer.answers = [httpx.Response(200, content=b"diff")]
        return await diff(client)

    assert run(client, work) == "diff"


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (httpx.Response(200, content=b"a" * 101), Kind.TOO_LARGE, "more than 100 bytes"),
        (406, Kind.TOO_LARGE, "larger"),
        (422, Kind.TOO_LARGE, "larger"),
        (httpx.Response(200, content=b"\xff"), Kind.MALFORMED, "UTF-8"),
        (httpx.Response(200, content=b"a\0"), Kind.MALFORMED, "UTF-8"),
        (httpx.Response(302, headers={"location": "https://evil.example"}), Kind.UNAVAILABLE, "302"),
        (httpx.Response(429, headers={"retry-after": "7"}), Kind.UNAVAILABLE, "rate limit"),
        (httpx.Response(403, headers={"x-ratelimit-remaining": "0"}), Kind.UNAVAILABLE, "rate limit"),
        (403, Kind.UNAVAILABLE, "403"),
    ],
    ids=str,
)
def test_what_is_no_diff(answer, kind, words):
    peer = Peer(answer)
    error = fails(client_of(peer, diff_bytes_max=100, app=None, token="t"), diff)
    assert error.kind is kind
    assert words in str(error)
    assert len(peer.requests) == 1
    if "retry-after" in getattr(answer, "headers", {}):
        assert error.retry_after == 7


def test_a_token_is_kept_until_it_ends_and_had_anew_when_it_ended_early():
    peer = Peer(*[httpx.Response(200, content=b"diff")] * 2, 401, httpx.Response(200, content=b"diff"))
    now = NOW
    client = client_of(peer, clock=lambda: now)

    async def work(client: GithubClient) -> None:
        nonlocal now
        await diff(client)
        await diff(client)
        assert sum(path.endswith("access_tokens") for path in peer.paths) == 1
        await diff(client)
        assert sum(path.endswith("access_tokens") for path in peer.paths) == 2
        now += 10**8
        peer.answers = [httpx.Response(200, content=b"diff")]
        await diff(client)
        assert sum(path.endswith("access_tokens") for path in peer.paths) == 3
        client._tokens = dict.fromkeys(range(1024), (0.0, "t"))
        peer.answers = [httpx.Response(200, content=b"diff")]
        await diff(client)
        assert len(client._tokens) <= 1024

    run(client, work)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"token": "a"}',
        b'{"token": "a\\nb", "expires_at": "2027-01-01T00:00:00Z"}',
        b'{"token": "a", "expires_at": "x"}',
    ],
)
def test_what_is_no_token(body):
    assert "no token" in fails(client_of(Peer("token", httpx.Response(201, content=body))), diff).detail


def test_a_check_run_is_brought_up_to_date_if_it_is_of_this_decision():
    def there(*runs: Any) -> httpx.Response:
        return httpx.Response(200, json={"check_runs": list(runs)})

    def report(client: GithubClient) -> Any:
        return client.report(EVENT, REPORT, again=True)

    peer = Peer(there({"id": 9, "external_id": "e"}), 200)
    run(client_of(peer), report)
    assert peer.paths[-1].endswith("/check-runs/9")
    assert "annotations" not in orjson.loads(peer.requests[-1].content)["output"]
    for found in (there(), there({"id": 9, "external_id": "other"}), there(1), httpx.Response(200, content=b"x")):
        peer = Peer(found, 201)
        run(client_of(peer), report)
        assert peer.paths[-1] == "POST /repos/octo-org/octo-repo/check-runs"
    assert "`checks: write`" in str(fails(client_of(Peer(there(), 403)), report))


@pytest.mark.parametrize("again", [False, True])
def test_a_check_is_of_one_branch(again):
    def names(base: str, **options: Any) -> list[str]:
        tree = pull_request(base={"ref": base, "sha": "a" * 40, "repo": {"full_name": "octo-org/octo-repo"}})
        event: Any = event_of("pull_request", json.dumps(tree).encode(), GithubView(API))
        peer = Peer(*([httpx.Response(200, json={"check_runs": []})] if again and "token" not in options else []), 201)
        run(client_of(peer, **options), lambda client: client.report(event, REPORT, again=again))
        found = []
        for one in peer.requests:
            if "check_name" in one.url.params:
                found.append(one.url.params["check_name"])
            elif one.content:
                sent = orjson.loads(one.content)
                found += [sent[name] for name in ("name", "context") if name in sent]
        return found

    for options in ({}, {"app": None, "token": "t"}):
        named = {base: set(names(base, **options)) for base in ("main", "release/{base}")}
        assert named == {
            "main": {"mutation-firewall/main"},
            "release/{base}": {"mutation-firewall/release/{base}"},
        }
    assert set(names("main", check_name="one-for-all")) == {"one-for-all"}


def test_a_status_is_short_and_a_deployment_needs_an_app():
    peer = Peer(201)
    run(client_of(peer, app=None, token="t"), lambda client: client.report(EVENT, REPORT, again=False))
    sent = orjson.loads(peer.requests[0].content)
    assert len(sent["description"]) == 140
    with_token = client_of(Peer(), app=None, token="t")
    assert "App" in fails(with_token, lambda client: client.report(WAITING, REPORT, again=False)).detail
    with_nothing = client_of(Peer(), app=None)
    assert "App" in fails(with_nothing, diff).detail
    peer = Peer(204, 204)
    run(client_of(peer), lambda client: client.report(WAITING, REPORT, again=False))
    assert orjson.loads(peer.requests[-1].content)["state"] == "approved"
    run(client_of(peer), lambda client: client.report(WAITING, {**REPORT, "state": None}, again=False))
    assert "state" not in orjson.loads(peer.requests[-1].content)


def test_an_app_needs_an_installation():
    event: Any = event_of(
        "pull_request", json.dumps({**pull_request(), "installation": None}).encode(), GithubView(API)
    )
    assert fails(client_of(Peer()), lambda client: client.diff(event)).pointer == "/installation"


def test_keys_and_certificates_that_cannot_be_read(tmp_path):
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for pem in ("", "x", other.decode()):
        with pytest.raises(FirewallError) as caught:
            app_of(1, pem)
        assert caught.value.kind is Kind.INVALID_SETTINGS
    with pytest.raises(FirewallError) as caught:
        GithubClient(API, token="t", ca_file=tmp_path / "none")
    assert caught.value.kind is Kind.INVALID_SETTINGS
    # Nobody delivers, so nothing is loaded.
    GithubClient(API, ca_file=tmp_path / "none")


def test_a_client_is_made_when_it_is_needed(monkeypatch):
    made: list[dict[str, Any]] = []
    real = httpx.AsyncClient

    def make(**options: Any) -> httpx.AsyncClient:
        made.append(options)
        return real(transport=httpx.MockTransport(Peer(httpx.Response(200, content=b"diff"))))

    monkeypatch.setattr(httpx, "AsyncClient", make)
    monkeypatch.setattr(random, "uniform", lambda _low, _high: 1.0)
    client = client_of(Peer(), app=None, token="t")
    client._client = None
    made.clear()
    assert run(client, diff) == "diff"
    assert (made[0]["follow_redirects"], made[0]["trust_env"]) == (False, False)
