"""API keys as the edge knows them: in memory, by hash, as fresh as the store lets them be."""

import asyncio
import contextlib
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from datetime import datetime
from hashlib import sha256
from typing import Final, Protocol

from app.core.principal import AuthMethod, Principal, PrincipalKind
from app.edge.authn.claims import roles_of
from app.edge.authn.rejected import RejectedError
from app.errors import FirewallError, Kind

# How often an unknown key may make us ask the database: a new key works within this time, and a flood of wrong ones
# costs one query.
MISS_REFRESH_SECONDS: Final = 1.0

# Revocations cannot reach us while keys cannot be loaded. After this long we no longer know who may ask.
MAX_KEYS_AGE_SECONDS: Final = 60.0

_log: Final = logging.getLogger("mfw.authn")


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


class _KnownKey:
    __slots__ = ("expires_at", "hash", "principal")

    def __init__(self, record: KeyRecord) -> None:
        self.hash = bytes(record.hash)
        self.expires_at = float("inf") if record.expires_at is None else record.expires_at.timestamp()
        self.principal = Principal(
            id=record.principal_id,
            kind=PrincipalKind.SERVICE,
            roles=roles_of(record.roles),
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
            raise RejectedError("api key expired", expired=True)
        return found.principal

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(self._refresh_seconds)
            await self.refresh()
