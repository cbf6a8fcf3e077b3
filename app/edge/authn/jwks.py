"""Keys that an issuer publishes (JWKS, RFC 7517): fetched ahead of need, once at a time, and kept while it is away."""

import asyncio
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from app.background import ended
from app.core import strict_json
from app.core.types import JsonObject
from app.edge.authn.keys import EC_ALGORITHMS, RSA_ALGORITHMS, KeySet, VerificationKey, keys_of_jwk
from app.errors import FirewallError, Kind
from app.persistence.breaker import BreakerState, CircuitBreaker
from app.trust import trust

# reference/firewall-failure-mode-matrix.md, mode 14: 3 tries, breaker after 5 failures. Its 30 s are for a whole fetch:
# three tries of 8 s with 1 s and 2 s between them.
TRIES: Final = 3
TRY_SECONDS: Final = 8.0
BACKOFF_SECONDS: Final = 1.0
# Seconds after which an open breaker lets one try through.
RECOVERY_SECONDS: Final = 30.0
# How long keys are fresh where the issuer does not say, and the bounds of what it may say.
FRESH_SECONDS: Final = 300.0
FRESH_SECONDS_MIN: Final = 60.0
FRESH_SECONDS_MAX: Final = 3600.0
# Fetched again when this part of their time is over.
AHEAD: Final = 0.8
# A key that we do not know makes us ask, but not more often than this: anybody can make up key ids.
UNKNOWN_SECONDS: Final = 60.0
# An issuer has a handful of keys of a kilobyte or two.
DOCUMENT_BYTES_MAX: Final = 262_144
KEYS_MAX: Final = 100

_MAX_AGE: Final = re.compile(r"(?:^|[\s,])max-age=\"?(\d{1,9})")

_log: Final = logging.getLogger("mfw.authn")


class Fetched(NamedTuple):
    """The members of a key set, and for how many seconds the issuer says that they are fresh."""

    keys: Sequence[Any]
    max_age: float | None = None


Fetch = Callable[[], Awaitable[Fetched]]


class FetchError(Exception):
    """A key set could not be had; the text is for our log."""


class JwksKeys:
    """The keys of one issuer.

    They are refreshed ahead of their expiry; while that fails the last good ones hold for `keep_seconds`. A key that
    the issuer withdrew ends with the next refresh, and with it every token that was verified before.
    """

    def __init__(
        self,
        fetch: Fetch,
        *,
        algorithms: Collection[str],
        keep_seconds: float = 86_400.0,
        monotonic: Callable[[], float] = time.monotonic,
        counted: Callable[[bool], None] | None = None,
        backoff_seconds: float = BACKOFF_SECONDS,
    ) -> None:
        """`counted` is told of every try, whether it worked.

        Raises FirewallError(INVALID_SETTINGS) for an algorithm without public keys.
        """
        if not algorithms or not set(algorithms) <= RSA_ALGORITHMS | EC_ALGORITHMS:
            raise FirewallError(
                Kind.INVALID_SETTINGS,
                "a key set has public keys only",
                fix="name RS, PS or ES algorithms in MFW_AUTH__JWT__ALGORITHMS",
            )
        self._fetch = fetch
        self._algorithms = frozenset(algorithms)
        self._keep_seconds = keep_seconds
        self._monotonic = monotonic
        self._counted = counted
        self._backoff_seconds = backoff_seconds
        self._keys = KeySet((), algorithms=algorithms)
        self._epoch = 0
        self._fetched_at = float("-inf")
        self._fresh_seconds = 0.0
        self._asked_unknown_at = float("-inf")
        self._breaker = CircuitBreaker(clock=monotonic, recovery=RECOVERY_SECONDS)
        self._fetching: asyncio.Task[bool] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def algorithms(self) -> Collection[str]:
        """The algorithms that are pinned."""
        return self._algorithms

    @property
    def epoch(self) -> int:
        """Another number whenever a key is no longer there."""
        # Keys that are too old to be believed are as good as withdrawn.
        return self._epoch if self.usable else -1

    @property
    def age(self) -> float:
        """Seconds since the keys were fetched; infinite before that."""
        return self._monotonic() - self._fetched_at

    @property
    def fresh(self) -> bool:
        """Whether the keys are as young as the issuer wants them."""
        return self.age <= self._fresh_seconds

    @property
    def usable(self) -> bool:
        """Whether there are keys that may still be believed."""
        return bool(self._keys.identities) and self.age <= max(self._keep_seconds, self._fresh_seconds)

    def find(self, kid: str | None, algorithm: str, *, now: float) -> Sequence[VerificationKey]:
        """The keys that a token with this header may be signed with; none once they are too old."""
        return self._keys.find(kid, algorithm, now=now) if self.usable else ()

    async def look_again(self, kid: str | None) -> bool:
        """Fetch, because of a key that is not known; at most once a minute, and never for a token without a key id.

        Raises FirewallError(UNAVAILABLE) when there are no keys, or none that may be believed.
        """
        if self.usable:
            if kid is None or self._monotonic() - self._asked_unknown_at < UNKNOWN_SECONDS:
                return False
            self._asked_unknown_at = self._monotonic()
            return await self.refresh()
        if await self.refresh():
            return True
        raise FirewallError(
            Kind.UNAVAILABLE,
            "the keys of the token issuer cannot be fetched now",
            retry_after=max(1.0, self._breaker.retry_after),
        )

    async def start(self) -> None:
        """Fetch the keys and keep them fresh; an issuer that is away is logged and asked again, not raised."""
        await self.refresh()
        self._task = asyncio.get_running_loop().create_task(self._keep_fresh(), name="jwks")

    async def stop(self) -> None:
        """End what runs."""
        for task in (self._task, self._fetching):
            await ended(task)
        self._task = self._fetching = None

    async def refresh(self) -> bool:
        """Fetch now, or wait for the fetch that is under way; tells whether it worked."""
        if self._fetching is None:
            self._fetching = asyncio.get_running_loop().create_task(self._try())
        # Whoever leaves must not take the answer away from the others.
        return await asyncio.shield(self._fetching)

    async def _try(self) -> bool:
        try:
            for number in range(TRIES):
                if not self._breaker.allow():
                    return False
                try:
                    async with asyncio.timeout(TRY_SECONDS):
                        fetched = await self._fetch()
                    self._accept(fetched)
                except (FetchError, FirewallError, OSError, TimeoutError) as error:
                    self._breaker.failure()
                    self._count(worked=False)
                    _log.warning(
                        "keys of the token issuer not fetched",
                        extra={"fields": {"error": str(error) or type(error).__name__, "try": number + 1}},
                    )
                    if number + 1 < TRIES and self._breaker.state is BreakerState.CLOSED:
                        await asyncio.sleep(self._backoff_seconds * 2**number * random.uniform(0.5, 1.5))  # noqa: S311
                except BaseException:
                    # Cancelled, or a fault of ours: a half-open breaker that hears nothing lets no try through again.
                    self._breaker.failure()
                    raise
                else:
                    self._breaker.success()
                    self._count(worked=True)
                    return True
            return False
        finally:
            self._fetching = None

    def _accept(self, fetched: Fetched) -> None:
        """Take keys into use. An answer without a single key for us is a fault of the issuer: the last ones hold."""
        described = [one for one in fetched.keys[:KEYS_MAX] if isinstance(one, dict)]
        keys = [key for one in described for key in keys_of_jwk(one, self._algorithms)]
        if not keys:
            raise FetchError(f"no key for {', '.join(sorted(self._algorithms))} in it")
        wanted = FRESH_SECONDS if fetched.max_age is None else fetched.max_age
        self._take(KeySet(keys, algorithms=self._algorithms))
        self._fetched_at = self._monotonic()
        self._fresh_seconds = min(max(wanted, FRESH_SECONDS_MIN), FRESH_SECONDS_MAX)

    def _take(self, keys: KeySet) -> None:
        if not self._keys.identities <= keys.identities:
            self._epoch += 1
        self._keys = keys

    def _count(self, *, worked: bool) -> None:
        if self._counted is not None:
            self._counted(worked)

    async def _keep_fresh(self) -> None:
        while True:
            left = self._fresh_seconds * AHEAD - self.age
            await asyncio.sleep(max(left, self._breaker.retry_after, 1.0))
            try:
                await self.refresh()
            except Exception:  # noqa: BLE001 - it is logged with all that is known of it
                # Without this nobody would ever ask the issuer again ahead of need.
                _log.exception("fetching the keys of the token issuer failed")


def http_jwks(
    *,
    url: str | None = None,
    issuer: str | None = None,
    ca_file: Path | None = None,
    token_file: Path | None = None,
) -> Fetch:
    """Fetch a key set over HTTP: from `url`, else from where the issuer's discovery document says.

    `ca_file` has the authorities to believe instead of the system's; `token_file` a bearer token, read anew each time
    (a Kubernetes API server wants one, and rotates it). Redirects are not followed: the address is ours to say.

    Raises FirewallError(INVALID_SETTINGS) for a CA file that cannot be read.
    """
    try:
        believed = trust(ca_file)
    except OSError as error:
        raise FirewallError(
            Kind.INVALID_SETTINGS,
            f"the certificates for the token issuer cannot be read: {getattr(error, 'strerror', None) or error}",
            fix="set MFW_AUTH__JWT__CA_FILE to a PEM file",
        ) from None

    async def fetch() -> Fetched:
        import httpx

        # An API server of Kubernetes answers 406 to whoever does not name the type of RFC 7517 section 8.5.1.
        headers = {"accept": "application/json, application/jwk-set+json"}
        try:
            if token_file is not None:
                token = await asyncio.to_thread(token_file.read_text)
                headers["authorization"] = f"Bearer {token.strip()}"
            async with httpx.AsyncClient(
                verify=believed, timeout=TRY_SECONDS, follow_redirects=False, trust_env=False, headers=headers
            ) as client:
                where = url
                if where is None:
                    document, _ = await _document(client, f"{str(issuer).rstrip('/')}/.well-known/openid-configuration")
                    where = document.get("jwks_uri")
                    if document.get("issuer") != issuer or not isinstance(where, str):
                        # OpenID Connect Discovery section 4.3: it MUST be identical, or anybody could answer for it.
                        raise FetchError("the discovery document is of another issuer or names no keys")
                    if httpx.URL(str(issuer)).scheme == "https" != httpx.URL(where).scheme:
                        raise FetchError("the discovery document leads from https to http")
                document, max_age = await _document(client, where)
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise FetchError(type(error).__name__) from None
        keys = document.get("keys")
        if not isinstance(keys, list):
            raise FetchError("no `keys` in it")
        return Fetched(keys, max_age)

    return fetch


async def _document(client: Any, url: str) -> tuple[JsonObject, float | None]:
    async with client.stream("GET", url) as response:
        if response.status_code != 200:
            raise FetchError(f"answered {response.status_code}")
        body = b""
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > DOCUMENT_BYTES_MAX:
                raise FetchError(f"more than {DOCUMENT_BYTES_MAX} bytes")
        found = _MAX_AGE.search(response.headers.get("cache-control", ""))
    try:
        tree = strict_json.parse(body).tree
    except FirewallError as error:
        raise FetchError(f"no JSON: {error.detail}") from None
    if not isinstance(tree, dict):
        raise FetchError("no JSON object")
    return tree, float(found[1]) if found else None
