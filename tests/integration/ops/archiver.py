"""Archives, and is killed after one step: `python archiver.py DSN DIRECTORY BEFORE STEP`."""

import asyncio
import os
import secrets
import signal
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from app.core.months import Month
from app.core.principal import AuthMethod, Principal, PrincipalKind
from app.ops.archive import Keeper, Step, archive

KEEPER = Keeper(
    Principal("me", PrincipalKind.USER, frozenset(), AuthMethod.NONE),
    clock=partial(datetime.now, UTC),
    entropy=secrets.token_bytes,
)

if __name__ == "__main__":
    dsn, directory, before, last = sys.argv[1:]

    def did(step: Step) -> None:
        if step == last:
            os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(archive(dsn, Path(directory), before=Month.parse(before), keeper=KEEPER, drop=True, did=did))
