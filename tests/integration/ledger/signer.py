"""A process that integrates and signs until it is killed: says `size root` on standard output for each checkpoint."""

import asyncio
import os
import sys
from functools import partial
from pathlib import Path

from app.core.log_keys import log_key
from app.ledger.checkpoints import Notary
from app.ledger.guard import GuardFile
from app.ledger.signing import KeySigner
from app.ledger.tree import StoredCheckpoint
from app.persistence.engine import connect


def tell(checkpoint: StoredCheckpoint) -> None:
    # One system call, so that what a killed process said is whole lines.
    os.write(1, f"{checkpoint.size} {checkpoint.root.hex()}\n".encode())


async def main(dsn: str, origin: str, secret: str, guard: str) -> None:
    notary = Notary(
        partial(connect, dsn, writable=True),
        engine="test",
        entropy=os.urandom,
        signer=KeySigner(log_key(secret, origin=origin)),
        guard=GuardFile(Path(guard)),
        interval=0.005,
        slice_max=100,
        published=tell,
        backoff=(0.0, 0.05),
    )
    await notary.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5]))
