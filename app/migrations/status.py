"""`python -m app.migrations.status`: where the database stands."""

import sys
from collections.abc import Sequence

from app.migrations import command_line, schema


def main(arguments: Sequence[str] | None = None) -> int:
    """Say the revision, what is pending, and whether the service starts; changes nothing."""
    parser = command_line.parser(
        "status",
        description="Say at which revision the database's schema is, what is pending, and whether this release starts\n"
        "on it. Changes nothing.",
        examples="  python -m app.migrations.status\n",
    )
    given = parser.parse_args(arguments)
    return command_line.run(schema.status, given=given.database_url)


if __name__ == "__main__":
    sys.exit(main())
