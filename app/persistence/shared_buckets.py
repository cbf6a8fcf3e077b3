"""Token buckets that all replicas draw from, in Redis or Valkey: one atomic script, and its clock is the server's."""

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

from app.errors import FirewallError, Kind
from app.trust import not_demanded

if TYPE_CHECKING:
    from redis.commands.core import AsyncScript

# A bucket is one number in microseconds: when it will be full again (as in `edge/limits.py`). Whole numbers below 2^53
# are exact in Lua. The key lives as long as the bucket is not full, and a second longer.
#   ARGV: interval of one token, burst in tokens, tokens wanted, tokens needed, tokens brought back,
#         the least time until full that the caller knows of
#   Gives: tokens granted (0, or at least what is needed), microseconds until the bucket is full.
_LEASE: Final = """
local interval, burst, wanted, needed = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local back, known = tonumber(ARGV[5]), tonumber(ARGV[6])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local full_at = tonumber(redis.call('GET', KEYS[1]) or now)
full_at = math.max(now, full_at - back * interval, now + math.min(known, burst * interval))
local granted = math.min(wanted, math.floor((burst * interval - (full_at - now)) / interval))
if granted < needed then granted = 0 end
full_at = full_at + granted * interval
redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', math.ceil((full_at - now) / 1000) + 1000)
return {granted, full_at - now}
"""

# Who is alive: a sorted set of replica ids by the time of their last word.
#   ARGV: the replica's id, microseconds after which a silent one is counted out.
_PRESENCE: Final = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[2]))
redis.call('PEXPIRE', KEYS[1], math.ceil(tonumber(ARGV[2]) / 1000))
return redis.call('ZCARD', KEYS[1])
"""

# An answer on a local network takes a tenth of a millisecond. A request waits no longer than this before its replica
# decides by its own share.
TIMEOUT_SECONDS: Final = 0.1
CONNECT_TIMEOUT_SECONDS: Final = 1.0
# Three missed words of one every two seconds, and some.
SILENT_SECONDS: Final = 8.0


class Lease(NamedTuple):
    """What a bucket gave: tokens that the caller may now give out, and microseconds until the bucket is full."""

    granted: int
    full_after_us: int


def _trust(url: str) -> dict[str, Any]:
    """What a URL of TLS leaves unsaid about the authorities that it names; what it says goes before."""
    parts = urlsplit(url)
    if parts.scheme != "rediss":
        return {}
    named = not {"ssl_ca_certs", "ssl_ca_path", "ssl_ca_data"}.isdisjoint(parse_qs(parts.query))
    return {"ssl_exclude_verify_flags": not_demanded(named=named)}


class SharedBucketStore:
    """Buckets by key, below one prefix, so that several firewalls can use one server.

    Every method raises FirewallError(UNAVAILABLE) when the server does not answer in time, or says no.
    """

    def __init__(self, url: str, *, prefix: str = "mfw", timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        """Does not connect: the first call does."""
        # 150 ms of imports that a service without Redis need not pay.
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        self._timeout = timeout_seconds
        self._calls: set[asyncio.Future[Any]] = set()
        self._prefix = prefix
        self._redis: Redis = Redis.from_url(
            url,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
            # One more try, for a connection that the server closed while nobody looked; more would only be later.
            retry=Retry(NoBackoff(), 1),
            health_check_interval=0,
            max_connections=8,
            **_trust(url),
        )
        self._lease: AsyncScript = self._redis.register_script(_LEASE)
        self._presence: AsyncScript = self._redis.register_script(_PRESENCE)

    async def lease(
        self, key: bytes, *, interval_us: int, burst: int, wanted: int, needed: int, back: int = 0, known_us: int = 0
    ) -> Lease:
        """Take up to `wanted` tokens, none if fewer than `needed` are there, after bringing `back` unused ones.

        `known_us`: the bucket is not full before that, whatever the server remembers (it may have started anew).
        """
        arguments = (interval_us, burst, wanted, needed, back, known_us)
        granted, full_after = await self._run(self._lease, b"%s:bucket:%s" % (self._prefix.encode(), key), arguments)
        return Lease(granted, full_after)

    async def announce(self, replica: str) -> int:
        """Say that a replica is alive, and hear how many are."""
        key = f"{self._prefix}:replicas".encode()
        count: int = await self._run(self._presence, key, (replica, round(SILENT_SECONDS * 1_000_000)))
        return count

    async def close(self) -> None:
        """Close the connections, after what still waits for an answer."""
        if self._calls:
            await asyncio.wait(self._calls)
        await self._redis.aclose()

    def _ended(self, call: "asyncio.Future[Any]") -> None:
        self._calls.discard(call)
        if not call.cancelled():
            call.exception()  # whoever waited has been told, or has left

    async def _run(self, script: "AsyncScript", key: bytes, arguments: tuple[int | str, ...]) -> Any:
        from redis.exceptions import RedisError

        # The client's own timeouts are per read; this one is for the whole of connecting, asking and reading. A call
        # that takes longer is left to end by itself: cancelled in the middle, it would leave its connection open.
        call = asyncio.ensure_future(script(keys=[key], args=arguments))
        self._calls.add(call)
        call.add_done_callback(self._ended)
        try:
            answer: Any = await asyncio.wait_for(asyncio.shield(call), self._timeout)
        except (RedisError, OSError, TimeoutError, ValueError) as error:
            # Never the error's text: it can hold the server's address with its password.
            raise FirewallError(
                Kind.UNAVAILABLE, f"the shared rate limits cannot be reached (`{type(error).__name__}`)", retry_after=1
            ) from None
        return answer
