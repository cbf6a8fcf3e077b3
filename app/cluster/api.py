"""The API of Kubernetes, as little of it as is needed: one request, its answer, and what went wrong in our words."""

import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import httpx
import orjson

from app.core.types import JsonObject
from app.errors import FirewallError, Kind
from app.trust import trust

# Where a pod finds who it is; https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/
ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")

STRATEGIC_MERGE: Final = "application/strategic-merge-patch+json"

TIMEOUT_SECONDS: Final = 10.0

_KINDS: Final = {
    400: Kind.MALFORMED,
    401: Kind.UNAUTHENTICATED,
    403: Kind.FORBIDDEN,
    404: Kind.NOT_FOUND,
    409: Kind.CONFLICT,
    410: Kind.CONFLICT,
    422: Kind.MALFORMED,
}
_FIXES: Final = {
    401: "give a token that the API server takes",
    403: "grant it with RBAC, as docs/integrations/kubernetes.md has it",
}
# An API server's words are shown to people and written into logs.
_MESSAGE_CHARS: Final = 500


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach an API server. The token's file is read for each request: kubelets replace it every hour."""

    url: str
    token_file: Path
    ca_file: Path

    @classmethod
    def in_cluster(cls, environ: Mapping[str, str] = os.environ, *, account: Path = ACCOUNT) -> "Access":
        """As the pod that this runs in. Raises FirewallError (INVALID_SETTINGS) where it is none."""
        host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
        if not host or not port:
            raise FirewallError(
                Kind.INVALID_SETTINGS,
                "this is no pod: nothing says where the API server is",
                fix="give its address, a token and the certificate of its authority",
            )
        host = f"[{host}]" if ":" in host else host
        return cls(f"https://{host}:{port}", account / "token", account / "ca.crt")


@dataclass(frozen=True, slots=True)
class Reply:
    """What an API server answered; `body` is empty where it was no JSON object."""

    status: int
    body: JsonObject

    @property
    def message(self) -> str:
        """Its own words, as they may be shown."""
        text = self.body.get("message")
        words = text if isinstance(text, str) and text else f"status {self.status}"
        shown = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in words)
        return shown if len(shown) <= _MESSAGE_CHARS else f"{shown[: _MESSAGE_CHARS - 1]}…"


class KubernetesApi:
    """A client; use it as a context manager. It follows no redirect and asks no proxy."""

    def __init__(self, access: Access, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._access = access
        self._timeout_seconds = timeout_seconds
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def send(
        self,
        method: str,
        path: str,
        body: "JsonObject | None" = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Reply:
        """Send one request and give its answer, whatever its status. Raises FirewallError (UNAVAILABLE, TIMEOUT)."""
        client, headers = self._ready(), self._headers()
        async with self._failures():
            answer = await client.request(
                method,
                path,
                params=query,
                content=None if body is None else orjson.dumps(body),
                headers={**headers, "Content-Type": content_type},
            )
        return Reply(answer.status_code, _object(answer.content))

    @contextlib.asynccontextmanager
    async def follow(self, path: str, *, query: Mapping[str, str]) -> AsyncIterator[AsyncIterator[JsonObject]]:
        """Follow changes: the events of a watch, as they come, until the API server ends it.

        Raises FirewallError: what `call` raises, and UNAVAILABLE or TIMEOUT when the connection is gone.
        """
        client = self._ready()
        request = client.build_request(
            "GET", path, params={**query, "watch": "true", "allowWatchBookmarks": "true"}, headers=self._headers()
        )
        async with self._failures():
            answer = await client.send(request, stream=True)
            try:
                if answer.status_code >= 300:
                    await answer.aread()
                    raise _refused("GET", path, Reply(answer.status_code, _object(answer.content)))
                yield self._events(answer)
            finally:
                await answer.aclose()

    async def _events(self, answer: httpx.Response) -> AsyncIterator[JsonObject]:
        async for line in answer.aiter_lines():
            if line:
                yield _object(line.encode())

    async def call(
        self,
        method: str,
        path: str,
        body: "JsonObject | None" = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> JsonObject:
        """As `send`, for who needs it to succeed. Raises FirewallError, CONFLICT and NOT_FOUND among others."""
        reply = await self.send(method, path, body, query=query, content_type=content_type)
        if reply.status < 300:
            return reply.body
        raise _refused(method, path, reply)

    def _ready(self) -> httpx.AsyncClient:
        # A new authority is read when the connection to the former one is gone.
        if self._client is None:
            try:
                self._client = self._opened()
            except OSError as error:
                raise _unreadable(error) from None
        return self._client

    def _headers(self) -> dict[str, str]:
        try:
            # RFC 6750, section 2.1: a token is ASCII, and what is none would be no header.
            token = self._access.token_file.read_text(encoding="ascii").strip()
        except OSError as error:
            raise _unreadable(error) from None
        except UnicodeDecodeError:
            raise _unreachable("the credential is no token: it has other characters than ASCII in it") from None
        if not token.isprintable():
            raise _unreachable("the credential is no token: it has more than one line, or control characters")
        return {"Authorization": f"Bearer {token}"}

    @contextlib.asynccontextmanager
    async def _failures(self) -> AsyncIterator[None]:
        """What goes wrong on the way, in our words."""
        try:
            yield
        except httpx.TimeoutException:
            raise FirewallError(
                Kind.TIMEOUT, "the API server took too long", retry_after=5, fix="look whether it is up"
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # The authority may be another one by now: the next request reads it again.
            await self.close()
            raise _unreachable(f"the API server cannot be reached: {str(error)[:_MESSAGE_CHARS].lower()}") from None

    def _opened(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self._access.url,
            verify=trust(self._access.ca_file),
            timeout=self._timeout_seconds,
            trust_env=False,
        )


def _object(content: bytes) -> JsonObject:
    try:
        found: Any = orjson.loads(content)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _refused(method: str, path: str, reply: Reply) -> FirewallError:
    return FirewallError(
        _KINDS.get(reply.status, Kind.UNAVAILABLE),
        f"the API server refused `{method} {path}`: {reply.message}",
        fix=_FIXES.get(reply.status),
    )


def _unreadable(error: OSError) -> FirewallError:
    return _unreachable(f"the credential cannot be read: {(error.strerror or str(error)).lower()}")


def _unreachable(detail: str) -> FirewallError:
    return FirewallError(Kind.UNAVAILABLE, detail, retry_after=5, fix="look at the address and the credential")
