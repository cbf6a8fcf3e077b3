"""${message}.

Say `pre` in the file's name when running code of the release before can live with it (it runs before the new code starts),
`post` when only the new code can (it runs after the old code is gone). A `post` migration has another line below:
`needs: str = "..."`, the newest revision that a release has to know to work with what it makes.
"""

import sqlalchemy as sa
from alembic import op

revision: str = ${repr(up_revision)}
down_revision: str | None = ${repr(down_revision)}
branch_labels: None = None
depends_on: None = None


def upgrade() -> None:
    ${upgrades if upgrades else "raise AssertionError"}


def downgrade() -> None:
    ${downgrades if downgrades else "raise AssertionError"}
