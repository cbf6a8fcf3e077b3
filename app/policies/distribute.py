"""How a replica comes by the set in force and keeps up: from the database or from a directory.

    (1) notice    a notification, or the poll interval is over
    (2) read      the last activation, or the files
    (3) check     who signed it, where signers are named; compile off the request path; an error anywhere refuses the
                  set whole, and the set in force stays
    (4) swap      one assignment: a request that has begun keeps the set that it read
    (5) keep      the last good copy on the local disk

INVARIANT: what is in force was checked whole; nothing that fails here takes it away.
"""

import asyncio
import contextlib
import logging
import os
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NamedTuple

from app.background import chance, spread, woken
from app.core import dsse
from app.core.dsse import Envelope
from app.core.index import CompiledPolicySet
from app.errors import FirewallError, Kind
from app.persistence.listening import Opens, listen
from app.policies import last_good
from app.policies.diagnostics import PolicyErrors, Severity
from app.policies.load import Checked, check_directory, check_documents, fingerprint
from app.policies.signatures import FILE_NAME as SIGNATURES
from app.policies.signatures import NOBODY, RequiredSigners, Signed
from app.policies.store import CHANNEL, Latest, PolicySetStore

# Seconds. Without notifications an activation is seen within this time.
POLL_SECONDS: Final = 5.0
# Seconds that a replica may be behind before it asks for no more requests.
MAX_LAG_SECONDS: Final = 30.0
# A poll may take its time; only when two are due and none was answered do we know less than we should.
_POLLS_MISSED: Final = 2

_log: Final = logging.getLogger("mfw.policies")


class Failure(StrEnum):
    """Why a look for a new set came to nothing."""

    REFUSED = "refused"  # it has errors, or is damaged
    UNREADABLE = "unreadable"  # the database or the directory did not answer
    COPY = "copy"  # the last good copy could not be written or read
    UNSIGNED = "unsigned"  # too few of those who must have signed it did


class SourceState(StrEnum):
    """How far the set in force can be relied on."""

    CURRENT = "current"
    DOUBTFUL = "doubtful"  # in force and good, but perhaps not what it should be
    BEHIND = "behind"  # for too long


_FAILURES: Final = {Kind.INVALID_POLICY: Failure.REFUSED, Kind.INVALID_SIGNATURE: Failure.UNSIGNED}


class SourceReport(NamedTuple):
    """What health says."""

    state: SourceState
    detail: str


@dataclass(frozen=True, slots=True)
class SetInForce:
    """A compiled set and how it came here.

    `content` are the bytes that its digest is of. `sequence` is its activation's, None from a directory. `since` is
    when this process took it, `taken` the same by the monotonic clock. `signed` says who signed it, None where nobody
    is named who could. `stale`: from the last good copy, unconfirmed.
    """

    policy_set: CompiledPolicySet
    content: bytes
    sequence: int | None
    since: datetime
    taken: float
    stale: bool = False
    signed: Signed | None = None

    @property
    def digest(self) -> str:
        """The digest of the set."""
        return self.policy_set.digest


class PolicySource(ABC):
    """The set in force, and the task that follows it. Belongs to the event loop that `start` ran in.

    `signers` are those who must have signed a set. `changed` is told of each set that comes into force here, `failed`
    of each look that came to nothing. Times are in seconds.
    """

    name: str

    def __init__(
        self,
        *,
        poll_seconds: float = POLL_SECONDS,
        max_lag_seconds: float = MAX_LAG_SECONDS,
        signers: RequiredSigners = NOBODY,
        changed: Callable[[SetInForce], None] = lambda _: None,
        failed: Callable[[Failure], None] = lambda _: None,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        jitter: Callable[[], float] = chance,
    ) -> None:
        self._poll_seconds = poll_seconds
        self._max_lag = max_lag_seconds
        self._signers = signers
        self._on_change = changed
        self._on_failure = failed
        self._monotonic = monotonic
        self._now = now
        self._jitter = jitter
        self._in_force: SetInForce | None = None
        self._problem: str | None = None
        self._wake = asyncio.Event()
        self._swapped = asyncio.Event()
        self._released = False
        self._looking = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def in_force(self) -> SetInForce | None:
        """The set in force, None before the first activation ever."""
        return self._in_force

    def current(self) -> CompiledPolicySet:
        """The compiled set to decide by; read it once per request. Raises FirewallError (UNAVAILABLE)."""
        found = self._in_force
        if found is None:
            raise FirewallError(
                Kind.UNAVAILABLE,
                "no policy set is in force",
                retry_after=self._poll_seconds,
                fix="an administrator stores and activates one: `mfw policies push`, `mfw policies activate`",
            )
        return found.policy_set

    @property
    def age(self) -> float:
        """For how long this process has had the set in force; 0 without one."""
        return 0.0 if self._in_force is None else self._monotonic() - self._in_force.taken

    @property
    @abstractmethod
    def lag(self) -> float:
        """For how long this process may have been behind: 0 as long as it knows that it is not."""

    @property
    def stale(self) -> bool:
        """Whether the set in force came from the last good copy and nobody has confirmed it."""
        return self._in_force is not None and self._in_force.stale

    def report(self) -> SourceReport:
        """How well this goes, for health."""
        lag = self.lag
        if lag > self._max_lag:
            state = SourceState.BEHIND
        elif self._in_force is None or self._problem is not None or self.stale:
            state = SourceState.DOUBTFUL
        else:
            state = SourceState.CURRENT
        if self._in_force is None:
            words = ["no policy set is in force: every request for a decision is refused"]
        else:
            one = self._in_force
            words = [f"{len(one.policy_set.policies)} policies, {one.digest}, from the {self.name}"]
            if one.signed is not None and one.signed.signers:
                words.append(f"signed by {', '.join(signer.name for signer in one.signed.signers)}")
        if self.stale:
            words.append("from the last good copy, not confirmed yet")
        if lag:
            words.append(f"behind for {lag:.0f} s")
        if self._problem is not None:
            words.append(self._problem)
        return SourceReport(state, "; ".join(words))

    async def start(self) -> None:
        """Look for the first time, then keep following."""
        await self.refresh()
        self._tasks = [asyncio.create_task(work, name="policy-source") for work in self._work()]

    async def stop(self) -> None:
        """End following; the set in force stays."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def refresh(self) -> None:
        """Look now; never raises, for what went wrong is in `report`."""
        async with self._looking:
            try:
                await self._look()
            except FirewallError as error:
                self._fail(_FAILURES.get(error.kind, Failure.UNREADABLE), str(error))
            except Exception:  # noqa: BLE001 - INVARIANT: following outlives whatever happens to one look
                _log.exception("policy set not followed")
                self._fail(Failure.UNREADABLE, "an internal error; the log has it")

    async def wait_changed(self, digest: str | None, *, within: float) -> None:
        """Wait until a set other than `digest` is in force, at most `within` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while not self._released and (None if self._in_force is None else self._in_force.digest) == digest:
                    await self._swapped.wait()

    def release(self) -> None:
        """Let go whoever waits for another set, and whoever would: this process is about to end."""
        self._released = True
        self._swapped.set()

    @abstractmethod
    async def _look(self) -> None:
        """Steps (2) to (5), once. Raises FirewallError."""

    def _work(self) -> "list[Any]":
        return [self._follow()]

    async def _follow(self) -> None:
        """Step (1)."""
        while True:
            await woken(self._wake, within=spread(self._poll_seconds, self._jitter))
            await self.refresh()

    def _verified(self, digest: str, envelopes: Iterable[Envelope]) -> Signed | None:
        """Step (3), first half: who signed a set, None where nobody is named who could.

        Raises FirewallError (INVALID_SIGNATURE) where too few of those who must have signed it did.
        """
        if not self._signers.signers:
            return None
        signed = self._signers.verify(digest, envelopes)
        signed.check()
        return signed

    def _swap(
        self, checked: Checked, *, signed: Signed | None, sequence: int | None, stale: bool = False
    ) -> SetInForce:
        """Step (4). Raises PolicyErrors where the set is refused."""
        if checked.policy_set is None:
            raise PolicyErrors(checked.diagnostics)
        taken = SetInForce(checked.policy_set, checked.content, sequence, self._now(), self._monotonic(), stale, signed)
        self._in_force = taken
        swapped, self._swapped = self._swapped, asyncio.Event()
        swapped.set()
        self._on_change(taken)
        warnings = sum(one.severity is Severity.WARNING for one in checked.diagnostics)
        fields: dict[str, Any] = {
            "digest": taken.digest,
            "sequence": sequence,
            "source": self.name,
            "warnings": warnings,
        }
        if signed is not None:
            fields["signers"] = [one.name for one in signed.signers]
        _log.info("policy set in force", extra={"fields": fields})
        return taken

    def _fail(self, kind: Failure, detail: str) -> None:
        # Said once, not at every poll.
        if self._problem != detail:
            _log.warning("policy set not taken", extra={"fields": {"failure": kind.value, "detail": detail}})
        self._problem = detail
        self._on_failure(kind)


class DirectorySource(PolicySource):
    """Follows the files of a directory: in development, from a checkout, or from a mounted ConfigMap, whose files are
    all replaced in one step.
    """

    name = "directory"

    def __init__(self, path: Path, **options: Any) -> None:
        """Load the directory now; afterwards a set that is refused leaves the one before.

        Raises PolicyErrors, FirewallError (INVALID_SIGNATURE).
        """
        super().__init__(**options)
        self._path = path
        self._seen = _fingerprint(path)
        checked, signed = self._check()
        self._swap(checked, signed=signed, sequence=None)

    @property
    def lag(self) -> float:
        """Always 0: files that are refused were never in force, so nobody is ahead."""
        return 0.0

    async def _look(self) -> None:
        seen = await asyncio.to_thread(_fingerprint, self._path)
        if seen is not None and seen == self._seen:
            return
        self._seen = None
        try:
            checked, signed = await asyncio.to_thread(self._check)
        finally:
            # Not remembered when it changed while it was read, so that the next look reads it again.
            self._seen = seen if seen == await asyncio.to_thread(_fingerprint, self._path) else None
        held = self._in_force
        if held is None or checked.policy_set is None or checked.policy_set.digest != held.digest:
            self._swap(checked, signed=signed, sequence=None)
        else:
            self._in_force = replace(held, signed=signed)
        self._problem = None

    def _check(self) -> tuple[Checked, Signed | None]:
        """Step (3): the signatures last, for only a set that loads has a digest."""
        checked = check_directory(self._path)
        if checked.policy_set is None or not self._signers.signers:
            return checked, None
        return checked, self._verified(checked.policy_set.digest, _beside(self._path))


def _fingerprint(path: Path) -> str | None:
    try:
        return f"{fingerprint(path)} {_state(path / SIGNATURES)}"
    except OSError:
        return None  # `check_directory` says why


def _state(file: Path) -> tuple[int, int, int, int] | None:
    """Whatever changes when a file does; None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _beside(path: Path) -> tuple[Envelope, ...]:
    """The envelope beside the policies, if there is one.

    Raises FirewallError (INVALID_SIGNATURE) for a file that is none. Does not check: where a link leads. Whoever put
    the file there, only its signatures count.
    """
    try:
        # Not blocking: what is no file at all might never end.
        descriptor = os.open(path / SIGNATURES, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _not_read("it is not a regular file")
            content = file.read(dsse.ENVELOPE_BYTES_MAX + 1)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise _not_read((error.strerror or "unknown reason").lower()) from error
    try:
        return (dsse.read(content),)
    except FirewallError as error:
        raise _not_read(error.detail) from error


def _not_read(reason: str) -> FirewallError:
    return FirewallError(
        Kind.INVALID_SIGNATURE,
        f"`{SIGNATURES}` beside the policies has no signatures in it: {reason}",
        fix="write it with `mfw policies sign DIR --key FILE`",
    )


class DatabaseSource(PolicySource):
    """Follows the activations in PostgreSQL, by LISTEN where it can and by asking in any case.

    `connect` opens a connection of its own for LISTEN, `copies` is the directory of the last good copy; None for none.
    """

    name = "database"

    def __init__(
        self,
        store: PolicySetStore,
        *,
        connect: Opens,
        copies: Path | None = None,
        channel: str = CHANNEL,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._store = store
        self._connect = connect
        self._copies = copies
        self._channel = channel
        self._confirmed: float | None = None
        self._started = self._monotonic()
        self._pending: float | None = None
        self._refused: int | None = None

    @property
    def lag(self) -> float:
        """Since when an activation is known that was not taken, or since when the database does not tell."""
        now = self._monotonic()
        known = 0.0 if self._pending is None else now - self._pending
        quiet = now - (self._started if self._confirmed is None else self._confirmed)
        return max(known, quiet if quiet > _POLLS_MISSED * self._poll_seconds else 0.0)

    @property
    def asked(self) -> bool:
        """Whether the database has answered at all."""
        return self._confirmed is not None

    async def start(self) -> None:
        """Take the set in force, from the last good copy if the database does not answer, and follow."""
        self._started = self._monotonic()
        await self.refresh()
        if self._confirmed is None and self._in_force is None and self._copies is not None:
            await self._recall(self._copies)
        self._tasks = [asyncio.create_task(work, name="policy-source") for work in self._work()]

    async def _look(self) -> None:
        asked = self._monotonic()
        latest = await self._store.latest()  # (2)
        self._confirmed = asked
        if latest is None:
            if self._in_force is not None:
                # A database without its history is not the one that this set came from.
                self._pending = asked if self._pending is None else self._pending
                raise FirewallError(Kind.UNAVAILABLE, "the database knows of no activation, but a set is in force here")
            self._problem = None
            return
        held = self._in_force
        if held is not None and held.digest == latest.digest:
            if held.stale or held.sequence != latest.sequence:
                self._in_force = replace(held, sequence=latest.sequence, stale=False)
                await self._keep(self._in_force)
        else:
            self._pending = asked - latest.age
            if latest.sequence == self._refused:
                # Compiled once, with errors: it will not have fewer. `_problem` says which.
                self._on_failure(Failure.REFUSED)
                return
            await self._take(latest)
        self._pending = None
        self._refused = None
        self._problem = None

    async def _take(self, latest: Latest) -> None:
        # (3) Signatures first: nothing is compiled that nobody vouches for. A set that lacks one is looked at again at
        # each poll, for the signature may still come.
        known = [one.keyid for one in self._signers.signers]
        stored = await self._store.signatures(latest.digest, keyids=known)
        signed = await asyncio.to_thread(self._verified, latest.digest, [one.envelope for one in stored])
        _, documents = await self._store.get(latest.digest)
        checked = await asyncio.to_thread(check_documents, documents)
        try:
            taken = self._swap(checked, signed=signed, sequence=latest.sequence)
        except PolicyErrors:
            self._refused = latest.sequence
            raise
        await self._keep(taken)

    async def _keep(self, taken: SetInForce) -> None:
        """Step (5). A disk that is full is told of and no reason to decide by an older set."""
        if self._copies is None or taken.sequence is None:
            return
        try:
            await asyncio.to_thread(
                last_good.keep,
                self._copies,
                digest=taken.digest,
                sequence=taken.sequence,
                documents=taken.content,
                envelopes=() if taken.signed is None else taken.signed.envelopes,
            )
        except OSError as error:
            reason = (error.strerror or type(error).__name__).lower()
            _log.warning("last good policy set not kept", extra={"fields": {"detail": reason}})
            self._on_failure(Failure.COPY)

    async def _recall(self, directory: Path) -> None:
        try:
            kept = await asyncio.to_thread(last_good.recall, directory)
            if kept is None:
                return
            signed = self._verified(kept.digest, kept.envelopes)
            checked = await asyncio.to_thread(check_documents, kept.documents)
            self._swap(checked, signed=signed, sequence=kept.sequence, stale=True)
        except FirewallError as error:
            self._fail(Failure.COPY, str(error))

    def _work(self) -> "list[Any]":
        listening = listen(
            self._connect,
            channel=self._channel,
            wake=self._wake,
            retry_seconds=self._poll_seconds,
            jitter=self._jitter,
        )
        return [self._follow(), listening]
