"""Step 2: who asks. The only package that imports python-jose."""

from app.core.principal import Principal, Role, require
from app.edge.authn.api_keys import MAX_KEYS_AGE_SECONDS, ApiKeyRing, KeyRecord
from app.edge.authn.authenticator import Authenticates, Authenticator, UnsafeAnonymousAuthenticator
from app.edge.authn.certificates import ClientCertificates, IdentityRule, identity_rule
from app.edge.authn.claims import RoleRule, SubjectCondition, role_rule
from app.edge.authn.deliveries import SignedDeliveries
from app.edge.authn.failures import FailedAttempts
from app.edge.authn.jwks import JwksKeys, http_jwks
from app.edge.authn.keys import StaticKeys, TokenKeys
from app.edge.authn.tokens import MAX_TOKEN_BYTES, JwtVerifier

__all__ = [
    "MAX_KEYS_AGE_SECONDS",
    "MAX_TOKEN_BYTES",
    "ApiKeyRing",
    "Authenticates",
    "Authenticator",
    "ClientCertificates",
    "FailedAttempts",
    "IdentityRule",
    "JwksKeys",
    "JwtVerifier",
    "KeyRecord",
    "Principal",
    "Role",
    "RoleRule",
    "SignedDeliveries",
    "StaticKeys",
    "SubjectCondition",
    "TokenKeys",
    "UnsafeAnonymousAuthenticator",
    "http_jwks",
    "identity_rule",
    "require",
    "role_rule",
]
