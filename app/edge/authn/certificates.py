"""Client certificates: verified by the handshake with us, or by a proxy in front that says whose they are.

A proxy is believed only as the peer of the connection itself, never by way of `X-Forwarded-For`, which clients write as
well. It must drop the header of its clients; whether it does cannot be seen from here.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from cryptography import x509

from app.core.glob import Glob, compile_glob
from app.core.networks import Networks, is_within
from app.core.principal import AuthMethod, Principal, PrincipalKind, Role
from app.edge.authn.claims import SubjectCondition
from app.edge.authn.rejected import RejectedError
from app.edge.peer import Peer
from app.errors import FirewallError, Kind

# Envoy's header has elements of its own form; every other header is the identity itself.
FORWARDED_CLIENT_CERT: Final = b"x-forwarded-client-cert"

# A SPIFFE ID has at most 2048 bytes; those of real trust domains have under 200.
IDENTITY_CHARS_MAX: Final = 512
# Principals that are remembered: with each its roles, worked out by globs.
REMEMBERED_MAX: Final = 10_000

_ROLES: Final = {role.value: role for role in Role}


class IdentityRule(NamedTuple):
    """Whose identity fits has the role."""

    role: Role
    identity: Glob


def identity_rule(text: str) -> IdentityRule:
    """Read `ROLE=GLOB`. Raises ValueError that says what is wrong."""
    role, equals, pattern = text.partition("=")
    if not equals or not pattern:
        raise ValueError("is not `ROLE=GLOB`, such as `agent=spiffe://example.org/ns/agents/*`")
    if role not in _ROLES:
        raise ValueError(f"`{role[:40]}` is no role; there are {', '.join(_ROLES)}")
    return IdentityRule(_ROLES[role], compile_glob(pattern))


class ClientCertificates:
    """Reads certificates, and the header of trusted proxies.

    `header` is lower case, None where no proxy names anybody.
    """

    def __init__(
        self,
        *,
        header: str | None,
        proxies: Networks,
        rules: Iterable[IdentityRule],
        subjects: SubjectCondition | None = None,
    ) -> None:
        """Without `subjects` a certificate may speak for everybody; with it `context.claims.identity` is its own."""
        self.header = None if header is None else header.encode("ascii")
        self._proxies = proxies
        self._rules = tuple(rules)
        self._subjects = subjects
        self._known: dict[bytes, Principal] = {}
        self._shown: dict[bytes, tuple[float, Principal]] = {}

    def value_of(self, headers: Iterable[tuple[bytes, bytes]], *, peer: Peer | None) -> bytes | None:
        """The header's value, None where there is none.

        Raises FirewallError(MALFORMED) when it comes from anybody but a proxy, or twice: passed over, it would hide a
        proxy that somebody forgot to name, or a client that tries.
        """
        if self.header is None:
            return None
        found: bytes | None = None
        for name, value in headers:
            if name == self.header:
                if found is not None:
                    raise _malformed("the client certificate's header was sent twice")
                found = value
        if found is not None and (peer is None or not is_within(peer.address, self._proxies)):
            raise _malformed("the client certificate's header does not come from a trusted proxy")
        return found or None

    def find(self, value: bytes) -> Principal:
        """Whom the header names. Raises RejectedError for what names nobody, or several."""
        known = self._known.get(value)
        if known is None:
            if len(self._known) >= REMEMBERED_MAX:
                # Only trusted proxies fill it. The oldest goes.
                del self._known[next(iter(self._known))]
            known = self._known[value] = self._read(value)
        return known

    def find_shown(self, der: bytes, *, now: float) -> Principal:
        """Whom a certificate of the connection names, which its handshake has verified.

        Raises RejectedError for one that names nobody, or several, and for one that is over by now: connections last.
        """
        known = self._shown.get(der)
        if known is None:
            if len(self._shown) >= REMEMBERED_MAX:
                # Only authorities of ours fill it. The oldest goes.
                del self._shown[next(iter(self._shown))]
            identity, until = _certified(der)
            known = self._shown[der] = (until, self._principal(identity))
        until, principal = known
        if now > until:
            raise RejectedError("client certificate expired", expired=True)
        return principal

    def _read(self, value: bytes) -> Principal:
        try:
            text = value.decode()
        except UnicodeDecodeError:
            raise RejectedError("certificate header is not utf-8") from None
        return self._principal(_forwarded(text) if self.header == FORWARDED_CLIENT_CERT else text.strip())

    def _principal(self, identity: str) -> Principal:
        if not 0 < len(identity) <= IDENTITY_CHARS_MAX or not identity.isprintable():
            raise RejectedError("certificate without a usable identity")
        return Principal(
            id=identity,
            kind=PrincipalKind.SERVICE,
            roles=frozenset(rule.role for rule in self._rules if rule.identity.matches(identity)),
            method=AuthMethod.MTLS,
            binding=None if self._subjects is None else self._subjects.of({"identity": identity}),
        )


def _certified(der: bytes) -> tuple[str, float]:
    """The identity of a certificate, as Envoy would name it, and when it ends. Raises RejectedError."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        ends = certificate.not_valid_after_utc.timestamp()
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            uris: list[str] = []
        else:
            uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        subject = certificate.subject.rfc4514_string()
    except ValueError:
        # OpenSSL took it; cryptography reads more of it, and more strictly.
        raise RejectedError("certificate not understood") from None
    if len(uris) > 1:
        # The SPIFFE X.509-SVID standard, section 2: exactly one.
        raise RejectedError("certificate with several uris")
    return (uris[0] if uris else subject), ends


def _forwarded(text: str) -> str:
    """The identity in Envoy's header: the URI of the certificate, which is the SPIFFE ID, else its subject.

    More than one element tells of proxies before the trusted one, which nobody vouches for. Raises RejectedError.
    """
    pairs = _pairs(text)
    uris = [value for name, value in pairs if name == "uri" and value]
    if len(uris) > 1:
        # The SPIFFE X.509-SVID standard, section 2: exactly one.
        raise RejectedError("certificate with several uris")
    subjects = [value for name, value in pairs if name == "subject"]
    return uris[0] if uris else subjects[0] if len(subjects) == 1 else ""


def _pairs(text: str) -> list[tuple[str, str]]:
    """`Name=value;Name="quoted; value"`, names in lower case."""
    pairs: list[tuple[str, str]] = []
    at, end = 0, len(text)
    while at < end:
        name, equals, _ = text[at:].partition("=")
        if not equals:
            raise RejectedError("certificate header not understood")
        at += len(name) + 1
        value: list[str] = []
        if text[at : at + 1] == '"':
            at += 1
            while at < end and text[at] != '"':
                # Escaped is what follows, a quotation mark above all.
                at += text[at] == "\\" and at + 1 < end
                value.append(text[at])
                at += 1
            if at >= end:
                raise RejectedError("certificate header not understood")
            at += 1
        else:
            while at < end and text[at] not in ";,":
                value.append(text[at])
                at += 1
        if at < end and text[at] != ";":
            raise RejectedError(
                "certificate of more than one hop" if text[at] == "," else "certificate header not understood"
            )
        at += 1
        pairs.append((name.strip().lower(), "".join(value)))
    return pairs


def _malformed(detail: str) -> FirewallError:
    return FirewallError(
        Kind.MALFORMED, detail, fix="leave it out, or name the proxy in MFW_AUTH__MTLS__PROXIES, which removes it first"
    )
