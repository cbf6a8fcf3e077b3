"""Proofs out of the ledger's tree: that an entry is in it, and that it begins with what it was before.

Everything that goes into a proof is read by one transaction, and the proof is verified before it is given: one that
does not hold would accuse the log of what its database has lost.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.core.merkle import (
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root,
    tiles_for_consistency,
    tiles_for_inclusion,
    tiles_for_root,
    verify_consistency,
    verify_inclusion,
)
from app.core.notes import LogProof, parse_note
from app.core.tiles import TileId
from app.errors import FirewallError, Kind
from app.persistence.engine import Observer, Transactions
from app.persistence.tables import ledger_checkpoints, ledger_entries, ledger_head, ledger_tiles, ledger_tree

# Seconds. A checkpoint is signed at most every second.
RETRY_AFTER: Final = 1.0

_OPERATION: Final = "ledger_read"


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """That entry `index` is in the tree of `size` entries; `checkpoint` is the signed note of that size, if kept."""

    index: int
    size: int
    leaf_hash: bytes
    root: bytes
    hashes: tuple[bytes, ...]
    checkpoint: bytes | None

    def text(self) -> bytes:
        """The proof as C2SP tlog-proof has it. Raises FirewallError (NOT_FOUND) where there is no checkpoint."""
        if self.checkpoint is None:
            raise FirewallError(
                Kind.NOT_FOUND,
                f"no checkpoint of {self.size} entries is kept, and this form of a proof has one in it",
                fix="leave out `size` for the newest, or ask for `application/json`",
            )
        return LogProof(self.index, self.hashes, parse_note(self.checkpoint)).serialise()


@dataclass(frozen=True, slots=True)
class ConsistencyProof:
    """That the tree of `new` entries begins with that of `old`; `checkpoint` is the signed note of `new`, if kept."""

    old: int
    new: int
    old_root: bytes
    new_root: bytes
    hashes: tuple[bytes, ...]
    checkpoint: bytes | None


class Prover:
    """Proves through an engine. Every method raises FirewallError (UNAVAILABLE, TIMEOUT) when the database fails.

    Does not check: the signature of a checkpoint.
    """

    def __init__(self, engine: AsyncEngine, *, observer: Observer | None = None) -> None:
        self._transaction = Transactions(engine, operation=_OPERATION, observer=observer)

    async def inclusion(self, index: int, *, size: int | None = None) -> InclusionProof:
        """Prove an entry, in the tree of the newest checkpoint unless a size is named.

        Raises FirewallError: NOT_FOUND beyond the ledger, CONFLICT for what is not under a checkpoint yet,
        MALFORMED for a size that does not go beyond the entry.
        """
        async with self._transaction() as connection:
            entries = await _size(connection)
            if index >= entries:
                raise FirewallError(Kind.NOT_FOUND, f"the ledger has no entry `{index}`")
            if size is not None and size <= index:
                raise FirewallError(
                    Kind.MALFORMED,
                    f"a tree of {size} entries has no entry `{index}`",
                    fix="name a larger `size`, or leave it out for the newest checkpoint",
                )
            wanted = await _checked(connection, size, entries=entries, above=index)
            tiles = await _tiles(connection, tiles_for_inclusion(index, wanted) | tiles_for_root(wanted))
            receipt: bytes = (
                await connection.execute(sa.select(ledger_entries.c.receipt).where(ledger_entries.c.idx == index))
            ).scalar_one()
            signed = await _signed(connection, wanted)
        leaf = leaf_hash(receipt)
        try:
            over = root(wanted, lambda _: tiles)
            proof = inclusion_proof(index, wanted, lambda _: tiles)
            verify_inclusion(index, wanted, leaf, proof, over)
            _check(signed, wanted, over)
        except FirewallError as error:
            raise _damaged(error) from error
        return InclusionProof(index, wanted, leaf, over, tuple(proof), None if signed is None else signed.note)

    async def consistency(self, old: int, new: int | None = None) -> ConsistencyProof:
        """Prove that the tree of `new` entries, of the newest checkpoint unless named, begins with that of `old`.

        Raises FirewallError: NOT_FOUND beyond the ledger, CONFLICT for what is not under a checkpoint yet,
        MALFORMED where `old` is the larger one.
        """
        async with self._transaction() as connection:
            entries = await _size(connection)
            if new is not None and new < old:
                raise FirewallError(
                    Kind.MALFORMED, f"a tree of {new} entries cannot begin with one of {old}", fix="swap the two"
                )
            if old > entries:
                raise FirewallError(Kind.NOT_FOUND, f"the ledger has no {old} entries")
            wanted = await _checked(connection, new, entries=entries, above=old - 1)
            tiles = await _tiles(
                connection, tiles_for_consistency(old, wanted) | tiles_for_root(old) | tiles_for_root(wanted)
            )
            began = await _signed(connection, old)
            signed = await _signed(connection, wanted)
        try:
            before, after = root(old, lambda _: tiles), root(wanted, lambda _: tiles)
            proof = consistency_proof(old, wanted, lambda _: tiles)
            verify_consistency(old, before, wanted, after, proof)
            _check(began, old, before)
            _check(signed, wanted, after)
        except FirewallError as error:
            raise _damaged(error) from error
        return ConsistencyProof(old, wanted, before, after, tuple(proof), None if signed is None else signed.note)


async def _size(connection: AsyncConnection) -> int:
    return (await connection.execute(sa.select(ledger_head.c.next_index))).scalar_one_or_none() or 0


async def _checked(connection: AsyncConnection, size: int | None, *, entries: int, above: int) -> int:
    """The size to prove: the one that is named, if the tree has come so far; else that of the newest checkpoint."""
    if size is None:
        newest: int | None = (await connection.execute(sa.select(sa.func.max(ledger_checkpoints.c.size)))).scalar()
        if newest is None or newest <= above:
            raise FirewallError(
                Kind.CONFLICT,
                f"no checkpoint is signed yet that has more than {above} entries"
                if above >= 0
                else "no checkpoint is signed yet",
                retry_after=RETRY_AFTER,
                fix="ask again in a second; if it stays so, `/health/detailed` says why",
            )
        return newest
    if size > entries:
        raise FirewallError(Kind.NOT_FOUND, f"the ledger has no {size} entries")
    integrated = (await connection.execute(sa.select(ledger_tree.c.size))).scalar_one_or_none() or 0
    if size > integrated:
        raise FirewallError(
            Kind.CONFLICT,
            f"the tree has {integrated} of the {entries} entries so far",
            retry_after=RETRY_AFTER,
            fix="ask again in a second; if it stays so, `/health/detailed` says why",
        )
    return size


async def _tiles(connection: AsyncConnection, wanted: Collection[TileId]) -> dict[TileId, bytes]:
    """The tiles that are there. One may be wider than asked for: it has grown since."""
    places = sa.tuple_(ledger_tiles.c.level, ledger_tiles.c.idx)
    rows = await connection.execute(
        sa.select(ledger_tiles).where(places.in_([(tile.level, tile.index) for tile in wanted]))
    )
    found = {(row.level, row.idx): bytes(row.hashes) for row in rows}
    return {tile: found[tile.level, tile.index] for tile in wanted if (tile.level, tile.index) in found}


class _Signed(NamedTuple):
    """A checkpoint that is kept: its root, and the note with the cosignatures that came in so far."""

    root: bytes
    note: bytes


async def _signed(connection: AsyncConnection, size: int) -> _Signed | None:
    of = ledger_checkpoints.c
    row = (await connection.execute(sa.select(of.root, of.note, of.cosignatures).where(of.size == size))).one_or_none()
    return None if row is None else _Signed(row.root, row.note + row.cosignatures)


def _check(signed: _Signed | None, size: int, root: bytes) -> None:
    """Raises FirewallError (MALFORMED) where what was signed is not what the tiles say."""
    if signed is not None and signed.root != root:
        raise FirewallError(Kind.MALFORMED, f"the checkpoint of {size} entries has another root than its tiles")


def _damaged(error: FirewallError) -> FirewallError:
    return FirewallError(
        Kind.UNAVAILABLE,
        f"the tree of the ledger is not what it was: {error.detail}",
        fix="run `mfw integrity check`, and restore what it names",
    )
