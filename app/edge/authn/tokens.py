"""JSON Web Tokens (RFC 7519) of one issuer: python-jose for the signature, the claims by hand."""

import base64
import re
from collections.abc import Iterable, Sequence
from typing import Final

from jose import jws

from app.core import strict_json
from app.core.principal import AuthMethod, Principal, PrincipalKind, roles_named
from app.core.types import JsonObject
from app.edge.authn.claims import RoleRule, SubjectCondition, mapped_roles, values_of
from app.edge.authn.keys import PSS_ALGORITHMS, TokenKeys, UnknownKeyError, VerificationKey, verify_pss
from app.edge.authn.rejected import RejectedError
from app.errors import FirewallError

# 8 KiB is the limit of most servers for one header line; a token of a large enterprise has 2 to 4 KiB.
MAX_TOKEN_BYTES: Final = 8192

# The longest `sub` that OpenID Connect Core section 2 allows.
MAX_SUBJECT_CHARS: Final = 255

# What stands before namespace and name in the `sub` of a Kubernetes service account, which is no person.
SERVICE_ACCOUNT: Final = "system:serviceaccount:"

# RFC 7515 section 7.1: three parts in base64url without padding. Five parts are a JWE, which python-jose before 3.4
# would decompress without a limit (CVE-2024-33664); nothing here calls its JWE code, and such a token ends here.
_COMPACT_JWS: Final = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")

# RFC 8725 section 3.11: other kinds of JWT of the same issuer (logout tokens, security events) are no access tokens.
_TOKEN_TYPES: Final = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})


class JwtVerifier:
    """Checks JSON Web Tokens of one issuer.

    A key is bound to the algorithms of its own type, so that no header can make a public key serve as an HMAC secret
    (CVE-2024-33663, RFC 8725 section 3.1), and no key ever comes from the token itself (`jwk`, `jku`, `x5u` are not
    looked at).
    """

    def __init__(
        self,
        keys: TokenKeys,
        *,
        issuer: str,
        audience: str,
        roles_claim: str = "roles",
        role_rules: Iterable[RoleRule] = (),
        subjects: SubjectCondition | None = None,
        leeway_seconds: int = 10,
    ) -> None:
        """`roles_claim` may have dots, as `realm_access.roles`; what it lists counts beside what `role_rules` give."""
        self.keys = keys
        self._issuer = issuer
        self._audience = audience
        self._roles_claim = roles_claim
        self._role_rules = tuple(role_rules)
        self._subjects = subjects
        self._leeway = leeway_seconds

    def verify(self, token: bytes, *, now: float) -> tuple[Principal, float]:
        """Return whom a token speaks for and the moment from which it is refused, both times in seconds since 1970.

        Raises RejectedError for everything else, whatever the bytes are: UnknownKeyError where other keys might help.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise RejectedError("token too long")
        if not _COMPACT_JWS.fullmatch(token):
            raise RejectedError("not a compact jws")
        head, body, signature = token.split(b".")
        kid, candidates = self._candidates(_object(head, "header"), now)
        for key in candidates:
            if _signed(token, head + b"." + body, signature, key):
                # The signature is over the encoded text, so decoding it here reads what was signed.
                principal, refused_from = self._judge(_object(body, "claims"), now)
                return principal, min(refused_from, key.until)
        if kid is None:
            # Without a key id nobody can say that the right key is among ours.
            raise UnknownKeyError(None)
        raise RejectedError("signature")

    def _candidates(self, header: JsonObject, now: float) -> tuple[str | None, Sequence[VerificationKey]]:
        algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
        # RFC 7515 section 4.1.11: extensions that must be understood and are not make the token invalid.
        if "crit" in header:
            raise RejectedError("critical extension")
        if not isinstance(kind, str) or kind.lower() not in _TOKEN_TYPES:
            raise RejectedError("not an access token")
        if not isinstance(algorithm, str):
            raise RejectedError("no algorithm")
        if kid is not None and not isinstance(kid, str):
            raise RejectedError("the key id is no text")
        found = self.keys.find(kid, algorithm, now=now)
        if not found:
            raise UnknownKeyError(kid) if algorithm in self.keys.algorithms else RejectedError("algorithm not pinned")
        return kid, found

    def _judge(self, claims: JsonObject, now: float) -> tuple[Principal, float]:
        if claims.get("iss") != self._issuer:
            raise RejectedError("other issuer")
        audience = claims.get("aud")
        if audience != self._audience and not (isinstance(audience, list) and self._audience in audience):
            raise RejectedError("other audience")
        subject = claims.get("sub")
        if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT_CHARS:
            raise RejectedError("no subject")
        listed = values_of(claims, self._roles_claim)
        if listed is None:
            raise RejectedError("roles are no list")
        roles = roles_named(listed) | mapped_roles(claims, self._role_rules)
        issued, not_before, expires = (_moment(claims, name) for name in ("iat", "nbf", "exp"))
        if max(issued, not_before) - self._leeway > now:
            raise RejectedError("not yet valid")
        if now >= expires + self._leeway:
            raise RejectedError("token expired", expired=True)
        principal = Principal(
            id=subject,
            kind=PrincipalKind.SERVICE if subject.startswith(SERVICE_ACCOUNT) else PrincipalKind.USER,
            roles=roles,
            method=AuthMethod.JWT,
            binding=None if self._subjects is None else self._subjects.of(claims),
        )
        return principal, expires + self._leeway


def claimed_subject(token: bytes) -> str | None:
    """Whom a token says that it speaks for; None where it says nothing that can be read.

    Does not check anything of it: good for counting its failures, and for nothing else.
    """
    if len(token) > MAX_TOKEN_BYTES or not _COMPACT_JWS.fullmatch(token):
        return None
    try:
        subject = _object(token.split(b".")[1], "claims").get("sub")
    except RejectedError:
        return None
    return subject if isinstance(subject, str) else None


def _signed(token: bytes, signed: bytes, signature: bytes, key: VerificationKey) -> bool:
    if key.algorithm in PSS_ALGORITHMS:
        return verify_pss(key, signed, _decoded(signature, "signature"))
    try:
        # python-jose looks at the header once more: the algorithm in it must be the one whose key was chosen.
        jws.verify(token.decode("ascii"), key.key, algorithms=[key.algorithm])
    except Exception:  # noqa: BLE001 - it lets ValueError, TypeError and others through beside its own
        return False
    return True


def _decoded(part: bytes, name: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    except ValueError:
        raise RejectedError(f"unreadable {name}") from None


def _object(part: bytes, name: str) -> JsonObject:
    """One part of a token as a JSON object, read as strictly as a request body: no key twice, no depth without end."""
    try:
        tree = strict_json.parse(_decoded(part, name)).tree
    except FirewallError:
        raise RejectedError(f"unreadable {name}") from None
    if not isinstance(tree, dict):
        raise RejectedError(f"{name} is no object")
    return tree


def _moment(claims: JsonObject, name: str) -> float:
    """A NumericDate (RFC 7519 section 2), which may have a fraction and is never left out here."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RejectedError(f"no `{name}`")
    return float(value)
