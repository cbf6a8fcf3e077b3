"""Asks witnesses to cosign each new checkpoint (C2SP tlog-witness), each at its own pace, and keeps what they say.

Nobody waits for a witness: a checkpoint is served with the cosignatures that there are.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.merkle import consistency_proof, tiles_for_consistency
from app.core.notes import NOTE_BYTES_MAX, Note, NoteSignature, parse_note, parse_signatures, read_decimal
from app.core.tiles import TileId
from app.core.witnessing import ADD_CHECKPOINT, SIZE_MEDIA_TYPE, Submission, WitnessAddress
from app.errors import FirewallError
from app.persistence.breaker import CircuitBreaker
from app.persistence.engine import Observer, Transactions
from app.persistence.tables import ledger_checkpoints

# Seconds for one request, its connection included. A witness syncs a file and signs.
REQUEST_SECONDS: Final = 8.0
# Seconds until an open breaker lets one try through.
RECOVERY_SECONDS: Final = 30.0
# Seconds between tries: 1, 2, 4, ... 30 (reference/firewall-failure-mode-matrix.md).
BACKOFF: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
# Seconds until a witness that refused us is asked again: what it refuses does not change by itself.
REFUSED_SECONDS: Final = 30.0
# Seconds for which a witness may be behind before health says so.
LATE_SECONDS: Final = 60.0
# The witness is told another old size once; a second 409 means that it moves while we speak, or contradicts itself.
SUBMISSIONS_MAX: Final = 3

_log: Final = logging.getLogger("mfw.witnesses")


class Published(Protocol):
    """A checkpoint that was signed and committed."""

    @property
    def size(self) -> int:
        """How many entries it is of."""

    @property
    def note(self) -> bytes:
        """The signed note."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a witness answered."""

    status: int
    media_type: str
    body: bytes


class WitnessAwayError(Exception):
    """A witness that did not answer, or not as a witness does; the text is for our log."""


class Post(Protocol):
    """Sends a submission. Raises WitnessAwayError, OSError, TimeoutError."""

    async def __call__(self, url: str, body: bytes) -> Reply:
        """Send it and give the answer."""

    async def close(self) -> None:
        """Let go of connections."""


Tiles = Callable[[Collection[TileId]], Awaitable[Mapping[TileId, bytes]]]


class KeepsCosignatures(Protocol):
    """Where cosignatures go. Raises FirewallError (UNAVAILABLE, TIMEOUT)."""

    async def keep(self, checkpoint: Published, cosignature: NoteSignature) -> None:
        """Add one, in the place of an older one by the same key; a checkpoint that was thinned out needs none."""

    async def newest_size(self) -> int:
        """How many entries the newest checkpoint is of, 0 before the first."""


class WitnessesState(StrEnum):
    """How the cosignatures are, as far as this replica asked for them."""

    CURRENT = "current"
    LATE = "late"  # fewer than are wanted, for longer than they should take
    CONTRADICTED = "contradicted"  # a witness saw another history: needs a human


class _ContradictionError(Exception):
    """A witness has seen what ours does not continue; the text says what."""


class _RefusedError(Exception):
    """A witness that answered, and will not cosign for us; the text says why."""


class CosignatureStore:
    """Keeps cosignatures beside the checkpoint that they are of. Raises FirewallError (UNAVAILABLE, TIMEOUT)."""

    def __init__(self, engine: AsyncEngine, *, observer: Observer | None = None) -> None:
        self._transaction = Transactions(engine, operation="cosignatures", observer=observer)

    async def keep(self, checkpoint: Published, cosignature: NoteSignature) -> None:
        """Add one, in the place of an older one by the same key; a checkpoint that was thinned out needs none."""
        table = ledger_checkpoints
        here = sa.and_(table.c.size == checkpoint.size, table.c.note == checkpoint.note)
        async with self._transaction() as connection:
            # Two witnesses may answer at once: the row is held from reading to writing.
            row = (await connection.execute(sa.select(table.c.cosignatures).where(here).with_for_update())).first()
            if row is None:
                return
            there = parse_signatures(bytes(row.cosignatures)) if row.cosignatures else ()
            others = [one for one in there if (one.name, one.key_id) != (cosignature.name, cosignature.key_id)]
            lines = "".join(one.line for one in (*others, cosignature)).encode()
            await connection.execute(sa.update(table).where(here).values(cosignatures=lines))

    async def newest_size(self) -> int:
        """How many entries the newest checkpoint is of, 0 before the first."""
        async with self._transaction() as connection:
            found = await connection.scalar(sa.select(sa.func.max(ledger_checkpoints.c.size)))
        return int(found or 0)


class Witnesses:
    """All witnesses of one log, each with a task of its own. Belongs to the event loop of `start`.

    `tiles` reads the tree; it and `store` may raise FirewallError. `wanted` is how many cosignatures a checkpoint
    should have, all where it is None. `counted` is told of each request, whether it was answered as it should be;
    `contradicted` of each answer that shows another history. Times are in seconds.

    Does not check: that what is handed over was signed by us.
    """

    def __init__(
        self,
        addresses: Sequence[WitnessAddress],
        *,
        tiles: Tiles,
        store: KeepsCosignatures,
        post: Post,
        wanted: int | None = None,
        counted: Callable[[bool], None] | None = None,
        contradicted: Callable[[], None] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        backoff: Sequence[float] = BACKOFF,
    ) -> None:
        self._post = post
        self._wanted = len(addresses) if wanted is None else wanted
        self._monotonic = monotonic
        self._newest: Published | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._all = [
            _Correspondence(
                address,
                tiles=tiles,
                store=store,
                post=post,
                counted=counted or (lambda _worked: None),
                contradicted=contradicted or (lambda: None),
                monotonic=monotonic,
                backoff=backoff,
            )
            for address in addresses
        ]

    @property
    def cosignatures(self) -> int:
        """How many witnesses have cosigned the newest checkpoint that was handed over."""
        newest = self._newest
        return 0 if newest is None else sum(one.cosigned >= newest.size for one in self._all)

    def hand_over(self, checkpoint: Published) -> None:
        """Have it cosigned, and not an older one any more. Returns at once, raises nothing."""
        if self._newest is not None and self._newest.size >= checkpoint.size:
            return
        self._newest = checkpoint
        for one in self._all:
            one.tell(checkpoint)

    def report(self) -> tuple[WitnessesState, str]:
        """How it goes, in words for an operator."""
        if self._newest is None:
            return WitnessesState.CURRENT, f"{len(self._all)} witnesses; this replica has signed nothing yet"
        for one in self._all:
            if one.contradiction is not None:
                return WitnessesState.CONTRADICTED, f"{one.address.key.name}: {one.contradiction}"
        late = [one for one in self._all if one.behind > LATE_SECONDS]
        if len(self._all) - len(late) < self._wanted:
            named = "; ".join(f"{one.address.key.name}: {one.trouble or 'does not answer'}" for one in late)
            return WitnessesState.LATE, f"{len(self._all) - len(late)} of {self._wanted} cosignatures; {named}"
        return WitnessesState.CURRENT, f"{len(self._all) - len(late)} of {len(self._all)} witnesses answer"

    async def start(self) -> None:
        """Begin to ask. Does not wait for anybody."""
        self._tasks = [asyncio.create_task(one.run(), name=f"witness {one.address.key.name}") for one in self._all]

    async def stop(self) -> None:
        """End at once: what is under way can be asked for again."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._post.close()


class _Correspondence:
    """What goes back and forth with one witness."""

    def __init__(
        self,
        address: WitnessAddress,
        *,
        tiles: Tiles,
        store: KeepsCosignatures,
        post: Post,
        counted: Callable[[bool], None],
        contradicted: Callable[[], None],
        monotonic: Callable[[], float],
        backoff: Sequence[float],
    ) -> None:
        self.address = address
        self.cosigned = 0
        self.trouble: str | None = None
        self.contradiction: str | None = None
        self._tiles = tiles
        self._store = store
        self._post = post
        self._counted = counted
        self._contradicted = contradicted
        self._monotonic = monotonic
        self._backoff = backoff
        self._breaker = CircuitBreaker(clock=monotonic, recovery=RECOVERY_SECONDS)
        self._failures = 0
        self._newest: Published | None = None
        self._since: float | None = None
        self._news = asyncio.Event()

    @property
    def behind(self) -> float:
        """Seconds for which a checkpoint waits for this witness; 0 for none."""
        return 0.0 if self._since is None else self._monotonic() - self._since

    def tell(self, checkpoint: Published) -> None:
        """There is a newer one."""
        self._newest = checkpoint
        if self._since is None:
            self._since = self._monotonic()
        self._news.set()

    async def run(self) -> None:
        """Ask for ever. INVARIANT: the task outlives what happens."""
        while True:
            await self._news.wait()
            await asyncio.sleep(await self._turn())

    async def _turn(self) -> float:
        """One round; gives the seconds until the next may begin."""
        checkpoint = self._newest
        if checkpoint is None or not self._breaker.allow():
            return max(self._breaker.retry_after, self._backoff[0])
        try:
            await self._ask(checkpoint)
        except _ContradictionError as error:
            self._breaker.success()
            self._contradicted()
            return self._refuse(str(error), contradiction=True)
        except _RefusedError as error:
            self._breaker.success()
            return self._refuse(str(error), contradiction=False)
        except (WitnessAwayError, OSError, TimeoutError) as error:
            self._breaker.failure()
            self._counted(False)
            return self._fail(str(error) or type(error).__name__)
        except FirewallError as error:
            # Ours: the database, or tiles that are not there. The witness is not to blame.
            self._breaker.success()
            return self._fail(str(error))
        except Exception as error:  # noqa: BLE001 - a task that ended would ask nobody any more
            self._breaker.failure()
            _log.exception("cosignature not had", extra={"fields": {"witness": self.address.key.name}})
            return self._fail(type(error).__name__)
        self._breaker.success()
        self._failures = 0
        if self.trouble is not None:
            _log.warning("the witness cosigns again", extra={"fields": {"witness": self.address.key.name}})
        self.trouble = self.contradiction = None
        if self._newest is checkpoint:
            self._news.clear()
            self._since = None
        else:
            # A log that never rests is not behind because there is always a newer one.
            self._since = self._monotonic()
        return 0.0

    def _refuse(self, why: str, *, contradiction: bool) -> float:
        self._counted(False)
        fields = {"witness": self.address.key.name, "reason": why}
        if contradiction:
            self.contradiction = why
            _log.error("a witness saw another history of the ledger", extra={"fields": fields})
        elif self.trouble != why:
            _log.warning("the witness refuses to cosign", extra={"fields": fields})
        self.trouble = why
        return REFUSED_SECONDS

    def _fail(self, why: str) -> float:
        if self.trouble != why:
            _log.warning("cosignature not had", extra={"fields": {"witness": self.address.key.name, "error": why}})
        self.trouble = why
        self._failures += 1
        return self._backoff[min(self._failures, len(self._backoff)) - 1]

    async def _ask(self, checkpoint: Published) -> None:
        """Have one checkpoint cosigned. Raises what `_turn` knows."""
        note = parse_note(checkpoint.note)
        for _ in range(SUBMISSIONS_MAX):
            old = self.cosigned
            if old > checkpoint.size:
                return await self._superseded()
            proof = await self._prove(old, checkpoint.size)
            reply = await self._send(Submission(old, tuple(proof), note))
            if reply.status == 200:
                cosignature = self._verified(reply, note)
                self.cosigned = checkpoint.size
                self._counted(True)
                return await self._store.keep(checkpoint, cosignature)
            self._judge(reply, old=old, size=checkpoint.size)
        raise WitnessAwayError(f"another size in each of {SUBMISSIONS_MAX} answers")

    async def _superseded(self) -> None:
        """Find out why it has seen more than we show: another replica signed more, or a database was restored."""
        newest = await self._store.newest_size()
        if newest < self.cosigned:
            seen, self.cosigned = self.cosigned, 0
            raise _ContradictionError(f"it cosigned a tree of {seen} entries, and the newest of ours has {newest}")

    async def _prove(self, old: int, size: int) -> list[bytes]:
        tiles = await self._tiles(tiles_for_consistency(old, size))
        return consistency_proof(old, size, lambda _: tiles)

    async def _send(self, submission: Submission) -> Reply:
        async with asyncio.timeout(REQUEST_SECONDS):
            return await self._post(self.address.url + ADD_CHECKPOINT, submission.serialise())

    def _verified(self, reply: Reply, note: Note) -> NoteSignature:
        """The cosignature by the key that we know; others are ignored, as tlog-witness says."""
        try:
            signatures = parse_signatures(reply.body)
        except FirewallError as error:
            raise WitnessAwayError(f"no cosignature in its answer: {error.detail}") from None
        for one in signatures:
            if self.address.key.verify(note.text, one):
                return one
        raise WitnessAwayError("no cosignature by its key in its answer")

    def _judge(self, reply: Reply, *, old: int, size: int) -> None:
        """Make of a refusal what it means; returns where another try may do."""
        if reply.status == 409 and reply.media_type == SIZE_MEDIA_TYPE:
            seen = self._size(reply)
            if seen == old == size:
                raise _ContradictionError(f"it cosigned another root of {size} entries")
            if seen == old:
                raise WitnessAwayError("it refuses the size that it names")
            self.cosigned = seen
            return
        match reply.status:
            case 409 if old == size:
                raise _ContradictionError(f"it cosigned another root of {size} entries")
            case 422:
                raise _ContradictionError(f"our tree of {size} entries does not continue what it cosigned at {old}")
            case 400 | 403 | 404 | 405 | 413:
                raise _RefusedError(f"it answered {reply.status}: {_words(reply)}")
            case _:
                raise WitnessAwayError(f"it answered {reply.status}")

    def _size(self, reply: Reply) -> int:
        try:
            return read_decimal(reply.body.decode("ascii", "replace").removesuffix("\n"), what="the size")
        except FirewallError as error:
            raise WitnessAwayError(f"a conflict without a size: {error.detail}") from None


class HttpPost:
    """Sends submissions over HTTP, on connections that are kept."""

    def __init__(self) -> None:
        # Here and not with the first submission: it takes a tenth of a second, in which decisions would wait.
        import httpx

        self._httpx = httpx
        self._client: httpx.AsyncClient | None = None

    async def __call__(self, url: str, body: bytes) -> Reply:
        """Send it and give the answer. Raises WitnessAwayError."""
        httpx = self._httpx
        if self._client is None:
            self._client = httpx.AsyncClient(timeout=REQUEST_SECONDS, follow_redirects=False, trust_env=False)
        headers = {"content-type": "text/plain; charset=utf-8"}
        try:
            async with self._client.stream("POST", url, content=body, headers=headers) as response:
                answer = b""
                async for chunk in response.aiter_bytes():
                    answer += chunk
                    if len(answer) > NOTE_BYTES_MAX:
                        raise WitnessAwayError(f"more than {NOTE_BYTES_MAX} bytes")
                media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
                return Reply(response.status_code, media_type, answer)
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise WitnessAwayError(type(error).__name__) from None

    async def close(self) -> None:
        """Let go of connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


def _words(reply: Reply) -> str:
    """What a witness says of itself, fit for a log."""
    text = reply.body[:200].decode("utf-8", "replace").strip()
    return "".join(char if char.isprintable() else " " for char in text) or "nothing"
