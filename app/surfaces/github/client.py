"""GitHub's REST API, as far as it is needed: diffs are fetched, reports are given.

Only the address that is configured is called, and no redirect is followed: what a delivery says can name a repository
and the hash of a commit, never a host.
"""

import asyncio
import base64
import random
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import orjson
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from app.core.networks import address_of
from app.core.types import JsonObject
from app.errors import FirewallError, Kind
from app.persistence.breaker import CircuitBreaker
from app.surfaces.github.wire import Deployment, Event, PullRequest, too_large
from app.trust import trust

# The failure mode matrix, mode 14, within the ten seconds that GitHub waits for an answer.
TRIES: Final = 3
TRY_SECONDS: Final = 3.0
BACKOFF_SECONDS: Final = 0.1
RECOVERY_SECONDS: Final = 30.0
# Further calls wait for a connection, and give up when their delivery is late.
CONNECTIONS_MAX: Final = 16
# A token, a list of check runs: some kilobytes each.
ANSWER_BYTES_MAX: Final = 1_048_576

# Stands for the branch that a pull request shall go into.
BASE: Final = "{base}"
CHECK_NAME: Final = f"mutation-firewall/{BASE}"

API_VERSION: Final = "2022-11-28"
JSON: Final = "application/vnd.github+json"
DIFF: Final = "application/vnd.github.diff"
# An App may say ten minutes; a minute of the past is for a clock of ours that is ahead of theirs.
JWT_SECONDS: Final = 540
JWT_PAST_SECONDS: Final = 60
# A token of an installation lives for an hour. One that ends during a delivery would be refused in the middle of it.
TOKEN_MARGIN_SECONDS: Final = 120.0
TOKENS_MAX: Final = 1024
# 406 as documented; 422 for a comparison that takes too long.
_TOO_LARGE: Final = frozenset({HTTPStatus.NOT_ACCEPTABLE, HTTPStatus.UNPROCESSABLE_ENTITY})

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class App:
    """A GitHub App, and the key that it signs with."""

    id: int
    key: rsa.RSAPrivateKey = field(repr=False)

    def token(self, now: float) -> str:
        """What proves that a call is the App's own: a JWT of RFC 7519 under RS256."""
        claims = {"iat": int(now) - JWT_PAST_SECONDS, "exp": int(now) + JWT_SECONDS, "iss": str(self.id)}
        signed = b".".join(_base64url(orjson.dumps(part)) for part in ({"alg": "RS256", "typ": "JWT"}, claims))
        signature = self.key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
        return b".".join((signed, _base64url(signature))).decode()


def app_of(identifier: int, pem: str) -> App:
    """Make an App of its private key. Raises FirewallError (INVALID_SETTINGS)."""
    try:
        key = serialization.load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise FirewallError(
            Kind.INVALID_SETTINGS,
            "the private key of the GitHub App is no RSA key in PEM",
            fix="set MFW_GITHUB__PRIVATE_KEY_FILE to the file that GitHub gave",
        )
    return App(identifier, key)


class Reply(NamedTuple):
    """What GitHub answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def tree(self) -> Any:
        """The body as JSON, None where it is none."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return None


async def resolve(host: str, port: int) -> Sequence[str]:
    """The addresses of a host. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(one[4][0]) for one in found]


class GithubClient:
    """Calls one GitHub, as an App or with a token.

    With an App, pull requests get check runs and deployments their answers; GitHub lets a plain token do neither, so
    pull requests get commit statuses with one. Addresses that are not public are refused unless `private_addresses`
    says that GitHub lives there; the address that was looked at is the one that is connected to. With `environment`
    the proxies that the environment names are used, and they look up names.
    """

    def __init__(
        self,
        api: str,
        *,
        app: App | None = None,
        token: str | None = None,
        check_name: str = CHECK_NAME,
        diff_bytes_max: int = ANSWER_BYTES_MAX,
        private_addresses: bool = False,
        environment: bool = False,
        ca_file: Path | None = None,
        counted: Callable[[bool], None] | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        resolve: Resolve = resolve,
        backoff_seconds: float = BACKOFF_SECONDS,
    ) -> None:
        """Raises FirewallError (INVALID_SETTINGS) for a CA file that cannot be read."""
        parts = urlsplit(api)
        self._api = api.rstrip("/")
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._app = app
        self._token = token
        self._check_name = check_name
        self._diff_bytes_max = diff_bytes_max
        self._private_addresses = private_addresses
        self._environment = environment
        self._trust: ssl.SSLContext | bool = True
        if app is not None or token is not None:
            # Here and not with the first delivery: it takes a tenth of a second, in which decisions would wait.
            import httpx

            self._trust = _trust(ca_file)
        self._counted = counted
        self._clock = clock
        self._resolve = resolve
        self._backoff_seconds = backoff_seconds
        self._breaker = CircuitBreaker(clock=monotonic, recovery=RECOVERY_SECONDS)
        self._tokens: dict[int, tuple[float, str]] = {}
        self._client: httpx.AsyncClient | None = None

    async def diff(self, event: Event) -> str:
        """Fetch what changes: from where a pull request branched off, for a deployment what its last commit did.

        Raises FirewallError: TOO_LARGE for what GitHub does not show whole, MALFORMED for what is no text, UNAVAILABLE.
        """
        path = (
            f"/repos/{event.repository}/compare/{event.base_sha}...{event.sha}"
            if isinstance(event, PullRequest)
            else f"/repos/{event.repository}/commits/{event.sha}"
        )
        reply = await self._call("GET", path, event, accept=DIFF, bytes_max=self._diff_bytes_max)
        if reply.status in _TOO_LARGE:
            raise too_large("the diff is larger than GitHub shows")
        _expect(reply, HTTPStatus.OK, "fetch the diff", needs="`contents: read`")
        try:
            text = reply.body.decode()
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            raise FirewallError(
                Kind.MALFORMED, "the diff is no text in UTF-8", fix="mark the file as binary in `.gitattributes`"
            )
        return text

    async def report(self, event: Event, report: JsonObject, *, again: bool) -> None:
        """Give a report; `again` where it may be there already. Raises FirewallError (UNAVAILABLE)."""
        if isinstance(event, Deployment):
            await self._answer(event, report)
        elif self._app is None:
            await self._set_status(event, report)
        else:
            await self._check(event, report, again=again)

    async def close(self) -> None:
        """Let go of connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _answer(self, event: Deployment, report: JsonObject) -> None:
        """Approve, reject, or say why neither: without a state the job waits on."""
        body = {"environment_name": event.environment, "comment": report["comment"]}
        if report["state"] is not None:
            body["state"] = report["state"]
        path = f"/repos/{event.repository}/actions/runs/{event.run}/deployment_protection_rule"
        reply = await self._call("POST", path, event, body=body)
        _expect(reply, HTTPStatus.NO_CONTENT, "answer the deployment", needs="`deployments: write`")

    async def _set_status(self, event: PullRequest, report: JsonObject) -> None:
        body = {"state": report["status"], "context": self._name_for(event), "description": _cut(report["title"], 140)}
        reply = await self._call("POST", f"/repos/{event.repository}/statuses/{event.sha}", event, body=body)
        _expect(reply, HTTPStatus.CREATED, "set the commit status", needs="`statuses: write`")

    async def _check(self, event: PullRequest, report: JsonObject, *, again: bool) -> None:
        """Make a check run, or bring the one of this decision up to date.

        A try whose answer was lost may leave two that say the same: GitHub counts the newest of a name.
        """
        body: JsonObject = {
            "name": self._name_for(event),
            "head_sha": event.sha,
            "status": "completed",
            "conclusion": report["conclusion"],
            "external_id": report["external_id"],
            "output": {
                "title": report["title"],
                "summary": report["summary"],
                "annotations": report["annotations"],
            },
        }
        path = f"/repos/{event.repository}/check-runs"
        there = await self._find_check(event, report["external_id"]) if again else None
        if there is None:
            reply = await self._call("POST", path, event, body=body)
            _expect(reply, HTTPStatus.CREATED, "make the check run", needs="`checks: write`")
            return
        del body["head_sha"]
        # Its marks are there: another call would add them a second time.
        del body["output"]["annotations"]
        reply = await self._call("PATCH", f"{path}/{there}", event, body=body)
        _expect(reply, HTTPStatus.OK, "update the check run", needs="`checks: write`")

    def _name_for(self, event: PullRequest) -> str:
        """The name under which branch protection looks, which is that of one branch.

        GitHub keeps checks with commits: by one name for all, what was allowed to go into one branch would pass for
        allowed to go into every other, by a second pull request of the same commits or by another base of the first.
        """
        return self._check_name.replace(BASE, event.base)

    async def _find_check(self, event: PullRequest, external_id: str) -> int | None:
        """The newest run of our name, if it is of this decision: an older one would not count."""
        path = f"/repos/{event.repository}/commits/{event.sha}/check-runs"
        query = {"check_name": self._name_for(event), "filter": "latest"}
        reply = await self._call("GET", path, event, query=query)
        _expect(reply, HTTPStatus.OK, "list check runs", needs="`checks: write`")
        runs = reply.tree.get("check_runs") if isinstance(reply.tree, dict) else None
        for run in runs if isinstance(runs, list) else ():
            if isinstance(run, dict) and run.get("external_id") == external_id and type(run.get("id")) is int:
                return int(run["id"])
        return None

    async def _call(
        self,
        method: str,
        path: str,
        event: Event,
        *,
        accept: str = JSON,
        query: Mapping[str, str] | None = None,
        body: dict[str, Any] | None = None,
        bytes_max: int = ANSWER_BYTES_MAX,
    ) -> Reply:
        """Call on behalf of an installation; a token that ended early is had anew, once."""
        reply = await self._send(
            method, path, await self._bearer(event), accept=accept, query=query, body=body, bytes_max=bytes_max
        )
        if reply.status != HTTPStatus.UNAUTHORIZED or self._app is None or event.installation is None:
            return reply
        self._tokens.pop(event.installation, None)
        return await self._send(
            method, path, await self._bearer(event), accept=accept, query=query, body=body, bytes_max=bytes_max
        )

    async def _bearer(self, event: Event) -> str:
        if self._app is None:
            if self._token is None or isinstance(event, Deployment):
                raise FirewallError(
                    Kind.UNAVAILABLE,
                    "GitHub takes this from an App alone",
                    retry_after=RECOVERY_SECONDS,
                    fix="set MFW_GITHUB__APP_ID and MFW_GITHUB__PRIVATE_KEY_FILE",
                )
            return self._token
        if event.installation is None:
            raise FirewallError(
                Kind.MALFORMED,
                "the delivery names no installation of the App",
                pointer="/installation",
                fix="have the webhook of the App deliver, not one of the repository",
            )
        known = self._tokens.get(event.installation)
        if known is not None and self._clock() < known[0] - TOKEN_MARGIN_SECONDS:
            return known[1]
        reply = await self._send(
            "POST", f"/app/installations/{event.installation}/access_tokens", self._app.token(self._clock())
        )
        _expect(reply, HTTPStatus.CREATED, "get a token of the installation", needs="MFW_GITHUB__APP_ID with its key")
        token, until = _token_of(reply)
        while len(self._tokens) >= TOKENS_MAX:
            del self._tokens[next(iter(self._tokens))]
        self._tokens[event.installation] = (until, token)
        return token

    async def _send(
        self,
        method: str,
        path: str,
        bearer: str,
        *,
        accept: str = JSON,
        query: Mapping[str, str] | None = None,
        body: dict[str, Any] | None = None,
        bytes_max: int = ANSWER_BYTES_MAX,
    ) -> Reply:
        """Send, up to three times. Raises FirewallError (UNAVAILABLE) when there is no answer of GitHub's own."""
        import httpx

        headers = {
            "accept": accept,
            "authorization": f"Bearer {bearer}",
            "user-agent": "mutation-firewall",
            "x-github-api-version": API_VERSION,
        }
        content = None
        if body is not None:
            headers["content-type"] = "application/json"
            content = orjson.dumps(body)
        why = "the breaker is open"
        for number in range(TRIES):
            if not self._breaker.allow():
                break
            try:
                async with asyncio.timeout(TRY_SECONDS):
                    reply = await self._try(method, path, headers, query=query, content=content, bytes_max=bytes_max)
            except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError, UnicodeError) as error:
                why = type(error).__name__
            except FirewallError:
                self._breaker.success()  # it is us who refuse the answer
                raise
            except asyncio.CancelledError:
                self._breaker.failure()  # the delivery's time is over
                raise
            else:
                if reply.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                    self._breaker.success()
                    self._count(worked=True)
                    return reply
                why = f"it answered {reply.status}"
            self._breaker.failure()
            self._count(worked=False)
            if number + 1 < TRIES:
                await asyncio.sleep(self._backoff_seconds * 2**number * random.uniform(0.5, 1.5))  # noqa: S311 - to spread retries
        raise FirewallError(
            Kind.UNAVAILABLE,
            f"GitHub cannot be reached: {why}",
            retry_after=max(1.0, self._breaker.retry_after),
            fix="deliver it again from the list of deliveries, once GitHub answers",
        )

    async def _try(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        query: Mapping[str, str] | None,
        content: bytes | None,
        bytes_max: int,
    ) -> Reply:
        import httpx

        if self._client is None:
            self._client = httpx.AsyncClient(
                verify=self._trust,
                timeout=TRY_SECONDS,
                follow_redirects=False,
                trust_env=self._environment,
                limits=httpx.Limits(max_connections=CONNECTIONS_MAX),
            )
        url = httpx.URL(self._api + path, params=query) if query else httpx.URL(self._api + path)
        extensions: dict[str, Any] = {}
        if not self._environment:
            # The name is looked up once, and that address is connected to; the certificate is that of the name.
            address = await self._address()
            headers = {**headers, "host": url.netloc.decode("ascii")}
            extensions["sni_hostname"] = self._host
            url = url.copy_with(host=address)
        async with self._client.stream(
            method, url, headers=headers, content=content, extensions=extensions
        ) as response:
            body = b""
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > bytes_max:
                    raise too_large(f"GitHub answers with more than {bytes_max} bytes")
            return Reply(response.status_code, response.headers, body)

    async def _address(self) -> str:
        """Where GitHub is. Raises FirewallError (UNAVAILABLE) for an address that nobody outside could have."""
        addresses = await self._resolve(self._host, self._port)
        if not addresses:
            raise OSError("no address")
        if not self._private_addresses:
            for text in addresses:
                address = address_of(text)
                if address is None or not address.is_global:
                    raise FirewallError(
                        Kind.UNAVAILABLE,
                        f"`{self._host}` is at a private address",
                        retry_after=RECOVERY_SECONDS,
                        fix="set MFW_GITHUB__PRIVATE_ADDRESSES if your GitHub is within your network",
                    )
        return str(ip_address(addresses[0].partition("%")[0]))

    def _count(self, *, worked: bool) -> None:
        if self._counted is not None:
            self._counted(worked)


def _expect(reply: Reply, status: int, act: str, *, needs: str) -> None:
    """Raise FirewallError (UNAVAILABLE) unless GitHub did it: the delivery shows as failed, and can be sent again."""
    if reply.status == status:
        return
    wait = reply.headers.get("retry-after", "")
    limited = reply.status == HTTPStatus.TOO_MANY_REQUESTS or (
        reply.status == HTTPStatus.FORBIDDEN and (wait or reply.headers.get("x-ratelimit-remaining") == "0")
    )
    if limited:
        raise FirewallError(
            Kind.UNAVAILABLE,
            f"GitHub did not {act}: its rate limit is used up",
            retry_after=float(wait) if wait.isdigit() and len(wait) < 6 else 60.0,
            fix="deliver it again later",
        )
    raise FirewallError(
        Kind.UNAVAILABLE,
        f"GitHub did not {act}: it answered {reply.status}",
        retry_after=1,
        fix=f"check that the App is installed there and has {needs}, then deliver it again",
    )


def _token_of(reply: Reply) -> tuple[str, float]:
    tree = reply.tree if isinstance(reply.tree, dict) else {}
    token, until = tree.get("token"), tree.get("expires_at")
    try:
        if isinstance(token, str) and token.isascii() and token.isprintable() and token and isinstance(until, str):
            return token, datetime.fromisoformat(until).timestamp()
    except ValueError:
        pass
    raise FirewallError(Kind.UNAVAILABLE, "GitHub gave no token of the installation", retry_after=1)


def _trust(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return trust(ca_file)
    except OSError as error:
        raise FirewallError(
            Kind.INVALID_SETTINGS,
            f"the certificates for GitHub cannot be read: {getattr(error, 'strerror', None) or error}",
            fix="set MFW_GITHUB__CA_FILE to a PEM file",
        ) from None


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
