"""Step 2: who asks. API keys and JSON Web Tokens become a principal, or nothing does."""

import asyncio
import base64
import contextlib
import hmac
import ipaddress
import logging
import re
import time
import warnings
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any, Final, NoReturn, Protocol

from jose import jwk, jws
from jose.backends.base import Key

from app.core import strict_json
from app.core.principal import AuthMethod, Principal, PrincipalKind, Role, require
from app.core.types import JsonObject
from app.edge.limits import TokenBuckets
from app.errors import FirewallError, Kind
from app.observability.metrics import AuthResult, LimitScope, Metrics
from app.persistence.api_keys import is_well_formed

__all__ = [
    "ApiKeyRing",
    "Authenticates",
    "Authenticator",
    "JwtVerifier",
    "KeyRecord",
    "Principal",
    "Role",
    "UnsafeAnonymousAuthenticator",
    "require",
]

Headers = Iterable[tuple[bytes, bytes]]

API_KEY_PREFIX: Final = b"mfw_"

# 8 KiB is the limit of most servers for one header line; a token of a large enterprise has 2 to 4 KiB.
MAX_TOKEN_BYTES: Final = 8192

# A verified token costs about 400 bytes to remember.
MAX_CACHED_TOKENS: Final = 10_000

# The longest `sub` that OpenID Connect Core section 2 allows.
MAX_SUBJECT_CHARS: Final = 255

# How often an unknown key may make us ask the database: a new key works within this time, and a flood of wrong ones
# costs one query.
MISS_REFRESH_SECONDS: Final = 1.0

# Revocations cannot reach us while keys cannot be loaded. After this long we no longer know who may ask.
MAX_KEYS_AGE_SECONDS: Final = 60.0

# The one thing that a caller without a valid credential is told: what exactly was wrong would help to guess.
_REFUSED: Final = "a valid api key or token is needed"
_FIX: Final = "send `Authorization: Bearer` with an api key (`mfw_...`) or a token of the configured issuer"

# RFC 7515 section 7.1: three parts in base64url without padding. Five parts are a JWE, which python-jose before 3.4
# would decompress without a limit (CVE-2024-33664); nothing here calls its JWE code, and such a token ends here.
_COMPACT_JWS: Final = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")

_PEM_HEAD: Final = "-----BEGIN PUBLIC KEY-----"
_CURVES: Final = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
_ALGORITHMS: Final = frozenset({"RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "HS256", "HS384", "HS512"})

# RFC 8725 section 3.11: other kinds of JWT of the same issuer (logout tokens, security events) are no access tokens.
_TOKEN_TYPES: Final = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})

_ROLES: Final[Mapping[str, Role]] = {role.value: role for role in Role}

_log: Final = logging.getLogger("mfw.authn")


class Authenticates(Protocol):
    """What a surface needs of step 2."""

    async def authenticate(self, headers: Headers, *, client_ip: str) -> Principal:
        """Return who asks, or raise FirewallError."""


class KeyRecord(Protocol):
    """An API key as it is stored: what it may do, until when, and the SHA-256 of it."""

    @property
    def hash(self) -> bytes:
        """32 bytes."""

    @property
    def principal_id(self) -> str:
        """Whom the key speaks for."""

    @property
    def roles(self) -> Collection[str]:
        """Names of roles; unknown ones give nothing."""

    @property
    def expires_at(self) -> datetime | None:
        """The moment from which the key is refused, with its time zone."""


class _RejectedError(Exception):
    """A credential is no good; the reason is for our own log and never for the caller."""

    def __init__(self, reason: str, *, expired: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.expired = expired


class _KnownKey:
    __slots__ = ("expires_at", "hash", "principal")

    def __init__(self, record: KeyRecord) -> None:
        self.hash = bytes(record.hash)
        self.expires_at = float("inf") if record.expires_at is None else record.expires_at.timestamp()
        self.principal = Principal(
            id=record.principal_id,
            kind=PrincipalKind.SERVICE,
            roles=_roles(record.roles),
            method=AuthMethod.API_KEY,
        )


class ApiKeyRing:
    """The valid API keys by hash, in memory: loaded every `refresh_seconds`, and at most once a second on a miss.

    `load` gives all keys that are not revoked. While it fails the last answer holds for `MAX_KEYS_AGE_SECONDS`, then
    nobody is let in: a revocation may be waiting where we cannot see it.
    """

    def __init__(
        self,
        load: Callable[[], Awaitable[Iterable[KeyRecord]]],
        *,
        refresh_seconds: float = 5.0,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._load = load
        self._refresh_seconds = refresh_seconds
        self._max_age = max(MAX_KEYS_AGE_SECONDS, 3 * refresh_seconds)
        self._monotonic = monotonic
        self._clock = clock
        self._known: dict[bytes, _KnownKey] = {}
        self._loaded_at = float("-inf")
        self._tried_at = float("-inf")
        self._failed = True
        self._loads = 0
        self._loading = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """How many keys are known."""
        return len(self._known)

    @property
    def usable(self) -> bool:
        """Whether the keys in memory are young enough to be believed."""
        return self._monotonic() - self._loaded_at <= self._max_age

    async def start(self) -> None:
        """Load the keys and keep them fresh; a failure now is logged and tried again, not raised."""
        await self.refresh()
        self._task = asyncio.get_running_loop().create_task(self._keep_fresh(), name="api-keys")

    async def stop(self) -> None:
        """End the task that keeps the keys fresh."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def refresh(self, *, unless_tried_within: float = 0.0) -> None:
        """Load the keys now; whoever comes while they are loaded waits for that load instead of starting another."""
        loads = self._loads
        async with self._loading:
            if self._loads != loads or self._monotonic() - self._tried_at < unless_tried_within:
                return
            self._tried_at = self._monotonic()
            # Until the opposite is known: a request whose time runs out is cancelled in the middle of this load, and
            # who waits for it must not take that for "there is no such key".
            self._failed = True
            try:
                known = {key.hash: key for key in map(_KnownKey, await self._load())}
            except Exception as error:  # noqa: BLE001 - whatever the store raises, the keys in memory stay and age
                _log.warning("api keys not loaded", extra={"fields": {"error": type(error).__name__}})
                return
            finally:
                self._loads += 1
            self._known = known
            # The age counts from the question, not from the answer: what was revoked in between is not in it.
            self._loaded_at = self._tried_at
            self._failed = False

    async def find(self, key: bytes) -> Principal | None:
        """Return whom a key speaks for, None if nobody; looks again in the store if the key is not known.

        Raises FirewallError(UNAVAILABLE) when that cannot be known now.
        """
        digest = sha256(key).digest()
        found = self._known.get(digest)
        if found is None or not self.usable:
            await self.refresh(unless_tried_within=MISS_REFRESH_SECONDS)
            found = self._known.get(digest)
            if not self.usable or (found is None and self._failed):
                raise FirewallError(
                    Kind.UNAVAILABLE, "api keys cannot be checked now", retry_after=MISS_REFRESH_SECONDS
                )
        return self._check(found, digest)

    def find_known(self, key: bytes) -> Principal | None:
        """Return whom a key speaks for by what is in memory: one hash, one look-up."""
        digest = sha256(key).digest()
        found = self._known.get(digest)
        return self._check(found, digest) if found is not None and self.usable else None

    def _check(self, found: _KnownKey | None, digest: bytes) -> Principal | None:
        # A dictionary compares hashes in a time that depends on them; of a hash that tells nothing about a key. The
        # comparison in constant time stands here all the same, so that no reader has to follow that argument.
        if found is None or not hmac.compare_digest(found.hash, digest):
            return None
        if self._clock() >= found.expires_at:
            raise _RejectedError("api key expired", expired=True)
        return found.principal

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(self._refresh_seconds)
            await self.refresh()


class JwtVerifier:
    """Checks JSON Web Tokens (RFC 7519) of one issuer, by python-jose for the signature and by hand for the claims.

    A key is bound to the algorithms of its own type, so that no header can make a public key serve as an HMAC secret
    (CVE-2024-33663, RFC 8725 section 3.1). `public_keys` maps a key id to a PEM public key; the id "" fits every token.
    """

    def __init__(
        self,
        *,
        algorithms: Collection[str],
        issuer: str,
        audience: str,
        public_keys: Mapping[str, str] | None = None,
        secret: str | None = None,
        roles_claim: str = "roles",
        leeway_seconds: int = 10,
    ) -> None:
        """Raises FirewallError(INVALID_SETTINGS) unless every algorithm has a key and every key an algorithm."""
        self._issuer = issuer
        self._audience = audience
        self._roles_claim = roles_claim
        self._leeway = leeway_seconds
        self._keys: dict[tuple[str, str], Key] = {}
        if unknown := set(algorithms) - _ALGORITHMS:
            raise _setting(f"algorithm `{min(unknown)}` is not known")
        for algorithm in algorithms:
            if algorithm.startswith("HS"):
                self._keys["", algorithm] = _hmac_key(secret, algorithm)
        for kid, pem in (public_keys or {}).items():
            fitting = {a: key for a in algorithms if (key := _public_key(pem, a)) is not None}
            if not fitting:
                raise _setting(f"key `{kid}` is no PEM public key for {', '.join(sorted(algorithms))}")
            self._keys |= {(kid, algorithm): key for algorithm, key in fitting.items()}
        if unused := set(algorithms) - {algorithm for _, algorithm in self._keys}:
            raise _setting(f"no key is for `{min(unused)}`")
        if not self._keys:
            raise _setting("no algorithm is named")

    def verify(self, token: bytes, *, now: float) -> tuple[Principal, float]:
        """Return whom a token speaks for and the moment from which it is refused, both times in seconds since 1970.

        Raises _RejectedError for everything else, whatever the bytes are.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise _RejectedError("token too long")
        if not _COMPACT_JWS.fullmatch(token):
            raise _RejectedError("not a compact jws")
        head, body, _ = token.split(b".")
        algorithm, key = self._key_for(_object(head, "header"))
        try:
            # python-jose looks at the header once more: the algorithm in it must be the one whose key was chosen.
            jws.verify(token.decode("ascii"), key, algorithms=[algorithm])
        except Exception as error:  # noqa: BLE001 - it lets ValueError, TypeError and others through beside its own
            raise _RejectedError(f"signature: {type(error).__name__}") from None
        # The signature is over the encoded text, so decoding it here reads what was signed.
        return self._judge(_object(body, "claims"), now)

    def _key_for(self, header: JsonObject) -> tuple[str, Key]:
        algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
        # RFC 7515 section 4.1.11: extensions that must be understood and are not make the token invalid.
        if "crit" in header:
            raise _RejectedError("critical extension")
        if not isinstance(kind, str) or kind.lower() not in _TOKEN_TYPES:
            raise _RejectedError("not an access token")
        if not isinstance(algorithm, str):
            raise _RejectedError("no algorithm")
        if kid is None:
            fitting = [key for (_, a), key in self._keys.items() if a == algorithm]
            if len(fitting) == 1:
                return algorithm, fitting[0]
        elif isinstance(kid, str):
            key = self._keys.get((kid, algorithm)) or self._keys.get(("", algorithm))
            if key is not None:
                return algorithm, key
        raise _RejectedError("no key for this algorithm and key id")

    def _judge(self, claims: JsonObject, now: float) -> tuple[Principal, float]:
        if claims.get("iss") != self._issuer:
            raise _RejectedError("other issuer")
        audience = claims.get("aud")
        if audience != self._audience and not (isinstance(audience, list) and self._audience in audience):
            raise _RejectedError("other audience")
        subject = claims.get("sub")
        if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT_CHARS:
            raise _RejectedError("no subject")
        roles = claims.get(self._roles_claim, [])
        if isinstance(roles, str):
            roles = roles.split()
        if not isinstance(roles, list):
            raise _RejectedError("roles are no list")
        issued, not_before, expires = (_moment(claims, name) for name in ("iat", "nbf", "exp"))
        if max(issued, not_before) - self._leeway > now:
            raise _RejectedError("not yet valid")
        if now >= expires + self._leeway:
            raise _RejectedError("token expired", expired=True)
        principal = Principal(id=subject, kind=PrincipalKind.USER, roles=_roles(roles), method=AuthMethod.JWT)
        return principal, expires + self._leeway


class Authenticator:
    """Turns a request's credential into a principal.

    A credential that is known (a loaded API key, a token that was verified before) costs one hash and one look-up and
    is never held up. Only what is *not* known is stopped by the address's bucket of failures, before any work is done
    for it: behind one proxy or one NAT, somebody's wrong key must not lock everybody out. The bucket bounds work and
    noise; that keys cannot be guessed rests on their random bits.
    """

    def __init__(
        self,
        *,
        api_keys: ApiKeyRing | None,
        jwt: JwtVerifier | None,
        failures: TokenBuckets,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
        max_cached_tokens: int = MAX_CACHED_TOKENS,
    ) -> None:
        self._api_keys = api_keys
        self._jwt = jwt
        self._failures = failures
        self._clock = clock
        self._max_cached_tokens = max_cached_tokens
        self._tokens: dict[bytes, tuple[int, float, Principal]] = {}
        self._epoch = 0
        self._attempts = metrics.auth_attempts
        self._rejections = metrics.rate_limit_rejections[LimitScope.ADDRESS]
        self._key_success = metrics.auth_attempts[AuthMethod.API_KEY, AuthResult.SUCCESS]
        self._token_success = metrics.auth_attempts[AuthMethod.JWT, AuthResult.SUCCESS]

    def replace_jwt(self, verifier: JwtVerifier | None) -> None:
        """Take other keys into use; every token is verified anew, since what was remembered is of an earlier epoch."""
        self._jwt = verifier
        self._epoch += 1

    async def authenticate(self, headers: Headers, *, client_ip: str) -> Principal:
        """Return who asks.

        Raises FirewallError: UNAUTHENTICATED without saying why, TOKEN_EXPIRED for a genuine credential past its end,
        MALFORMED for more than one credential (RFC 6750 section 3.1), RATE_LIMITED for an address that failed too
        often, UNAVAILABLE while API keys cannot be loaded.
        """
        credential = _credential(headers)
        if credential is None:
            self._attempts[AuthMethod.NONE, AuthResult.FAILURE].inc()
            raise FirewallError(Kind.UNAUTHENTICATED, _REFUSED, fix=_FIX)
        method = AuthMethod.API_KEY if credential.startswith(API_KEY_PREFIX) else AuthMethod.JWT
        try:
            if method is AuthMethod.API_KEY:
                known = self._api_keys.find_known(credential) if self._api_keys is not None else None
                if known is not None:
                    self._key_success.inc()
                    return known
                self._admit(method, client_ip)
                principal = await self._find_key(credential)
            else:
                digest = sha256(credential).digest()
                known = self._recall(digest)
                if known is not None:
                    self._token_success.inc()
                    return known
                self._admit(method, client_ip)
                principal = self._verify_token(credential, digest)
        except _RejectedError as rejected:
            self._refuse(method, client_ip, rejected)
        except FirewallError as error:
            if error.kind is Kind.UNAVAILABLE:
                self._attempts[method, AuthResult.UNAVAILABLE].inc()
            raise
        self._attempts[method, AuthResult.SUCCESS].inc()
        return principal

    async def _find_key(self, key: bytes) -> Principal:
        if self._api_keys is None:
            raise _RejectedError("api keys are off")
        # The checksum tells a typing error or a made-up key from one of ours without asking the database.
        if not is_well_formed(key.decode("latin-1")):
            raise _RejectedError("not an api key")
        principal = await self._api_keys.find(key)
        if principal is None:
            raise _RejectedError("unknown api key")
        return principal

    def _recall(self, digest: bytes) -> Principal | None:
        remembered = self._tokens.get(digest)
        if remembered is None:
            return None
        epoch, refused_from, principal = remembered
        if epoch != self._epoch:
            del self._tokens[digest]
            return None
        if self._clock() >= refused_from:
            del self._tokens[digest]
            raise _RejectedError("token expired", expired=True)
        return principal

    def _verify_token(self, token: bytes, digest: bytes) -> Principal:
        if self._jwt is None:
            raise _RejectedError("tokens are off")
        principal, refused_from = self._jwt.verify(token, now=self._clock())
        if len(self._tokens) >= self._max_cached_tokens:
            # The oldest goes: only genuine tokens are in here, so nobody without the issuer's key can push others out.
            del self._tokens[next(iter(self._tokens))]
        self._tokens[digest] = (self._epoch, refused_from, principal)
        return principal

    def _admit(self, method: AuthMethod, client_ip: str) -> None:
        """Refuse an address whose failures used up its bucket, before anything is computed for it."""
        refusal = self._failures.exhausted(_network(client_ip))
        if refusal is not None:
            self._attempts[method, AuthResult.LIMITED].inc()
            self._rejections.inc()
            refusal.check()

    def _refuse(self, method: AuthMethod, client_ip: str, rejected: _RejectedError) -> NoReturn:
        self._attempts[method, AuthResult.EXPIRED if rejected.expired else AuthResult.FAILURE].inc()
        if rejected.expired:
            # Genuine, only old: not a guess, so it does not count against the address.
            detail = "api key expired" if method is AuthMethod.API_KEY else "token expired"
            raise FirewallError(Kind.TOKEN_EXPIRED, detail, fix="get a new one") from None
        self._failures.take_now(_network(client_ip))
        _log.warning(
            "authentication failed",
            extra={"fields": {"client": client_ip, "method": method.value, "reason": rejected.reason}},
        )
        raise FirewallError(Kind.UNAUTHENTICATED, _REFUSED, fix=_FIX) from None


class UnsafeAnonymousAuthenticator:
    """Lets everybody do everything. For a machine of one's own; production settings refuse it."""

    def __init__(self) -> None:
        warnings.warn("authentication is off: anybody may ask for decisions", RuntimeWarning, stacklevel=2)
        self._principal = Principal(
            id="anonymous", kind=PrincipalKind.SERVICE, roles=frozenset(Role), method=AuthMethod.NONE
        )

    async def authenticate(self, headers: Headers, *, client_ip: str) -> Principal:  # noqa: ARG002 - the interface
        """Return the one principal there is."""
        return self._principal


def _credential(headers: Headers) -> bytes | None:
    """The one credential of a request: None if there is none, or if it is of a scheme that is not ours."""
    authorization: bytes | None = None
    api_key: bytes | None = None
    for name, value in headers:
        if name == b"authorization":
            if authorization is not None:
                raise _ambiguous()
            authorization = value
        elif name == b"x-api-key":
            if api_key is not None:
                raise _ambiguous()
            api_key = value
    if authorization is None:
        # Only API keys come in this header: a token in it would be a second way in that nobody documents.
        return api_key.strip() if api_key is not None and api_key.strip().startswith(API_KEY_PREFIX) else None
    if api_key is not None:
        raise _ambiguous()
    scheme, _, credential = authorization.partition(b" ")
    # RFC 9110 section 11.1: the scheme is case-insensitive.
    return credential.strip() or None if scheme.lower() == b"bearer" else None


def _ambiguous() -> FirewallError:
    return FirewallError(
        Kind.MALFORMED,
        "more than one credential was sent",
        fix="send either `Authorization` or `X-API-Key`, once",
    )


def _object(part: bytes, name: str) -> JsonObject:
    """One part of a token as a JSON object, read as strictly as a request body: no key twice, no depth without end."""
    try:
        decoded = base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
        tree = strict_json.parse(decoded).tree
    except (ValueError, FirewallError):
        raise _RejectedError(f"unreadable {name}") from None
    if not isinstance(tree, dict):
        raise _RejectedError(f"{name} is no object")
    return tree


def _moment(claims: JsonObject, name: str) -> float:
    """A NumericDate (RFC 7519 section 2), which may have a fraction and is never left out here."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _RejectedError(f"no `{name}`")
    return float(value)


def _roles(names: Iterable[Any]) -> frozenset[Role]:
    """The roles among names; an identity provider sends many that mean nothing here."""
    return frozenset(_ROLES[name] for name in names if isinstance(name, str) and name in _ROLES)


def _network(client_ip: str) -> str:
    """What counts as one caller: an IPv4 address, or the /64 that every IPv6 subscriber has to choose from."""
    if ":" not in client_ip:
        return client_ip
    try:
        address = ipaddress.IPv6Address(client_ip.partition("%")[0])
    except ValueError:
        return client_ip
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return address.exploded[:19]


def _hmac_key(secret: str | None, algorithm: str) -> Key:
    if not secret:
        raise _setting(f"`{algorithm}` needs a secret")
    try:
        return jwk.construct(secret, algorithm)
    except Exception:  # noqa: BLE001 - among others, what looks like a public key is refused here
        raise _setting(f"the secret cannot serve as a key for `{algorithm}`") from None


def _public_key(pem: str, algorithm: str) -> Key | None:
    """The key for an algorithm, None if it is of another type; python-jose itself loads any key for any algorithm."""
    if algorithm.startswith("HS") or not pem.lstrip().startswith(_PEM_HEAD):
        return None
    try:
        key = jwk.construct(pem.strip(), algorithm)
        described: Mapping[str, Any] = key.to_dict()
    except Exception:  # noqa: BLE001 - an RSA key asked for its curve is an AttributeError, an exotic curve a KeyError
        return None
    return key if described.get("crv") == _CURVES.get(algorithm) else None


def _setting(detail: str) -> FirewallError:
    return FirewallError(
        Kind.INVALID_SETTINGS, f"tokens cannot be checked: {detail}", fix="see the MFW_AUTH__JWT__ settings"
    )
