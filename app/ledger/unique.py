"""Whether any of very many ids comes twice, in bounded memory: by a digest of theirs into files, each sorted alone."""

import tempfile
from collections.abc import Iterator
from hashlib import blake2b
from itertools import pairwise
from typing import BinaryIO, Final, Self
from uuid import UUID

# Up to so many ids one heap in memory will do.
_SMALL: Final = 262_144
_HEAPS: Final = 256
# What a heap holds in memory before it goes to its file.
_HELD_BYTES: Final = 256 * 1024
_ID_BYTES: Final = 16
_ROW_BYTES: Final = _ID_BYTES + 8


class Ids:
    """Takes ids with their indexes; a context, for what it needs of the disk."""

    def __init__(self, expected: int) -> None:
        heaps = 1 if expected <= _SMALL else _HEAPS
        self._held = [bytearray() for _ in range(heaps)]
        self._files: list[BinaryIO | None] = [None] * heaps

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            if file is not None:
                file.close()

    def add(self, identifier: UUID, idx: int) -> None:
        """Take one more."""
        name = identifier.bytes
        heap = 0
        if len(self._held) > 1:
            # Not a byte of the id itself: whoever wrote these may have chosen them.
            heap = blake2b(name, digest_size=1).digest()[0]
        held = self._held[heap]
        held += name
        held += idx.to_bytes(8, "big")
        if len(held) >= _HELD_BYTES and len(self._held) > 1:
            file = self._files[heap]
            if file is None:
                file = self._files[heap] = tempfile.TemporaryFile(prefix="mfw-ids-")  # noqa: SIM115 - closed at the end
            file.write(held)
            held.clear()

    def repeated(self) -> Iterator[tuple[int, int]]:
        """Each index whose id an earlier one has, after that earlier index."""
        for held, file in zip(self._held, self._files, strict=True):
            content = bytes(held)
            if file is not None:
                file.seek(0)
                content = file.read() + content
            rows = sorted(content[at : at + _ROW_BYTES] for at in range(0, len(content), _ROW_BYTES))
            for before, row in pairwise(rows):
                if row[:_ID_BYTES] == before[:_ID_BYTES]:
                    yield int.from_bytes(before[_ID_BYTES:], "big"), int.from_bytes(row[_ID_BYTES:], "big")
