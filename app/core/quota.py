"""How often somebody may ask: the words that settings and limiter share."""

import re
from enum import StrEnum
from typing import Final, NamedTuple

from app.core.principal import Role

_NS: Final = 1_000_000_000

# The limit of the failure mode matrix, section 6.
DEFAULT_PER_MINUTE: Final = 250
DEFAULT_BURST: Final = 500


class RouteClass(StrEnum):
    """What a request is counted as. Each class has buckets of its own, so that one cannot starve another."""

    DECIDE = "decide"
    BATCH = "batch"  # counted by mutations, not by requests
    READ = "read"
    ADMIN = "admin"


class Limit(NamedTuple):
    """`per_minute` in the long run, `burst` at once."""

    per_minute: int = DEFAULT_PER_MINUTE
    burst: int = DEFAULT_BURST

    @property
    def interval_ns(self) -> int:
        """The time in which one token trickles in."""
        return 60 * _NS // self.per_minute

    @property
    def policy(self) -> bytes:
        """The `RateLimit-Policy` field of draft-ietf-httpapi-ratelimit-headers-10."""
        return b'"default";q=%d;w=%d' % (self.burst, -(-self.interval_ns * self.burst // _NS))


DEFAULT_LIMIT: Final = Limit()


class RoleLimit(NamedTuple):
    """What one role has instead of the limit of a class."""

    role: Role
    route: RouteClass
    limit: Limit


_ROLE_LIMIT: Final = re.compile(r"([a-z]+):([a-z]+)=([1-9]\d{0,8})/([1-9]\d{0,7})")


def role_limit(text: str) -> RoleLimit:
    """Read `ROLE:CLASS=PER_MINUTE/BURST`. Raises ValueError that says what is wrong."""
    parts = _ROLE_LIMIT.fullmatch(text)
    if parts is None:
        raise ValueError("is not `ROLE:CLASS=PER_MINUTE/BURST`")
    role, route, per_minute, burst = parts.groups()
    if role not in tuple(Role):
        raise ValueError(f"`{role}` is no role; there are {', '.join(Role)}")
    if route not in tuple(RouteClass):
        raise ValueError(f"`{route}` is no class; there are {', '.join(RouteClass)}")
    return RoleLimit(Role(role), RouteClass(route), Limit(int(per_minute), int(burst)))
