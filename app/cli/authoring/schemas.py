"""`mfw policies schema`: JSON Schemas for editors."""

import json
from difflib import get_close_matches
from pathlib import Path

from app.cli.exits import ExitCode
from app.cli.output import Refused, console, write_json
from app.policies.kinds import KINDS
from app.policies.schema import file_name, schema


def run_schema(kind: str | None, *, write: Path | None) -> None:
    """Write the schema of one kind to standard output, or those of all kinds into a directory."""
    if kind is not None and kind not in KINDS:
        near = get_close_matches(kind, KINDS, n=1)
        fix = f"did you mean `{near[0]}`?" if near else "there are " + ", ".join(f"`{name}`" for name in KINDS)
        raise Refused(ExitCode.USAGE, f"there is no kind `{kind}`", fix=fix)
    kinds = [kind] if kind is not None else list(KINDS)
    if write is None:
        write_json(schema(kinds[0]) if kind is not None else {name: schema(name) for name in kinds})
        return
    for name in kinds:
        file = write / file_name(name)
        try:
            file.write_text(json.dumps(schema(name), indent=2) + "\n")
        except OSError as error:
            reason = (error.strerror or type(error).__name__).lower()
            raise Refused(ExitCode.NO_INPUT, f"cannot write `{file}`: {reason}") from error
        console().file.write(f"{file}\n")
