"""Which migrations there are, and what a release has to know to work with the schema after each."""

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from alembic.script import ScriptDirectory

# Migration 0012 makes the table in which the others write what they need. Releases that know less do not read it.
FIRST_NEEDED: Final = "0012"
_NAME: Final = re.compile(r"(\d{4})_(pre|post)_[a-z0-9_]+\.py")


class Phase(StrEnum):
    """When a migration may be applied: while the release before runs, or when that is gone."""

    PRE = "pre"
    POST = "post"


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration; a release works with the schema after it if it knows the revision `needs`, four digits."""

    revision: str
    phase: Phase
    needs: str


def read_migrations(script: ScriptDirectory) -> tuple[Migration, ...]:
    """Every migration there is, oldest first.

    A `pre` migration needs what the one before it needs. A `post` migration says itself, as `needs`, which revision a
    release has to know. Raises ValueError for one that keeps to neither.
    """
    found: list[Migration] = []
    needs = FIRST_NEEDED
    for one in reversed(list(script.walk_revisions())):
        name = _NAME.fullmatch(Path(one.path).name)
        if name is None or name[1] != one.revision:
            raise ValueError(f"migration `{one.revision}` is not in a file like `{one.revision}_pre_what_it_does.py`")
        phase = Phase(name[2])
        said = getattr(one.module, "needs", None)
        if (said is not None) is not (phase is Phase.POST):
            raise ValueError(f"migration `{one.revision}`: `needs` stands in each `post` migration, and in no other")
        if said is not None:
            if not needs <= said <= one.revision:
                raise ValueError(
                    f"migration `{one.revision}` needs `{said}`, which is not between `{needs}` and itself"
                )
            needs = said
        found.append(Migration(one.revision, phase, needs))
    return tuple(found)
