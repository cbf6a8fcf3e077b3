"""`python -m app.migrations.rollback REVISION`: take the database back."""

import sys
from collections.abc import Sequence

from app.migrations import command_line, schema


def main(arguments: Sequence[str] | None = None) -> int:
    """Undo every migration after the one that is named, newest first, and give the exit code."""
    parser = command_line.parser(
        "rollback",
        description="Take the database's schema back to a revision: every migration after it is undone, newest first.\n"
        "What those migrations added is lost (0002: every API key). The ledger is never dropped: a rollback that would "
        "do so is refused.",
        examples="  python -m app.migrations.status\n  python -m app.migrations.rollback 0001\n",
    )
    parser.add_argument("revision", metavar="REVISION", help="the revision to end at, as `status` names it")
    command_line.add_timeouts(parser, lock=schema.LOCK_TIMEOUT, statement=schema.STATEMENT_TIMEOUT)
    given = parser.parse_args(arguments)

    async def work(dsn: str) -> schema.Status:
        return await schema.rollback(
            dsn, given.revision, lock_timeout=given.lock_timeout, statement_timeout=given.statement_timeout
        )

    return command_line.run(work, given=given.database_url)


if __name__ == "__main__":
    sys.exit(main())
