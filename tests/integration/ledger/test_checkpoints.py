"""The tree grows with the ledger and is signed by one replica at a time; what contradicts what was signed is not."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.core.merkle import (
    EMPTY_ROOT,
    Reader,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root,
    root_of,
    tiles_for_consistency,
    tiles_for_inclusion,
    tiles_for_root,
    verify_consistency,
    verify_inclusion,
)
from app.core.notes import NoteSignature, SignerKey, open_checkpoint
from app.core.tiles import TileId, tiles_of
from app.errors import FirewallError, Kind
from app.ledger import checkpoints
from app.ledger.append import LedgerWriter
from app.ledger.checkpoints import BEHIND, Notary, NotaryState
from app.ledger.guard import GuardFile
from app.ledger.receipt import parse
from app.ledger.signing import ACT, KeySigner, introduction_id
from app.ledger.tree import TileStore
from app.persistence.engine import DATABASE_ERRORS, connect, create_engine
from tests.integration.ledger.conftest import PATIENT

ORIGIN = "firewall.example.com/ledger"
# Seconds between two checkpoints where no test lasts as long.
LONG = 3600.0
FILL = """
WITH head AS (UPDATE ledger_head SET next_index = next_index + $1 RETURNING next_index - $1 AS before)
INSERT INTO ledger_entries (idx, id, kind, receipt)
SELECT before + n, gen_random_uuid(), 'decision', convert_to('{"made":"' || $2 || (before + n) || '"}', 'UTF8')
FROM head, generate_series(0, $1 - 1) AS n
"""


def having(tiles: dict[TileId, bytes]) -> Reader:
    return lambda _: tiles


def new_key(origin: str = ORIGIN) -> KeySigner:
    return KeySigner(SignerKey.of(origin, Ed25519PrivateKey.generate()))


class Ledger:
    """A database, and what a test does to it."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.engine = create_engine(dsn)
        self.tree = TileStore(self.engine)
        self.notaries: list[Notary] = []
        self.connections = 0

    def notary(self, signer: KeySigner | None = None, **more: Any) -> Notary:
        more = {"interval": 0.0, **more}
        made = Notary(
            partial(connect, self.dsn, writable=True), engine="test", entropy=os.urandom, signer=signer, **more
        )
        self.notaries.append(made)
        return made

    async def execute(self, *statements: str, arguments: tuple[Any, ...] = ()) -> list[Any]:
        connection = await asyncpg.connect(self.dsn)
        found: list[Any] = []
        try:
            for statement in statements:
                found = await connection.fetch(statement, *arguments)
        finally:
            await connection.close()
        return found

    async def fill(self, count: int, *, what: str = "") -> None:
        if count:
            await self.execute(FILL, arguments=(count, what))

    async def leaves(self, size: int) -> list[bytes]:
        rows = await self.execute(f"SELECT receipt FROM ledger_entries WHERE idx < {size} ORDER BY idx")
        return [leaf_hash(row["receipt"]) for row in rows]

    async def size(self) -> int:
        rows = await self.execute("SELECT next_index FROM ledger_head")
        return int(rows[0][0])

    async def forget(self, size: int) -> None:
        """What an older backup brings back: the ledger as it was at this size, triggers off as when restoring."""
        leaves = await self.leaves(size)
        tiles = {
            tile: hashes[: tile.width * 32] for tile, hashes in (await self.tree.read(set(tiles_of(size)))).items()
        }
        async with self.tampering() as connection:
            await connection.execute(f"DELETE FROM ledger_entries WHERE idx >= {size}")
            await connection.execute(f"UPDATE ledger_head SET next_index = {size}")
            await connection.execute(f"DELETE FROM ledger_checkpoints WHERE size > {size}")
            await connection.execute("DELETE FROM ledger_tiles")
            await connection.executemany(
                "INSERT INTO ledger_tiles VALUES ($1, $2, $3)", [(t.level, t.index, h) for t, h in tiles.items()]
            )
            await connection.execute("UPDATE ledger_tree SET size = $1, root = $2", size, root_of(leaves))

    @asynccontextmanager
    async def tampering(self) -> AsyncIterator[Any]:
        """A superuser's connection; the triggers that would refuse are off meanwhile."""
        connection = await asyncpg.connect(self.dsn)
        tables = ("ledger_head", "ledger_entries", "ledger_tiles", "ledger_tree")
        for table in tables:
            await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
        yield connection
        for table in tables:
            await connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER ALL")
        await connection.close()

    async def close(self) -> None:
        for notary in self.notaries:
            await notary.stop()
        await self.engine.dispose()


@pytest.fixture
async def ledger(database_dsn: str) -> AsyncIterator[Ledger]:
    made = Ledger(database_dsn)
    yield made
    await made.close()


async def work(notary: Notary) -> None:
    """Rounds until there is nothing more to do.

    Not so many rounds: who was ended in the middle holds the locks until its server notices, in its own time.
    """
    deadline = time.monotonic() + PATIENT
    while time.monotonic() < deadline:
        before = notary._last
        await notary.round()
        if before is not None and notary._last is not None and notary.lag == 0 == before.entries - before.signed:
            return
    raise AssertionError("it does not come to an end")


async def checked(ledger: Ledger, *signers: KeySigner) -> int:
    """The newest checkpoint holds, for each of these keys and for every entry; gives its size."""
    newest = await ledger.tree.newest()
    assert newest is not None
    for signer in signers:
        opened = open_checkpoint(newest.served, keys=[signer.key])
        assert (opened.checkpoint.origin, opened.checkpoint.size) == (ORIGIN, newest.size)
        assert opened.checkpoint.root == newest.root
    assert newest.root == root_of(await ledger.leaves(newest.size))
    return newest.size


@pytest.mark.parametrize("entries", [0, 1, 255, 256, 257, 65_537])
async def test_a_ledger_of_any_size_is_integrated_and_every_entry_proved(ledger, entries):
    signer = new_key()
    await ledger.fill(max(0, entries - 1))
    await work(ledger.notary(signer, slice_max=20_000))
    # The key's own entry is the first where there is no other, and the last here.
    size = max(1, entries)
    assert await checked(ledger, signer) == size
    head = await ledger.tree.head()
    leaves = await ledger.leaves(size)
    assert (head.size, head.root) == (size, root_of(leaves))
    wanted = set(tiles_of(size))
    tiles = await ledger.tree.read(wanted)
    assert set(tiles) == wanted
    assert {t: len(h) for t, h in tiles.items()} == {t: t.width * 32 for t in wanted}
    for index in {0, size // 2, size - 1}:
        found = await ledger.tree.read(tiles_for_inclusion(index, size))
        proof = inclusion_proof(index, size, having(found))
        verify_inclusion(index, size, leaves[index], proof, head.root)


async def test_without_a_key_the_tree_is_integrated_and_health_says_so(ledger):
    notary = ledger.notary(None)
    assert notary.report()[0] is NotaryState.UNSIGNED
    assert (notary.lag, notary.size, notary.age) == (0, 0, float("inf"))
    assert (await ledger.tree.head()).root == EMPTY_ROOT
    assert await ledger.tree.newest() is None
    assert await ledger.tree.read([]) == {}
    await ledger.fill(300)
    await notary.round()
    assert (await ledger.tree.head()).root == root_of(await ledger.leaves(300))
    assert await ledger.tree.newest() is None
    # It notices at its next look.
    await notary.round()
    assert notary.report() == (NotaryState.UNSIGNED, "no signing key: 300 entries in the tree, none signed")
    assert (notary.lag, notary.size, notary.age) == (300, 0, float("inf"))
    # A key that comes later signs what is there.
    signer = new_key()
    await work(ledger.notary(signer))
    assert await checked(ledger, signer) == 301


async def test_nothing_is_signed_when_there_is_nothing_new(ledger):
    notary = ledger.notary(new_key())
    await work(notary)
    published = await ledger.tree.newest()
    assert await notary.round() == 0.0
    assert await ledger.tree.newest() == published
    assert notary.report() == (NotaryState.CURRENT, "1 entries signed, 0 wait")


async def test_checkpoints_keep_their_distance_whoever_signs(ledger):
    signer = new_key()
    first, second = (ledger.notary(signer, interval=LONG) for _ in range(2))
    assert [await first.round() for _ in range(4)] == [0.0, 0.0, 0.0, LONG]
    await ledger.fill(5)
    for notary in (first, second):
        assert 0 < await notary.round() <= LONG
    assert await checked(ledger, signer) == 1
    assert 0 <= first.age < LONG
    assert first.lag == 5


async def test_a_backlog_is_worked_off_in_slices_and_signed_at_intervals(ledger):
    signer = new_key()
    notary = ledger.notary(signer, slice_max=700, interval=LONG)
    await ledger.fill(2000)
    # The key says that it begins; two slices that it may not sign yet, for that entry is not in them; the rest; signed.
    assert [await notary.round() for _ in range(6)] == [0.0, 0.0, 0.0, 0.0, 0.0, LONG]
    assert await checked(ledger, signer) == 2001
    # Within the interval whole slices are integrated at once, and signed when it is time.
    await ledger.fill(1500)
    assert [await notary.round() for _ in range(2)] == [0.0, 0.0]
    assert 0 < await notary.round() <= LONG
    assert (await ledger.tree.head()).size == 3401
    assert await checked(ledger, signer) == 2001


async def test_the_new_tree_continues_the_old_one(ledger):
    signer = new_key()
    notary = ledger.notary(signer)
    old = 0
    old_root = EMPTY_ROOT
    for more in (0, 3, 252, 1, 1, 300, 65_000 // 50):
        await ledger.fill(more)
        await work(notary)
        head = await ledger.tree.head()
        tiles = await ledger.tree.read(tiles_for_consistency(old, head.size))
        proof = consistency_proof(old, head.size, having(tiles))
        verify_consistency(old, old_root, head.size, head.root, proof)
        # The old root follows from the wider tiles of today.
        edge = await ledger.tree.read(tiles_for_root(old))
        assert root(old, having(edge)) == old_root
        old, old_root = head.size, head.root
    assert await checked(ledger, signer) == old


class TestReplicas:
    async def test_three_at_once_sign_one_history(self, ledger, entry):
        signer = new_key()
        heard: list[Any] = []
        notaries = [ledger.notary(signer, interval=0.005, published=heard.append, slice_max=50) for _ in range(3)]
        writer = LedgerWriter(ledger.dsn, deadline=PATIENT)
        await writer.start()
        for notary in notaries:
            await notary.start()
            await notary.start()
        for number in range(20):
            # At the beginning one after the other, or all might be written before anybody looks; then at once.
            async with asyncio.timeout(60):
                while len(heard) <= min(number, 5):
                    await asyncio.sleep(0.005)
            await writer.append_all([entry() for _ in range(30)])
        async with asyncio.timeout(60):
            while await ledger.size() != (await ledger.tree.head()).size or any(n.lag for n in notaries):
                await asyncio.sleep(0.01)
        await writer.stop()
        for notary in notaries:
            await notary.stop()
            await notary.stop()
        assert await checked(ledger, signer) == 601
        leaves = await ledger.leaves(601)
        sizes = [one.size for one in heard]
        assert len(sizes) == len(set(sizes)) > 3
        assert all(one.root == root_of(leaves[: one.size]) for one in heard)
        rows = await ledger.execute("SELECT count(*) FROM ledger_entries WHERE kind = 'key'")
        assert rows[0][0] == 1

    async def test_who_does_not_get_the_lock_looks_again_later(self, ledger):
        notary = ledger.notary(new_key(), interval=7.0)
        holder = await asyncpg.connect(ledger.dsn)
        async with holder.transaction():
            assert await holder.fetchval("SELECT pg_try_advisory_xact_lock($1)", checkpoints.ADVISORY_LOCK)
            assert await notary.round() == 7.0
        await holder.close()
        assert await ledger.size() == 0
        assert await notary.round() == 0.0
        assert await ledger.size() == 1

    async def test_who_stopped_in_the_middle_loses_the_lock(self, ledger, monkeypatch):
        held, go_on = asyncio.Event(), asyncio.Event()

        class Frozen(KeySigner):
            async def sign(self, text: str) -> NoteSignature:
                held.set()
                await go_on.wait()
                return await super().sign(text)

        secret = new_key().secret
        with monkeypatch.context() as short:
            short.setattr(checkpoints, "_STALL", 1.0)
            frozen = ledger.notary(Frozen(secret))
        waiting = asyncio.create_task(held.wait())
        async with asyncio.timeout(60):
            while True:
                stuck = asyncio.create_task(frozen.round())
                await asyncio.wait([stuck, waiting], return_when=asyncio.FIRST_COMPLETED)
                if held.is_set():
                    break
                # Where this process gets no time for so long, it is ended before it came so far.
                with contextlib.suppress(*DATABASE_ERRORS):
                    await stuck
        other = ledger.notary(KeySigner(secret))
        async with asyncio.timeout(60):
            while await ledger.tree.newest() is None:
                await other.round()
                await asyncio.sleep(0.02)
        await ledger.fill(1)
        await work(other)
        go_on.set()
        with pytest.raises(DATABASE_ERRORS):
            await stuck
        assert await checked(ledger, KeySigner(secret)) == 2
        await frozen.stop()
        await work(frozen)
        assert frozen.size == 2


class TestInterrupted:
    @pytest.mark.parametrize("blow", ["cancel", "terminate"])
    async def test_at_every_await_leaves_nothing_or_the_whole(self, ledger, monkeypatch, tmp_path, blow):
        """Counts the calls of the database in a step, then does one step for each, interrupted just there."""
        signer = new_key()
        guard = GuardFile(tmp_path / "guard")
        calls = 0
        strike_at = -1

        async def struck(connection: Any) -> None:
            nonlocal calls
            calls += 1
            if calls != strike_at:
                return
            if blow == "cancel":
                raise asyncio.CancelledError
            await ledger.execute(f"SELECT pg_terminate_backend({connection.get_server_pid()})")

        class Struck(asyncpg.Connection):  # type: ignore[misc]  # it has no types
            async def execute(self, *given: Any, **more: Any) -> Any:
                await struck(self)
                return await super().execute(*given, **more)

            async def fetchval(self, *given: Any, **more: Any) -> Any:
                await struck(self)
                return await super().fetchval(*given, **more)

            async def fetchrow(self, *given: Any, **more: Any) -> Any:
                await struck(self)
                return await super().fetchrow(*given, **more)

            async def fetch(self, *given: Any, **more: Any) -> Any:
                await struck(self)
                return await super().fetch(*given, **more)

        notary = ledger.notary(signer, guard=guard)
        notary._connect = partial(asyncpg.connect, ledger.dsn, connection_class=Struck)
        await work(notary)
        await ledger.fill(200)
        calls = 0
        await work(notary)
        needed = calls
        assert needed > 16
        signed = await checked(ledger, signer)
        for number in range(1, needed + 1):
            strike_at = number
            await ledger.fill(37)
            calls = 0
            with pytest.raises((asyncio.CancelledError, *DATABASE_ERRORS)):
                await work(notary)
            head, newest = await ledger.tree.head(), await ledger.tree.newest()
            assert newest is not None
            assert (head.size, newest.size) in {(signed, signed), (signed + 37, signed), (signed + 37, signed + 37)}
            await notary.stop()
            strike_at = -1
            await work(notary)
            signed = await checked(ledger, signer)
            assert signed == await ledger.size()

    async def test_the_task_outlives_a_database_that_comes_and_goes(self, ledger):
        signer = new_key()
        errors: list[str] = []

        class Listening:
            def error(self, kind: str) -> None:
                errors.append(kind)

            def timed(self, operation: str, seconds: float) -> None:
                assert operation == checkpoints.OPERATION
                assert seconds > 0

        async def end_its_connections() -> None:
            await ledger.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

        notary = ledger.notary(signer, interval=0.01, observer=Listening(), backoff=(0.0, 0.01))
        await notary.start()
        for more in range(1, 4):
            await ledger.fill(more)
            async with asyncio.timeout(60):
                while notary.lag or notary.size < more:
                    await asyncio.sleep(0.005)
            await end_its_connections()
        async with asyncio.timeout(60):
            while not errors:  # between two looks, an ended connection is replaced without a word
                await end_its_connections()
            while notary._trouble is not None:
                await asyncio.sleep(0.005)
        assert notary.report()[0] is NotaryState.CURRENT


class TestRefused:
    async def refused(self, notary: Notary) -> str:
        with pytest.raises(FirewallError) as caught:
            await work(notary)
        assert caught.value.kind is Kind.CONFLICT
        await notary.stop()
        return caught.value.detail

    @pytest.fixture
    async def grown(self, ledger) -> tuple[Ledger, KeySigner]:
        signer = new_key()
        notary = ledger.notary(signer)
        await ledger.fill(300)
        await work(notary)
        return ledger, signer

    async def test_an_older_database_is_found_by_memory(self, grown):
        ledger, _ = grown
        notary = ledger.notaries[0]
        await ledger.forget(200)
        assert await self.refused(notary) == (
            "the ledger has 200 entries, and 301 were signed, as this process remembers"
        )
        # It went on without us: another history of the same length.
        await ledger.fill(150, what="other")
        assert await self.refused(notary) == (
            "the first 301 entries have another root than the one that was signed, as this process remembers"
        )

    async def test_an_older_database_is_found_by_what_another_replica_signed(self, grown):
        ledger, signer = grown
        notary = ledger.notary(signer)
        await notary.round()
        await ledger.forget(200)
        assert "as this process remembers" in await self.refused(notary)

    async def test_who_remembers_nothing_makes_nobody_forget(self, grown):
        """After a restore a fresh replica signs another history; those that were there before go on refusing."""
        ledger, signer = grown
        witness = ledger.notaries[0]
        await ledger.forget(200)
        await ledger.fill(150, what="other")
        fresh = ledger.notary(signer)
        await work(fresh)
        # The key's entry was lost as well.
        assert await checked(ledger, signer) == 351
        for _ in range(2):
            assert "the first 301 entries have another root" in await self.refused(witness)
        await ledger.fill(20, what="other")
        await work(fresh)
        assert "as this process remembers" in await self.refused(witness)

    async def test_who_is_not_elected_does_not_say_that_all_is_well(self, grown):
        ledger, signer = grown
        notary = ledger.notary(signer)
        await ledger.fill(5)
        async with ledger.tampering() as connection:
            await connection.execute("UPDATE ledger_tree SET root = sha256('other')")
        await notary._turn()
        assert notary.report()[0] is NotaryState.REFUSED
        holder = await asyncpg.connect(ledger.dsn)
        async with holder.transaction():
            await holder.execute("SELECT pg_advisory_xact_lock($1)", checkpoints.ADVISORY_LOCK)
            assert await notary._turn() == 0.0
            assert notary.report()[0] is NotaryState.REFUSED
        await holder.close()

    async def test_an_older_database_is_found_by_the_guard_file(self, grown, tmp_path):
        ledger, signer = grown
        guard = GuardFile(tmp_path / "guard")
        assert guard.read() is None
        await ledger.fill(1)
        await work(ledger.notary(signer, guard=guard))
        kept = guard.read()
        assert kept is not None
        assert kept.size == 302
        assert [file.name for file in tmp_path.iterdir()] == ["guard"]
        await ledger.forget(200)
        notary = ledger.notary(signer, guard=guard)
        assert await self.refused(notary) == "the ledger has 200 entries, and 302 were signed, as the guard file says"
        await ledger.fill(500, what="other")
        assert "another root than the one that was signed, as the guard file says" in await self.refused(notary)
        assert guard.read() == kept
        # Nobody who remembers nothing can know: this is what the file is for.
        await work(ledger.notary(signer))

    async def test_a_tree_that_must_catch_up_with_the_guard_is_not_signed_before(self, grown, tmp_path):
        """The process died between guard and commit: what it signed is a beginning of what comes."""
        ledger, signer = grown
        guard = GuardFile(tmp_path / "guard")
        await ledger.fill(100)
        await work(ledger.notary(signer, guard=guard))
        # As if the last transaction had been rolled back.
        before = await ledger.execute("SELECT receipt, id, kind, idx FROM ledger_entries WHERE idx >= 301")
        await ledger.forget(301)
        connection = await asyncpg.connect(ledger.dsn)
        await connection.executemany(
            "INSERT INTO ledger_entries (receipt, id, kind, idx) VALUES ($1, $2, $3, $4)",
            [tuple(row) for row in before],
        )
        await connection.execute("UPDATE ledger_head SET next_index = 401")
        await connection.close()
        notary = ledger.notary(signer, guard=guard, slice_max=40)
        await notary.round()
        assert (await ledger.tree.head()).size == 341
        assert await checked(ledger, signer) == 301
        await work(notary)
        assert await checked(ledger, signer) == 401

    async def test_another_origin_begins_anew(self, grown, tmp_path):
        ledger, signer = grown
        guard = GuardFile(tmp_path / "guard")
        await ledger.fill(1)
        await work(ledger.notary(signer, guard=guard))
        await ledger.forget(200)
        other = new_key("firewall.example.com/ledger-2")
        await work(ledger.notary(other, guard=guard))
        kept = guard.read()
        assert kept is not None
        assert (kept.origin, kept.size) == (other.key.name, 201)

    @pytest.mark.parametrize(
        ("tampering", "found"),
        [
            (
                "UPDATE ledger_tree SET root = sha256('other')",
                "the tiles do not give the root of the tree of 301 entries",
            ),
            (
                "UPDATE ledger_tiles SET hashes = overlay(hashes PLACING '\\x00'::bytea FROM 1) WHERE level = 0 AND idx = 1",
                "the first 301 entries have another root than the one that was signed, in the database",
            ),
            ("DELETE FROM ledger_tiles WHERE level = 1", "missing"),
            ("UPDATE ledger_checkpoints SET root = sha256('other')", "says one thing, and its note another"),
            (
                # Every capital letter is another one: a signature may well be without any one of them.
                (
                    "UPDATE ledger_checkpoints SET note = convert_to(translate(convert_from(note, 'UTF8'),"
                    " 'ABCDEFGHIJKLMNOPQRSTUVWXYZ', 'BCDEFGHIJKLMNOPQRSTUVWXYZA'), 'UTF8')"
                ),
                "in the database",
            ),
            ("UPDATE ledger_checkpoints SET note = 'x'", "the newest checkpoint in the database is a note without"),
            ("UPDATE ledger_head SET next_index = 250", "the tree has 301 entries, and the ledger 250"),
            ("UPDATE ledger_tree SET size = 299", "301 entries were signed, and the tree has 299"),
            ("DELETE FROM ledger_entries WHERE idx = 301", "entries from 301 to 305 are missing below the head"),
        ],
    )
    async def test_tampering_at_the_edge_is_found(self, grown, tampering, found):
        ledger, signer = grown
        await ledger.fill(5)
        async with ledger.tampering() as connection:
            await connection.execute(tampering)
        notary = ledger.notary(signer)
        with pytest.raises(FirewallError) as caught:
            await notary.round()
        assert found in caught.value.detail
        assert caught.value.kind in {Kind.CONFLICT, Kind.MALFORMED}
        assert (await ledger.execute("SELECT max(size) FROM ledger_checkpoints"))[0][0] == 301

    async def test_a_wider_tile_than_the_tree_has_is_found(self, grown):
        ledger, signer = grown
        await ledger.execute("UPDATE ledger_tiles SET hashes = hashes || sha256('x') WHERE level = 0 AND idx = 1")
        await ledger.fill(5)
        notary = ledger.notary(signer)
        assert await self.refused(notary) == "the tree in the database is not the one that it was made of"

    async def test_an_altered_entry_of_the_past_is_not_read_again(self, grown):
        """Its hash stands in the tiles: signing goes on truthfully, and `mfw ledger verify` finds the entry."""
        ledger, signer = grown
        honest = await ledger.leaves(301)
        async with ledger.tampering() as connection:
            await connection.execute("UPDATE ledger_entries SET receipt = '{}' WHERE idx = 17")
        await ledger.fill(5)
        await work(ledger.notary(signer))
        newest = await ledger.tree.newest()
        assert newest is not None
        now = await ledger.leaves(306)
        assert newest.root == root_of([*honest, *now[301:]])
        assert newest.root != root_of(now)

    async def test_it_is_loud_and_over_once_the_right_database_is_back(self, grown, caplog):
        ledger, signer = grown
        told: list[bool] = []
        notary = ledger.notary(signer, refused=lambda: told.append(True))
        await ledger.fill(5)
        async with ledger.tampering() as connection:
            await connection.execute("UPDATE ledger_head SET next_index = 250")
        for _ in range(2):
            assert await notary._turn() == checkpoints.REFUSED_PAUSE
        assert told == [True, True]
        state, detail = notary.report()
        assert state is NotaryState.REFUSED
        assert "docs/ledger.md" in detail
        assert [record.levelname for record in caplog.records if record.message == "checkpoint refused"] == ["ERROR"]
        await ledger.execute("UPDATE ledger_head SET next_index = 306")
        assert [await notary._turn() for _ in range(2)] == [0.0, 0.0]
        assert notary.report()[0] is NotaryState.CURRENT
        assert await checked(ledger, signer) == 306

    async def test_a_guard_file_that_cannot_be_read_refuses(self, ledger, tmp_path):
        signer = new_key()
        file = tmp_path / "guard"
        file.write_text("not a checkpoint")
        notary = ledger.notary(signer, guard=GuardFile(file))
        assert await notary._turn() == checkpoints.REFUSED_PAUSE
        assert "has no checkpoint in it" in notary.report()[1]
        assert await ledger.tree.newest() is None


class TestTrouble:
    async def test_a_guard_file_that_cannot_be_written_publishes_nothing(self, ledger, tmp_path):
        signer = new_key()
        notary = ledger.notary(
            signer, guard=GuardFile(tmp_path / "missing" / "guard"), backoff=(3.0,), jitter=lambda: 1.0
        )
        assert [await notary._turn() for _ in range(3)] == [0.0, 0.0, 3.0]
        assert "cannot be written: no such file or directory" in notary.report()[1]
        assert await ledger.tree.newest() is None
        (tmp_path / "missing").mkdir()
        await notary._turn()
        assert await checked(ledger, signer) == 1
        assert notary._trouble is None

    @pytest.mark.parametrize("fault", ["raises", "lies", "hangs"])
    async def test_a_signer_that_fails_publishes_nothing(self, ledger, monkeypatch, fault):
        monkeypatch.setattr(checkpoints, "SIGN_TIMEOUT", 0.05)

        class Faulty(KeySigner):
            async def sign(self, text: str) -> NoteSignature:
                if fault == "raises":
                    raise ValueError("secret")
                if fault == "hangs":
                    await asyncio.sleep(60)
                return await super().sign(text + "x")

        moment = [0.0]
        notary = ledger.notary(Faulty(new_key().secret), monotonic=lambda: moment[0])
        for _ in range(3):
            await notary._turn()
        assert notary.report()[0] is NotaryState.CURRENT
        assert notary._trouble is not None
        assert "secret" not in notary.report()[1]
        assert await ledger.tree.newest() is None
        moment[0] = BEHIND + 1
        await notary._turn()
        state, detail = notary.report()
        assert state is NotaryState.BEHIND
        assert "1 entries wait for their checkpoint since 61 s" in detail

    async def test_a_database_without_its_rows(self, ledger):
        async with ledger.tampering() as connection:
            await connection.execute("DELETE FROM ledger_tree")
        with pytest.raises(FirewallError) as caught:
            await ledger.notary(new_key()).round()
        assert caught.value.kind is Kind.UNAVAILABLE
        with pytest.raises(FirewallError):
            await ledger.tree.head()


class TestRotation:
    async def test_both_keys_sign_while_the_old_one_is_given(self, ledger):
        old, new = new_key(), new_key()
        await ledger.fill(3)
        await work(ledger.notary(old))
        assert await checked(ledger, old) == 4
        both = ledger.notary(new, previous=old)
        await work(both)
        # The old key signs what says that the new one begins.
        assert await checked(ledger, old, new) == 5
        row = (await ledger.execute("SELECT * FROM ledger_entries WHERE idx = 4"))[0]
        assert row["id"] == introduction_id(ORIGIN, new.key.key_id)
        members = parse(row["receipt"])
        assert (members["act"], members["ledger_key"], members["replaces"]) == (ACT, new.key.text, old.key.text)
        await ledger.fill(1)
        alone = ledger.notary(new)
        await work(alone)
        assert await checked(ledger, new) == 6
        newest = await ledger.tree.newest()
        assert newest is not None
        with pytest.raises(FirewallError):
            open_checkpoint(newest.note, keys=[old.key])

    async def test_the_old_key_gives_way_wherever_it_still_runs(self, ledger, caplog):
        old, new = new_key(), new_key()
        behind = ledger.notary(old)
        await work(behind)
        await work(ledger.notary(new))
        row = (await ledger.execute("SELECT receipt FROM ledger_entries WHERE idx = 1"))[0]
        assert parse(row["receipt"])["replaces"] == f"{ORIGIN}+{old.key.key_id:08x}"
        await ledger.fill(2)
        for _ in range(3):
            await behind.round()
        assert behind.report()[0] is NotaryState.SUPERSEDED
        assert "another key signs the checkpoints now" in caplog.messages
        # It still integrates, and signs nothing.
        assert (await ledger.tree.head()).size == 4
        assert await checked(ledger, new) == 2
        # Also after a restart, and for good.
        again = ledger.notary(old)
        await again.round()
        assert again.report()[0] is NotaryState.SUPERSEDED
        await work(ledger.notary(new))
        assert await checked(ledger, new) == 4

    async def test_a_previous_key_that_never_was_does_not_sign(self, ledger):
        new, stranger = new_key(), new_key()
        await work(ledger.notary(new, previous=stranger))
        newest = await ledger.tree.newest()
        assert newest is not None
        with pytest.raises(FirewallError):
            open_checkpoint(newest.note, keys=[stranger.key])


async def test_old_checkpoints_are_thinned_out(ledger):
    notary = ledger.notary(new_key())
    await work(notary)
    await ledger.execute(
        "INSERT INTO ledger_checkpoints (size, root, origin, signed_at, note)"
        " SELECT 1000 + n, sha256(''), 'x', now() - interval '5 hours' + n * interval '1 minute', 'x'"
        " FROM generate_series(0, 299) AS n"
    )
    connection = await asyncpg.connect(ledger.dsn)
    await connection.execute(checkpoints._THIN)
    kept = await connection.fetch(
        "SELECT date_trunc('hour', signed_at) AS hour, count(*) FROM ledger_checkpoints"
        " WHERE signed_at < now() - interval '1 hour' GROUP BY 1"
    )
    recent = await connection.fetchval(
        "SELECT count(*) FROM ledger_checkpoints WHERE signed_at >= now() - interval '1 hour'"
    )
    await connection.close()
    # One for each hour; the hour that lies on the border keeps what is young as well.
    assert all(row["count"] == 1 for row in kept)
    assert 4 <= len(kept) <= 5
    assert recent >= 60


def test_ids_of_introductions_are_uuids_of_version_8():
    made = introduction_id(ORIGIN, 1)
    assert made.version == 8
    assert made.variant == "specified in RFC 4122"
    assert made != introduction_id(ORIGIN, 2)
    assert made != introduction_id(ORIGIN + "x", 1)
