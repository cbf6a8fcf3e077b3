"""The one error type of the firewall: a closed set of kinds, and no word of HTTP."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What went wrong, from the caller's point of view. `surfaces/problems.py` alone maps a kind to the wire."""

    MALFORMED = "malformed"
    UNAUTHENTICATED = "unauthenticated"
    TOKEN_EXPIRED = "token-expired"  # noqa: S105 - a kind of error, not a token
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not-found"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    NOT_ACCEPTABLE = "not-acceptable"  # no representation that the caller takes
    CONFLICT = "conflict"
    TOO_LARGE = "too-large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported-media-type"
    UNSUPPORTED_ENCODING = "unsupported-encoding"
    RATE_LIMITED = "rate-limited"
    UNAVAILABLE = "unavailable"  # a dependency is away: try again
    OVERLOADED = "overloaded"  # we are too busy: try again
    TIMEOUT = "timeout"  # a dependency did not answer within its limit
    INVALID_SETTINGS = "invalid-settings"
    INVALID_POLICY = "invalid-policy"
    INVALID_SIGNATURE = "invalid-signature"  # signatures that do not hold, or too few of them
    SCHEMA_MISMATCH = "schema-mismatch"


class FirewallError(Exception):
    """Every failure this code knows by name.

    `detail` is for the caller: lower case, no full stop, user input in backticks, never a secret.
    `pointer` is the RFC 6901 JSON pointer of the member that is at fault ("" is the whole document), None where no
    member is. `retry_after` is in seconds, None where trying again does not help. `fix` says what to do instead.
    `extra` has further members for the problem (RFC 9457 section 3.2), as JSON values.
    """

    __slots__ = ("detail", "extra", "fix", "kind", "pointer", "retry_after")

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        pointer: str | None = None,
        retry_after: float | None = None,
        fix: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail
        self.pointer = pointer
        self.retry_after = retry_after
        self.fix = fix
        self.extra = extra

    def __str__(self) -> str:
        """The detail, where it is, and the fix: what a person at a terminal reads."""
        where = f" at `{self.pointer}`" if self.pointer else ""
        fix = f"; {self.fix}" if self.fix else ""
        return f"{self.detail}{where}{fix}"
