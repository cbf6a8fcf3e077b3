"""What each migration says about releases that do not know it."""

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from app.migrations import schema
from app.migrations.phases import FIRST_NEEDED, Migration, Phase, read_migrations
from app.persistence.revision import MAXIMUM_REVISION, MINIMUM_REVISION


def script(tmp_path, *files):
    """A folder of migrations: file name, revision, and what is said as `needs`."""
    (tmp_path / "versions").mkdir()
    before = None
    for name, revision, needs in files:
        text = f"revision = {revision!r}\ndown_revision = {before!r}\n"
        (tmp_path / "versions" / name).write_text(text if needs is None else f"{text}needs = {needs!r}\n")
        before = revision
    config = Config()
    config.set_main_option("script_location", str(tmp_path))
    config.set_main_option("path_separator", "os")
    return ScriptDirectory.from_config(config)


def test_what_each_needs(tmp_path):
    found = read_migrations(
        script(
            tmp_path,
            ("0013_pre_a.py", "0013", None),
            ("0014_post_b.py", "0014", "0013"),
            ("0015_pre_c.py", "0015", None),
            ("0016_post_d.py", "0016", "0016"),
        )
    )
    assert found == (
        Migration("0013", Phase.PRE, FIRST_NEEDED),
        Migration("0014", Phase.POST, "0013"),
        Migration("0015", Phase.PRE, "0013"),
        Migration("0016", Phase.POST, "0016"),
    )


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([("0013_maybe_a.py", "0013", None)], "is not in a file like"),
        ([("0013_pre.py", "0013", None)], "is not in a file like"),
        ([("0014_pre_a.py", "0013", None)], "is not in a file like"),
        ([("0013_pre_a.py", "0013", "0013")], "and in no other"),
        ([("0013_post_a.py", "0013", None)], "stands in each `post` migration"),
        ([("0013_post_a.py", "0013", "0014")], "not between"),
        ([("0013_post_a.py", "0013", "0011")], "not between"),
        ([("0013_post_a.py", "0013", "0013"), ("0014_post_b.py", "0014", "0012")], "not between `0013`"),
    ],
)
def test_one_that_keeps_to_neither_is_refused(tmp_path, files, said):
    with pytest.raises(ValueError, match=said):
        read_migrations(script(tmp_path, *files))


def test_this_release_needs_its_last_pre_migration_and_knows_its_last():
    found = schema.migrations()
    assert found[-1].revision == MAXIMUM_REVISION
    assert max(one.revision for one in found if one.phase is Phase.PRE) == MINIMUM_REVISION
    # No migration of this release asks for a release that comes after it.
    assert found[-1].needs <= MAXIMUM_REVISION
