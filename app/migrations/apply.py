"""`python -m app.migrations.apply`: bring the database forward."""

import sys
from collections.abc import Sequence
from functools import partial

from app.migrations import command_line, schema


def main(arguments: Sequence[str] | None = None) -> int:
    """Apply what is pending and give the exit code; repeating it is harmless."""
    parser = command_line.parser(
        "apply",
        description="Bring the database's schema forward to the newest revision, or to one that is named.\n"
        "Each migration is one transaction; two runs at the same time wait for one another; repeating is harmless.\n"
        "Take a backup first: `mfw backup create`.",
        examples="  python -m app.migrations.apply\n  python -m app.migrations.apply --before-rollout\n"
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
    command_line.add_timeouts(parser, lock=schema.LOCK_TIMEOUT, statement=schema.STATEMENT_TIMEOUT)
    given = parser.parse_args(arguments)
    return command_line.run(
        partial(
            schema.apply,
            revision=given.to,
            before_rollout=given.before_rollout,
            lock_timeout=given.lock_timeout,
            statement_timeout=given.statement_timeout,
        ),
        given=given.database_url,
    )


if __name__ == "__main__":
    sys.exit(main())
