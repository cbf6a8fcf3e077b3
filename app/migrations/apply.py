"""`python -m app.migrations.apply`: bring the database forward."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from app.migrations import command_line, schema
from app.persistence import revision as waiting


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What a command line says, or that of this process; the program ends where it cannot be understood."""
    parser = command_line.parser(
        "apply",
        description="Bring the database's schema forward to the newest revision, or to one that is named.\n"
        "Each migration is one transaction; two runs at the same time wait for one another; repeating is harmless.\n"
        "Take a backup first: `mfw backup create`.",
        examples="  python -m app.migrations.apply\n  python -m app.migrations.apply --before-rollout --wait 300\n"
        "  python -m app.migrations.apply --to 0001\n",
    )
    end = parser.add_mutually_exclusive_group()
    end.add_argument(
        "--before-rollout",
        action="store_true",
        help="leave `post` migrations for later: replicas of the release before still run",
    )
    end.add_argument(
        "--to", metavar="REVISION", default=schema.HEAD, help="stop at this revision (default: the newest)"
    )
    parser.add_argument(
        "--wait",
        type=command_line.seconds,
        default=0,
        metavar="SECONDS",
        help="how long to wait for a database that is away (default 0)",
    )
    command_line.add_timeouts(parser, lock=schema.LOCK_TIMEOUT, statement=schema.STATEMENT_TIMEOUT)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Apply what is pending and give the exit code; repeating it is harmless."""
    given = parsed(arguments)
    return command_line.run(
        partial(
            _apply,
            wait=given.wait,
            revision=given.to,
            before_rollout=given.before_rollout,
            lock_timeout=given.lock_timeout,
            statement_timeout=given.statement_timeout,
        ),
        given=given.database_url,
    )


async def _apply(
    dsn: str,
    *,
    wait: float,
    revision: str,
    before_rollout: bool,
    lock_timeout: float,
    statement_timeout: float,
) -> schema.Status:
    await waiting.wait(partial(schema.status, dsn), within=wait, told=_say)
    return await schema.apply(
        dsn,
        revision=revision,
        before_rollout=before_rollout,
        lock_timeout=lock_timeout,
        statement_timeout=statement_timeout,
    )


def _say(reason: str) -> None:
    sys.stderr.write(f"waiting: {reason}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
