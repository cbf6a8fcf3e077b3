"""Keys of signed notes as files: the private one for its owner alone, the public one beside it."""

import os
from pathlib import Path

from app.cli.exits import ExitCode
from app.cli.output import Refused
from app.core.notes import SignerKey


def write_pair(key: SignerKey, out: Path) -> Path:
    """Write the private key and, with `.pub` behind the name, the public one; gives where that is.

    Raises `Refused`; never touches a file that is there.
    """
    public = out.with_name(f"{out.name}.pub")
    try:
        for file, text, mode in ((out, key.text, 0o600), (public, key.verifier.text, 0o644)):
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
            with os.fdopen(descriptor, "w") as stream:
                stream.write(f"{text}\n")
    except FileExistsError as error:
        raise Refused(
            ExitCode.NO_INPUT,
            f"`{error.filename}` is there already, and a key is never overwritten",
            fix="choose another --out",
        ) from error
    except OSError as error:
        reason = (error.strerror or "unknown reason").lower()
        raise Refused(ExitCode.NO_INPUT, f"cannot write `{error.filename}`: {reason}", fix="check the path") from error
    return public
