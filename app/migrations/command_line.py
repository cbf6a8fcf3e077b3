"""What the three commands share: where the database is, how an outcome is said, which exit code it has."""

import argparse
import asyncio
import math
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from app.errors import FirewallError, Kind
from app.migrations.schema import Status
from app.settings import Settings, SettingsError

EXIT_DONE = 0
EXIT_FAILED = 1
# As argparse has it.
EXIT_USAGE = 2
# The schema is not one that this release starts on.
EXIT_MISMATCH = 3

VARIABLE = "MFW_DATABASE__URL"
# PostgreSQL counts in milliseconds, and takes 0 for no limit.
_SHORTEST_LIMIT = 0.001
_LONGEST = 86_400
EXIT_CODES = f"""exit codes:
  {EXIT_DONE}  done, and the service starts on this schema
  {EXIT_FAILED}  the database refused, was away, or a lock was not to be had; nothing half-done is left
  {EXIT_USAGE}  the command line or the settings are wrong
  {EXIT_MISMATCH}  the schema is not one that this release works with
"""


def parser(name: str, *, description: str, examples: str) -> argparse.ArgumentParser:
    """A parser with what every command has: `--database-url`, examples, exit codes."""
    made = argparse.ArgumentParser(
        prog=f"python -m app.migrations.{name}",
        description=description,
        epilog=f"examples:\n{examples}\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--database-url",
        metavar="URL",
        help=f"`postgresql://user@host/name`; by default the setting {VARIABLE} (better: a password on a command "
        "line is seen by every user of the machine)",
    )
    return made


def seconds(text: str) -> float:
    """What an option says, 0 to a day. Raises `argparse.ArgumentTypeError`: to `nan` no time ever comes to an end."""
    return _between(text, 0)


def _limit(text: str) -> float:
    return _between(text, _SHORTEST_LIMIT)


def _between(text: str, least: float) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not least <= found <= _LONGEST:
        raise argparse.ArgumentTypeError(f"`{text}` is no number of seconds from {least:g} to {_LONGEST}")
    return found


def add_timeouts(to: argparse.ArgumentParser, *, lock: float, statement: float) -> None:
    """The two limits of a command that changes the schema, in seconds."""
    to.add_argument(
        "--lock-timeout",
        type=_limit,
        default=lock,
        metavar="SECONDS",
        help=f"longest wait for a table (default {lock:g})",
    )
    to.add_argument(
        "--statement-timeout",
        type=_limit,
        default=statement,
        metavar="SECONDS",
        help=f"longest time of one statement (default {statement:g})",
    )


def database_url(given: str | None) -> str:
    """The DSN from the command line, else from the settings; FirewallError (INVALID_SETTINGS) if neither has one."""
    if given:
        return given
    # A migration job has the database's settings and no others, so only their rules count here.
    url = Settings.load(rules_for={"database"}).database.command_url()
    if url is None:
        raise FirewallError(
            Kind.INVALID_SETTINGS,
            "no database is named",
            fix=f"set {VARIABLE}, or give `--database-url postgresql://user:password@host/name`",
        )
    return url


def run(work: "Callable[[str], Coroutine[Any, Any, Status]]", *, given: str | None) -> int:
    """Do it on the database that was named, say how it went, and give the exit code."""
    try:
        found = asyncio.run(work(database_url(given)))
    except SettingsError as error:
        for problem in error.problems:
            sys.stderr.write(f"error: {problem.variable}: {problem.detail}\n  fix: {problem.fix}\n")
        return EXIT_USAGE
    except FirewallError as error:
        sys.stderr.write(f"error: {error.detail}\n")
        if error.fix:
            sys.stderr.write(f"  fix: {error.fix}\n")
        return _exit_code(error.kind)
    say(found)
    return EXIT_DONE if found.served else EXIT_MISMATCH


def _exit_code(kind: Kind) -> int:
    match kind:
        case Kind.INVALID_SETTINGS | Kind.MALFORMED:
            return EXIT_USAGE
        case Kind.SCHEMA_MISMATCH:
            return EXIT_MISMATCH
        case _:
            return EXIT_FAILED


def say(status: Status) -> None:
    """Where the database stands and what to type next."""
    lines = [f"schema: {status.current or 'none'} (newest {status.newest})"]
    if status.pending:
        lines.append(f"pending: {', '.join(status.pending)}")
    if status.later and status.served:
        lines.append("a later release made it; the service starts on this schema")
    elif status.served:
        lines.append(f"the service starts on this schema (it takes {status.minimum} to {status.maximum})")
    else:
        lines.append(f"the service does not start on this schema (it takes {status.minimum} to {status.maximum})")
    if status.pending and status.served:
        lines.append("next, when no replica of a release before runs any more: python -m app.migrations.apply")
    elif status.pending:
        lines.append("next: python -m app.migrations.apply")
    sys.stdout.write("\n".join(lines) + "\n")
