"""API keys as the edge knows them: in memory, by hash, as fresh as the store lets them be."""

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final, Protocol
from uuid import UUID

from app.background import ended
from app.core.networks import is_within, networks_of
from app.core.principal import AuthMethod, Principal, PrincipalKind, roles_named, scopes_named, subject_patterns
from app.edge.authn.rejected import RejectedError
from app.errors import FirewallError, Kind

# How often an unknown key may make us ask the database: a new key works within this time, and a flood of wrong ones
# costs one query.
MISS_REFRESH_SECONDS: Final = 1.0

# Revocations cannot reach us while keys cannot be loaded. After this long we no longer know who may ask.
MAX_KEYS_AGE_SECONDS: Final = 60.0

# How often it is written which keys were used.
WRITE_USES_SECONDS: Final = 60.0

_log: Final = logging.getLogger("mfw.authn")


class KeyRecord(Protocol):
    """An API key as it is stored: what it may do, until when, and the SHA-256 of it."""

    @property
    def id(self) -> UUID:
        """Names the key without being it."""

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
    def scopes(self) -> Collection[str]:
        """Names of scopes beside those of the roles; unknown ones give nothing."""

    @property
    def subjects(self) -> Collection[str]:
        """Whom it may speak for, as `TYPE:ID`; none is anybody."""

    @property
    def networks(self) -> Collection[str]:
        """Where it may come from; none is anywhere."""

    @property
    def expires_at(self) -> datetime | None:
        """The moment from which the key is refused, with its time zone."""


class _KnownKey:
    __slots__ = ("expires_at", "hash", "id", "networks", "principal", "used_at")

    def __init__(self, record: KeyRecord) -> None:
        """Raises ValueError for a pattern or a network that cannot be read."""
        self.id = record.id
        self.hash = bytes(record.hash)
        self.networks = networks_of(record.networks)
        # Seconds since 1970; 0 while there is no use that was not written.
        self.used_at = 0.0
        self.expires_at = float("inf") if record.expires_at is None else record.expires_at.timestamp()
        self.principal = Principal(
            id=record.principal_id,
            kind=PrincipalKind.SERVICE,
            roles=roles_named(record.roles),
            method=AuthMethod.API_KEY,
            scopes=scopes_named(record.scopes),
            binding=subject_patterns(record.subjects) if record.subjects else None,
            credential=str(record.id),
        )


class ApiKeyRing:
    """The valid API keys by hash, in memory: loaded every `refresh_seconds`, and at most once a second on a miss.

    `load` gives all keys that are not revoked. While it fails the last answer holds for `MAX_KEYS_AGE_SECONDS`, then
    nobody is let in: a revocation may be waiting where we cannot see it. Where it gives the very same collection as
    before, nothing changed.

    `write_uses` takes when keys were last used, once a minute.
    """

    def __init__(
        self,
        load: Callable[[], Awaitable[Iterable[KeyRecord]]],
        *,
        refresh_seconds: float = 1.0,
        write_uses: Callable[[Mapping[UUID, datetime]], Awaitable[None]] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._load = load
        self._refresh_seconds = refresh_seconds
        self._max_age = max(MAX_KEYS_AGE_SECONDS, 3 * refresh_seconds)
        self._monotonic = monotonic
        self._clock = clock
        self._write_uses = write_uses
        self._uses_written_at = monotonic()
        self._records: object = None
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
        """End the task that keeps the keys fresh, and write the last uses."""
        if self._task is not None:
            await ended(self._task)
            self._task = None
            await self._write()

    async def refresh(self, *, unless_tried_within: float = 0.0) -> None:
        """Load the keys now; whoever comes while they are loaded waits for that load instead of starting another."""
        loads = self._loads
        async with self._loading:
            if self._loads != loads or self._monotonic() - self._tried_at < unless_tried_within:
                return
            await self._take()

    async def follow(self) -> None:
        """Load what was committed before this call, whatever else is being loaded."""
        async with self._loading:
            await self._take()

    async def _take(self) -> None:
        """Load the keys. INVARIANT: one at a time."""
        self._tried_at = self._monotonic()
        # Until the opposite is known: a request whose time runs out is cancelled in the middle of this load, and
        # who waits for it must not take that for "there is no such key".
        self._failed = True
        try:
            records = await self._load()
            if records is not self._records:
                self._known = self._read(records)
                self._records = records
        except Exception as error:  # noqa: BLE001 - whatever the store raises, the keys in memory stay and age
            _log.warning("api keys not loaded", extra={"fields": {"error": type(error).__name__}})
            return
        finally:
            self._loads += 1
        # The age counts from the question, not from the answer: what was revoked in between is not in it.
        self._loaded_at = self._tried_at
        self._failed = False

    async def find(self, key: bytes, *, client_ip: str) -> Principal | None:
        """Return whom a key speaks for, None if nobody; looks again in the store if the key is not known.

        Raises RejectedError for a key that is expired or comes from elsewhere, FirewallError(UNAVAILABLE) when it
        cannot be known now.
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
        return self._check(found, digest, client_ip)

    def find_known(self, key: bytes, *, client_ip: str) -> Principal | None:
        """Return whom a key speaks for by what is in memory: one hash, one look-up. Raises RejectedError as `find`."""
        digest = sha256(key).digest()
        found = self._known.get(digest)
        return self._check(found, digest, client_ip) if found is not None and self.usable else None

    def _check(self, found: _KnownKey | None, digest: bytes, client_ip: str) -> Principal | None:
        # A dictionary compares hashes in a time that depends on them; of a hash that tells nothing about a key. The
        # comparison in constant time stands here all the same, so that no reader has to follow that argument.
        if found is None or not hmac.compare_digest(found.hash, digest):
            return None
        now = self._clock()
        if found.networks and not is_within(client_ip, found.networks):
            # Before the expiry: who stole a key does not learn even that it was one.
            raise RejectedError(f"api key {found.id} from outside its networks")
        if now >= found.expires_at:
            raise RejectedError("api key expired", expired=True)
        found.used_at = now
        return found.principal

    def _read(self, records: Iterable[KeyRecord]) -> dict[bytes, _KnownKey]:
        """The keys by hash, with the uses that are not written yet."""
        unwritten = {key.id: key.used_at for key in self._known.values()}
        known: dict[bytes, _KnownKey] = {}
        for record in records:
            try:
                key = _KnownKey(record)
            except ValueError:
                # Somebody wrote it past us. Without its bounds it would be good for more than was meant.
                _log.warning("api key not understood", extra={"fields": {"key": str(record.id)}})
                continue
            key.used_at = unwritten.get(key.id, 0.0)
            known[key.hash] = key
        return known

    async def _write(self) -> None:
        """Hand over the uses since the last time; what cannot be written now is handed over with the next."""
        if self._write_uses is None:
            return
        self._uses_written_at = self._monotonic()
        used = [(key, key.used_at) for key in self._known.values() if key.used_at]
        if not used:
            return
        try:
            await self._write_uses({key.id: datetime.fromtimestamp(at, UTC) for key, at in used})
        except Exception as error:  # noqa: BLE001 - nothing depends on it; whatever the store raises
            _log.info("uses of api keys not written", extra={"fields": {"error": type(error).__name__}})
            return
        for key, at in used:
            if key.used_at == at:
                key.used_at = 0.0

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(self._refresh_seconds)
            await self.refresh()
            if self._monotonic() - self._uses_written_at >= WRITE_USES_SECONDS:
                await self._write()
