"""Step 2: who asks. API keys and JSON Web Tokens become a principal, or nothing does."""

import ipaddress
import logging
import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from hashlib import sha256
from typing import Final, NoReturn, Protocol

from app.core.api_key import is_well_formed
from app.core.principal import AuthMethod, Principal, PrincipalKind, Role
from app.edge.authn.api_keys import ApiKeyRing
from app.edge.authn.certificates import ClientCertificates
from app.edge.authn.failures import PREFIX_BYTES, FailedAttempts
from app.edge.authn.keys import UnknownKeyError
from app.edge.authn.rejected import RejectedError
from app.edge.authn.tokens import JwtVerifier, claimed_subject
from app.edge.peer import Peer
from app.errors import FirewallError, Kind
from app.observability.metrics import AuthResult, LimitScope, Metrics

Headers = Iterable[tuple[bytes, bytes]]

API_KEY_PREFIX: Final = b"mfw_"

# A verified token costs about 400 bytes to remember.
MAX_CACHED_TOKENS: Final = 10_000

# Whose tokens were good: 32 bytes for each.
MAX_CALLERS: Final = 10_000

# The one thing that a caller without a valid credential is told: what exactly was wrong would help to guess.
_REFUSED: Final = "a valid api key or token is needed"
_FIX: Final = "send `Authorization: Bearer` with an api key (`mfw_...`) or a token of the configured issuer"

_EXPIRED: Final = {AuthMethod.API_KEY: "api key expired", AuthMethod.MTLS: "client certificate expired"}

_log: Final = logging.getLogger("mfw.authn")


class Authenticates(Protocol):
    """What a surface needs of step 2."""

    async def authenticate(self, headers: Headers, *, client_ip: str, peer: Peer | None = None) -> Principal:
        """Return who asks, or raise FirewallError. `peer` is the other end of the connection itself, if known."""


class Authenticator:
    """Turns a request's credential into a principal.

    A credential that is known (a loaded API key, a token that was verified before) costs one hash and one look-up and
    is never held up. Only what is *not* known is stopped by the failures of its address or of keys that begin like it,
    before any work is done for it: behind one proxy or one NAT, somebody's wrong key must not lock everybody out. Nor
    must it keep out who comes with a new token, as everybody with tokens does again and again: one that names a caller
    who was here before is verified all the same, and its failures count against that name at that address.
    """

    def __init__(
        self,
        *,
        api_keys: ApiKeyRing | None,
        jwt: JwtVerifier | None,
        failures: FailedAttempts,
        metrics: Metrics,
        certificates: ClientCertificates | None = None,
        clock: Callable[[], float] = time.time,
        max_cached_tokens: int = MAX_CACHED_TOKENS,
    ) -> None:
        self._api_keys = api_keys
        self._jwt = jwt
        self._certificates = certificates
        self._failures = failures
        self._clock = clock
        self._max_cached_tokens = max_cached_tokens
        self._tokens: dict[bytes, tuple[int, float, Principal]] = {}
        self._callers: dict[bytes, None] = {}
        self._epoch = 0
        self._attempts = metrics.auth_attempts
        self._rejections = metrics.rate_limit_rejections[LimitScope.ADDRESS]
        self._key_success = metrics.auth_attempts[AuthMethod.API_KEY, AuthResult.SUCCESS]
        self._token_success = metrics.auth_attempts[AuthMethod.JWT, AuthResult.SUCCESS]

    def replace_jwt(self, verifier: JwtVerifier | None) -> None:
        """Take other keys into use; every token is verified anew, since what was remembered is of an earlier epoch."""
        self._jwt = verifier
        self._epoch += 1

    async def authenticate(self, headers: Headers, *, client_ip: str, peer: Peer | None = None) -> Principal:
        """Return who asks.

        Raises FirewallError: UNAUTHENTICATED without saying why, TOKEN_EXPIRED for a genuine credential past its end,
        MALFORMED for more than one credential (RFC 6750 section 3.1) or a certificate's header that is not a trusted
        proxy's, RATE_LIMITED for an address that failed too often, UNAVAILABLE while API keys cannot be loaded.

        A credential goes before a certificate: a mesh names the certificate of every connection, whoever uses it.
        What a proxy names goes before the proxy's own.
        """
        certificate = None if self._certificates is None else self._certificates.value_of(headers, peer=peer)
        credential = _credential(headers)
        if credential is None and self._certificates is not None:
            if certificate is not None:
                return await self._identify(partial(self._certificates.find, certificate), client_ip)
            if peer is not None and peer.certificate is not None:
                shown = partial(self._certificates.find_shown, peer.certificate, now=self._clock())
                return await self._identify(shown, client_ip)
        if credential is None:
            self._attempts[AuthMethod.NONE, AuthResult.FAILURE].inc()
            raise FirewallError(Kind.UNAUTHENTICATED, _REFUSED, fix=_FIX)
        method, prefix = AuthMethod.JWT, b""
        if credential.startswith(API_KEY_PREFIX):
            method, prefix = AuthMethod.API_KEY, credential[:PREFIX_BYTES]
        try:
            if method is AuthMethod.API_KEY:
                known = (
                    self._api_keys.find_known(credential, client_ip=client_ip) if self._api_keys is not None else None
                )
                if known is not None:
                    self._key_success.inc()
                    return known
                self._admit(method, client_ip, prefix)
                principal = await self._find_key(credential, client_ip)
            else:
                digest = sha256(credential).digest()
                known = self._recall(digest)
                if known is not None:
                    self._token_success.inc()
                    return known
                prefix = self._admit_token(credential, client_ip)
                principal = await self._verify_token(credential, digest)
        except RejectedError as rejected:
            await self._refuse(method, client_ip, prefix, rejected)
        except FirewallError as error:
            if error.kind is Kind.UNAVAILABLE:
                self._attempts[method, AuthResult.UNAVAILABLE].inc()
            raise
        self._attempts[method, AuthResult.SUCCESS].inc()
        return principal

    async def _identify(self, find: Callable[[], Principal], client_ip: str) -> Principal:
        try:
            principal = find()
        except RejectedError as rejected:
            await self._refuse(AuthMethod.MTLS, client_ip, b"", rejected)
        self._attempts[AuthMethod.MTLS, AuthResult.SUCCESS].inc()
        return principal

    async def _find_key(self, key: bytes, client_ip: str) -> Principal:
        if self._api_keys is None:
            raise RejectedError("api keys are off")
        # The checksum tells a typing error or a made-up key from one of ours without asking the database.
        if not is_well_formed(key.decode("latin-1")):
            raise RejectedError("not an api key")
        principal = await self._api_keys.find(key, client_ip=client_ip)
        if principal is None:
            raise RejectedError("unknown api key")
        return principal

    def _recall(self, digest: bytes) -> Principal | None:
        remembered = self._tokens.get(digest)
        if remembered is None:
            return None
        epoch, refused_from, principal = remembered
        if self._jwt is None or epoch != self._epoch + self._jwt.keys.epoch:
            del self._tokens[digest]
            return None
        if self._clock() >= refused_from:
            del self._tokens[digest]
            raise RejectedError("token expired", expired=True)
        return principal

    async def _verify_token(self, token: bytes, digest: bytes) -> Principal:
        if self._jwt is None:
            raise RejectedError("tokens are off")
        verifier = self._jwt
        try:
            principal, refused_from = verifier.verify(token, now=self._clock())
        except UnknownKeyError as unknown:
            if not await verifier.keys.look_again(unknown.kid):
                raise
            principal, refused_from = verifier.verify(token, now=self._clock())
        if len(self._tokens) >= self._max_cached_tokens:
            # The oldest goes: only genuine tokens are in here, so nobody without the issuer's key can push others out.
            del self._tokens[next(iter(self._tokens))]
        self._tokens[digest] = (self._epoch + verifier.keys.epoch, refused_from, principal)
        caller = sha256(principal.id.encode()).digest()
        self._callers.pop(caller, None)
        if len(self._callers) >= MAX_CALLERS:
            del self._callers[next(iter(self._callers))]
        self._callers[caller] = None
        return principal

    def _admit_token(self, token: bytes, client_ip: str) -> bytes:
        """As `_admit`, but not for somebody who was here before; give what a failure counts against as well."""
        address = _network(client_ip)
        if self._jwt is not None and self._failures.refusal(address, b"") is not None:
            subject = claimed_subject(token)
            caller = b"" if subject is None else sha256(subject.encode()).digest()
            mark = sha256(b"%b %b" % (caller, address.encode())).digest()
            if caller in self._callers and self._failures.has_room(mark):
                return mark
        self._admit(AuthMethod.JWT, client_ip, b"")
        return b""

    def _admit(self, method: AuthMethod, client_ip: str, prefix: bytes) -> None:
        """Refuse who failed too often, before anything is computed for it."""
        refusal = self._failures.refusal(_network(client_ip), prefix)
        if refusal is not None:
            self._attempts[method, AuthResult.LIMITED].inc()
            self._rejections.inc()
            refusal.check()

    async def _refuse(self, method: AuthMethod, client_ip: str, prefix: bytes, rejected: RejectedError) -> NoReturn:
        self._attempts[method, AuthResult.EXPIRED if rejected.expired else AuthResult.FAILURE].inc()
        if rejected.expired:
            # Genuine, only old: not a guess, so it does not count against the address.
            detail = _EXPIRED.get(method, "token expired")
            raise FirewallError(Kind.TOKEN_EXPIRED, detail, fix="get a new one") from None
        _log.warning(
            "authentication failed",
            extra={"fields": {"client": client_ip, "method": method.value, "reason": rejected.reason}},
        )
        try:
            await self._failures.count(_network(client_ip), prefix)
        except FirewallError:
            self._rejections.inc()
            raise
        raise FirewallError(Kind.UNAUTHENTICATED, _REFUSED, fix=_FIX) from None


class UnsafeAnonymousAuthenticator:
    """Lets everybody do everything. For a machine of one's own; production settings refuse it."""

    def __init__(self) -> None:
        warnings.warn("authentication is off: anybody may ask for decisions", RuntimeWarning, stacklevel=2)
        self._principal = Principal(
            id="anonymous", kind=PrincipalKind.SERVICE, roles=frozenset(Role), method=AuthMethod.NONE
        )

    async def authenticate(
        self,
        headers: Headers,  # noqa: ARG002
        *,
        client_ip: str,  # noqa: ARG002
        peer: Peer | None = None,  # noqa: ARG002
    ) -> Principal:
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
