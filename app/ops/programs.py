"""PostgreSQL's own programs: where they are, and how they are told where the database is without anybody seeing it."""

import asyncio
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from app.errors import FirewallError, Kind
from app.persistence.embedded import find_installation
from app.persistence.engine import APPLICATION_NAME, CONNECT_TIMEOUT, parse_dsn

# Where Debian keeps several releases side by side.
_DEBIAN: Final = Path("/usr/lib/postgresql")
_VERSION: Final = re.compile(rb"\(PostgreSQL\) (\d+)")
# Of what a program complains; the last lines are those that matter.
_OUTPUT_CHARACTERS_MAX: Final = 2000
# What a DSN may say, and the variable that says the same to libpq.
_VARIABLES: Final = {
    "host": "PGHOST",
    "port": "PGPORT",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslcrl": "PGSSLCRL",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "passfile": "PGPASSFILE",
}
_KEPT: Final = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "PGPASSFILE", "PGSSLROOTCERT")


async def find_program(name: str, *, major: int) -> Path:
    """A program of PostgreSQL of this major version, or else of the nearest later one.

    An older one refuses the server, and a later one may write what this server does not take. Raises FirewallError
    (UNAVAILABLE) where there is none.
    """
    found: dict[int, Path] = {}
    for candidate in _candidates(name):
        version = await _major(candidate)
        if version is not None:
            found.setdefault(version, candidate)
    fitting = sorted(version for version in found if version >= major)
    if not fitting:
        raise FirewallError(
            Kind.UNAVAILABLE,
            f"there is no `{name}` of PostgreSQL {major} or later here",
            fix=f"install PostgreSQL's client programs, on Debian `apt-get install postgresql-client-{major}`",
        )
    return found[fitting[0]]


def _candidates(name: str) -> Iterator[Path]:
    if (there := shutil.which(name)) is not None:
        yield Path(there)
    yield from sorted(_DEBIAN.glob(f"*/bin/{name}"))
    for version in (18, 16):
        try:
            yield find_installation(version=version).program(name)
        except FirewallError:
            continue


async def _major(program: Path) -> int | None:
    try:
        code, output = await execute([str(program), "--version"], environment=clean_environment())
    except OSError:
        return None
    said = _VERSION.search(output)
    return int(said[1]) if code == 0 and said else None


def clean_environment() -> dict[str, str]:
    """What a program may know of our environment: no secrets that are not meant for it."""
    return {name: os.environ[name] for name in _KEPT if name in os.environ} | {"LC_ALL": "C", "TZ": "UTC"}


@contextmanager
def told(dsn: str) -> Iterator[Mapping[str, str]]:
    """The environment that names a database; the password lies in a file that we alone can read, and only meanwhile.

    Everybody on the machine sees the arguments of a program. Raises as `parse_dsn`.
    """
    url = parse_dsn(dsn)
    environment = clean_environment()
    for name, variable in _VARIABLES.items():
        value = url.query.get(name)
        if value is not None:
            environment[variable] = value if isinstance(value, str) else ",".join(value)
    for variable, one in (
        ("PGHOST", url.host),
        ("PGPORT", url.port),
        ("PGUSER", url.username),
        ("PGDATABASE", url.database),
    ):
        if one is not None:
            environment[variable] = str(one)
    environment |= {"PGAPPNAME": f"{APPLICATION_NAME} backup", "PGCONNECT_TIMEOUT": str(int(CONNECT_TIMEOUT))}
    if url.password is None:
        yield environment
        return
    directory = Path(tempfile.mkdtemp(prefix="mfw-"))
    try:
        file = directory / "pgpass"
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as out:
            escaped = str(url.password).replace("\\", "\\\\").replace(":", "\\:")
            out.write(f"*:*:*:*:{escaped}\n")
        yield {**environment, "PGPASSFILE": str(file)}
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def execute(command: Sequence[str], *, environment: Mapping[str, str]) -> tuple[int, bytes]:
    """Run a program to its end; gives its exit code and what it said. It ends when we are cancelled. Raises OSError."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=dict(environment),
        # Whatever it writes is for its owner alone.
        umask=0o077,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, output


async def must(command: Sequence[str], *, environment: Mapping[str, str], what: str) -> bytes:
    """Run a program that must succeed. Raises FirewallError (UNAVAILABLE) with what it said."""
    try:
        code, output = await execute(command, environment=environment)
    except OSError as error:
        raise FirewallError(Kind.UNAVAILABLE, f"{what}: {(error.strerror or 'it cannot be run').lower()}") from error
    if code:
        said = output.decode("utf-8", "replace").strip()[-_OUTPUT_CHARACTERS_MAX:] or "it said nothing"
        raise FirewallError(Kind.UNAVAILABLE, f"{what}: `{Path(command[0]).name}` ended with {code}: {said}")
    return output
