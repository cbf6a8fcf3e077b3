"""Everything that is no answer, as one type of exception."""

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

TYPE_PREFIX: Final = "https://mutationfirewall.io/problems/"


class ProblemKind(StrEnum):
    """Why there is no answer: the problem types of the service, and what happens on the way to it."""

    MALFORMED = "malformed"
    UNAUTHENTICATED = "unauthenticated"
    TOKEN_EXPIRED = "token-expired"  # noqa: S105 - a problem's name
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not-found"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    NOT_ACCEPTABLE = "not-acceptable"
    CONFLICT = "conflict"
    TOO_LARGE = "too-large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported-media-type"
    UNSUPPORTED_ENCODING = "unsupported-encoding"
    RATE_LIMITED = "rate-limited"
    UNAVAILABLE = "unavailable"
    OVERLOADED = "overloaded"
    TIMEOUT = "timeout"
    INVALID_SETTINGS = "invalid-settings"
    INVALID_POLICY = "invalid-policy"
    INVALID_SIGNATURE = "invalid-signature"
    SCHEMA_MISMATCH = "schema-mismatch"
    INTERNAL = "internal"

    OTHER = "other"  # a type that this release does not know
    UNREACHABLE = "unreachable"  # no connection, or one that broke
    NO_ANSWER = "no-answer"  # none within the time
    NOT_A_FIREWALL = "not-a-firewall"  # what answered is something else
    INVALID_REQUEST = "invalid-request"  # nothing was sent: an address, a key or a value that cannot be


class ProblemError(Exception):
    """A call that was not answered. Nothing was allowed.

    `detail`, `pointer` and `fix` as the service gives them (RFC 9457, RFC 6901); `retry_after` is in seconds, None
    where trying again does not help. `status` is 0 where nothing came back. `members` is the whole problem.
    """

    def __init__(
        self,
        kind: ProblemKind,
        detail: str,
        *,
        title: str | None = None,
        status: int = 0,
        pointer: str | None = None,
        fix: str | None = None,
        retry_after: float | None = None,
        request_id: str | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.title = title
        self.status = status
        self.pointer = pointer
        self.fix = fix
        self.retry_after = retry_after
        self.request_id = request_id
        self.members = dict(members or {})

    def __str__(self) -> str:
        """The kind, the detail, where it is, and the fix."""
        where = f" at `{self.pointer}`" if self.pointer else ""
        fix = f"; {self.fix}" if self.fix else ""
        return f"{self.kind.value}: {self.detail}{where}{fix}"


def problem_of(status: int, body: bytes, *, retry_after: float | None, reason: str = "") -> ProblemError:
    """The problem that an answer is; one that is none is told as that."""
    try:
        members = json.loads(body)
    except (ValueError, RecursionError):
        members = None
    if not isinstance(members, dict) or not isinstance(members.get("title"), str):
        return ProblemError(
            ProblemKind.NOT_A_FIREWALL,
            f"the service answered {status} {reason}".rstrip() + ", and not as a firewall would",
            status=status,
            retry_after=retry_after,
            fix="check the address, and what stands between here and the service",
        )
    return problem_from(members, status=status, retry_after=retry_after)


def problem_from(members: Mapping[str, Any], *, status: int, retry_after: float | None = None) -> ProblemError:
    """A problem from its members; what has not the type that it should have counts as not there."""

    def text(name: str) -> str | None:
        value = members.get(name)
        return value if isinstance(value, str) else None

    kind = (text("type") or "").removeprefix(TYPE_PREFIX)
    seconds = members.get("retry_after")
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds >= 0:
        retry_after = float(seconds)
    return ProblemError(
        ProblemKind(kind) if kind in tuple(ProblemKind) else ProblemKind.OTHER,
        text("detail") or text("title") or f"status {status}",
        title=text("title"),
        status=status,
        pointer=text("pointer"),
        fix=text("fix"),
        retry_after=retry_after,
        request_id=text("request_id"),
        members=members,
    )
