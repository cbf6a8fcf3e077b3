"""What the commands for authors read: mutations, policies, instants."""

from datetime import UTC, datetime
from pathlib import Path

from app.cli.authoring.check import show
from app.cli.decide import read_mutation
from app.cli.exits import ExitCode
from app.cli.output import Refused
from app.core import strict_json
from app.core.index import CompiledPolicySet
from app.core.normalise import normalise
from app.core.types import NormalisedMutation
from app.errors import FirewallError
from app.policies.diagnostics import PolicyErrors
from app.policies.load import Checked, check_directory
from app.surfaces.native.wire import mutation_from_wire


def read_normalised(file: str) -> NormalisedMutation:
    """Read a mutation from a file, `-` for standard input, as the service would. Raises `Refused`."""
    try:
        return normalise(mutation_from_wire(strict_json.parse(read_mutation(file)).tree))
    except FirewallError as error:
        where = f" at `{error.pointer}`" if error.pointer else ""
        raise Refused(ExitCode.BAD_DATA, f"`{file}`: {error.detail}{where}", fix=error.fix) from error


def read_policies(directory: Path, *, as_json: bool) -> tuple[Checked, CompiledPolicySet]:
    """Load a directory, or show what is wrong with it and raise `PolicyErrors`."""
    checked = check_directory(directory)
    if checked.policy_set is None:
        if not as_json:
            show(checked.diagnostics, directory=directory, sources=checked.sources)
        raise PolicyErrors(checked.diagnostics)
    return checked, checked.policy_set


def read_instant(text: str | None) -> datetime:
    """Read `--now`; without it, the clock. Raises `Refused`."""
    if text is None:
        return datetime.now(UTC)
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise Refused(ExitCode.USAGE, f"`{text[:40]}` is not an instant", fix="write it as 2026-03-13T12:00:00Z")
    return instant.astimezone(UTC)
