"""What `mfw dev` keeps in files of its own: its API key, the ledger's key and, while it runs, its database's URL."""

import os
from pathlib import Path

from app.cli.exits import ExitCode
from app.cli.output import Refused
from app.settings import PREFIX, default_state_dir


def state_directory() -> Path:
    """The state directory in force, found without reading the other settings: they may be somebody else's business."""
    chosen = os.environ.get(f"{PREFIX}STATE_DIR")
    return Path(chosen) if chosen else default_state_dir()


def key_file(state_dir: Path) -> Path:
    """Where the key is: the same on each start, so that a command copied yesterday works today."""
    return state_dir / "api-key"


def database_file(state_dir: Path) -> Path:
    """Where the database's URL is while the development service runs."""
    return state_dir / "database-url"


def ledger_key_file(state_dir: Path) -> Path:
    """Where the key is that signs the development ledger."""
    return state_dir / "ledger.key"


def ledger_public_key_file(state_dir: Path) -> Path:
    """Where its public half is, for `mfw ledger verify`."""
    return state_dir / "ledger.key.pub"


def write_private(file: Path, text: str) -> None:
    """Write a file that its owner alone can read, whole or not at all."""
    scratch = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        os.fchmod(descriptor, 0o600)
        out.write(text)
    scratch.replace(file)


def read_private(file: Path) -> str | None:
    """What such a file says; None where there is none, or none for us."""
    try:
        return file.read_text().strip() or None
    except (OSError, ValueError):
        return None


def private_directory(state_dir: Path) -> Path:
    """The state directory, made if it is missing. Raises `Refused`."""
    # As root the database's server runs under a uid of its own, which has to get through to its directory.
    mode = 0o755 if os.geteuid() == 0 else 0o700
    try:
        state_dir.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(
            ExitCode.FAILED,
            f"cannot make the state directory `{state_dir}`: {(error.strerror or 'unknown reason').lower()}",
            fix="name another one with --state-dir or MFW_STATE_DIR",
        ) from error
    return state_dir
