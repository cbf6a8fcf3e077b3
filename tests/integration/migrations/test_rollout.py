"""While the next release is rolled out, this one serves; and when that has cleaned up behind itself, it does not."""

import asyncio
import os
import shutil
import sys
import textwrap
import time
from contextlib import contextmanager
from pathlib import Path
from subprocess import run

import asyncpg
import pytest

from app.core.integrity import IntegrityCheck
from app.errors import FirewallError, Kind
from app.migrations import apply, schema
from app.ops import integrity
from app.persistence import revision
from app.persistence.engine import create_engine
from tests.integration.service.conftest import apart, running

ROOT = Path(__file__).resolve().parents[3]
BODY = (ROOT / "examples" / "allow-k8s-deployment-scaled.json").read_bytes()
JSON = {"Content-Type": "application/json"}

KNOWN = revision.MAXIMUM_REVISION
PRE, POST, LATER = (f"{int(KNOWN) + step:04}" for step in (1, 2, 3))

MIGRATION = '''
"""{what}."""

from alembic import op

revision = "{revision}"
down_revision = "{before}"
branch_labels = None
depends_on = None
{needs}

def upgrade():
    for statement in "{up}".split("; "):
        op.execute(statement)


def downgrade():
    for statement in "{down}".split("; "):
        op.execute(statement)
'''


def migration(folder, phase, number, *, up, down, needs=None):
    text = textwrap.dedent(MIGRATION).format(
        what=phase,
        revision=number,
        before=f"{int(number) - 1:04}",
        up=up,
        down=down,
        needs="" if needs is None else f'needs = "{needs}"\n',
    )
    (folder / "versions" / f"{number}_{phase}_next.py").write_text(text)


@pytest.fixture(scope="module")
def migrations_of_the_next_release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("next") / "migrations"
    shutil.copytree(schema.FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    migration(
        folder,
        "pre",
        PRE,
        up="CREATE TABLE approvals (id uuid PRIMARY KEY); CREATE INDEX approvals_id ON approvals (id, id);"
        " ALTER TABLE api_keys ADD COLUMN team text; ALTER TABLE ledger_entries ADD COLUMN shard int DEFAULT 0",
        down="ALTER TABLE ledger_entries DROP COLUMN shard; ALTER TABLE api_keys DROP COLUMN team; DROP TABLE approvals",
    )
    migration(
        folder,
        "post",
        POST,
        up="ALTER TABLE ledger_entries ALTER COLUMN shard SET NOT NULL, ALTER COLUMN shard DROP DEFAULT",
        down="ALTER TABLE ledger_entries ALTER COLUMN shard DROP NOT NULL, ALTER COLUMN shard SET DEFAULT 0",
        needs=PRE,
    )
    migration(folder, "pre", LATER, up="CREATE TABLE more (n int)", down="DROP TABLE more")
    return folder


@pytest.fixture
def next_release(monkeypatch, migrations_of_the_next_release):
    """As the next release is: its folder and its bounds; only inside of the block, for the rest is of this one."""

    @contextmanager
    def release(*, minimum=PRE, maximum=LATER):
        with monkeypatch.context() as patch:
            patch.setattr(schema, "FOLDER", migrations_of_the_next_release)
            # Not those of `revision`: the service of this process goes by them.
            patch.setattr(schema, "MINIMUM_REVISION", minimum)
            patch.setattr(schema, "MAXIMUM_REVISION", maximum)
            yield

    return release


def decides_reads_and_verifies(service):
    """What a release is accepted by: a decision, its record, and the entry's place in the log."""
    with service.client() as client:
        answer = client.post("/v1/decisions", content=BODY, headers=JSON)
        assert answer.status_code == 200, answer.text
        made = answer.json()
        assert made["decision"] == "allow"
    with service.client(key=service.admin_key) as admin:
        assert admin.get(f"/v1/decisions/{made['id']}").json()["id"] == made["id"]
    assert str(made["id"]) == service.entries()[-1][1]
    # A look at all that is stored, as the daily job takes it.
    report = apart(integrity.run(service.dsn, integrity.Wanted(pace=1.0, record=False)))
    assert report.entries == len(service.entries())
    # The fixture puts its keys into the table by itself.
    assert {one.check for one in report.findings} == {IntegrityCheck.KEYS}


def seen(service, found, *, ready):
    """Wait until readiness is this, and health names this revision: a report is up to a second old."""
    deadline = time.monotonic() + 60
    with service.client(key=service.operator_key) as client:
        while True:
            answer = client.get("/health/ready")
            report = client.get("/health/detailed").json()
            if answer.status_code == (200 if ready else 503) and found in report["components"]["database"]["detail"]:
                return
            assert time.monotonic() < deadline, report
            time.sleep(0.1)


async def starts(dsn):
    """What `mfw serve` asks before it does anything."""
    engine = create_engine(dsn, pool_size=1)
    try:
        await revision.check(engine)
    finally:
        await engine.dispose()


def test_this_release_serves_while_the_next_one_is_rolled_out(database_dsn, next_release):
    with running(database_dsn) as service:
        decides_reads_and_verifies(service)
        with next_release():
            before = apart(schema.apply(database_dsn, before_rollout=True))
        assert (before.current, before.pending, before.served) == (PRE, (POST, LATER), True)
        seen(service, PRE, ready=True)
        decides_reads_and_verifies(service)
        # A pod of this release that is started anew meanwhile, by a node that went, comes up as well.
        with running(database_dsn) as another:
            seen(another, PRE, ready=True)
            decides_reads_and_verifies(another)
        with next_release():
            after = apart(schema.apply(database_dsn))
        assert (after.current, after.pending, after.served) == (LATER, (), True)
        seen(service, LATER, ready=False)
        with pytest.raises(FirewallError, match=f"works up to `{KNOWN}`"):
            apart(starts(database_dsn))
        with next_release():
            apart(schema.rollback(database_dsn, PRE))
        seen(service, PRE, ready=True)
        decides_reads_and_verifies(service)


@pytest.fixture
def checkout_of_the_next_release(tmp_path, migrations_of_the_next_release):
    """Its code as far as its migration job needs it: another migration before the rollout, and bounds that know it."""
    for name in ("app", "migrations"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(
        migrations_of_the_next_release / "versions" / f"{PRE}_pre_next.py", tmp_path / "migrations" / "versions"
    )
    bounds = tmp_path / "app" / "persistence" / "revision.py"
    bounds.write_text(bounds.read_text().replace(f'_REVISION = "{KNOWN}"', f'_REVISION = "{PRE}"'))
    return tmp_path


@pytest.mark.timeout(900)
def test_what_this_release_is_accepted_by_passes_on_the_schema_of_the_next(checkout_of_the_next_release):
    own = ("PYTEST_", "COV_", "COVERAGE_")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    done = run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-s", "-n", "0", "-p", "no:cacheprovider", "--no-cov"),
            "tests/integration/service/test_decisions.py",
        ],
        cwd=ROOT,
        env={**environ, "MFW_TEST_NEXT_RELEASE": str(checkout_of_the_next_release)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert f"schema: {PRE} (newest {PRE})" in done.stdout, "it ran on the schema of this release"


async def written(dsn):
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch("SELECT revision, needs FROM schema_revisions ORDER BY 1")
    finally:
        await connection.close()
    return [tuple(row) for row in rows]


async def test_each_migration_writes_what_it_needs_and_takes_it_back(database_dsn, next_release):
    assert await written(database_dsn) == [(KNOWN, KNOWN)]
    with next_release():
        await schema.apply(database_dsn)
        assert await written(database_dsn) == [(KNOWN, KNOWN), (PRE, KNOWN), (POST, PRE), (LATER, PRE)]
        await schema.rollback(database_dsn, PRE)
        assert await written(database_dsn) == [(KNOWN, KNOWN), (PRE, KNOWN)]
        await schema.rollback(database_dsn, "0011")
        await schema.apply(database_dsn)
    assert await written(database_dsn) == [(KNOWN, KNOWN), (PRE, KNOWN), (POST, PRE), (LATER, PRE)]


async def test_the_job_of_this_release_leaves_a_later_schema_alone_that_it_works_with(
    database_dsn, next_release, capsys
):
    with next_release():
        await schema.apply(database_dsn, revision=PRE)
    # A rollback of the release: its job runs again.
    assert await asyncio.to_thread(apply.main, ["--before-rollout", "--database-url", database_dsn]) == 0
    assert "a later release made it; the service starts on this schema" in capsys.readouterr().out
    assert await asyncio.to_thread(apply.main, ["--database-url", database_dsn]) == 0
    with next_release():
        await schema.apply(database_dsn, revision=POST)
    capsys.readouterr()
    for more in (["--before-rollout"], []):
        assert await asyncio.to_thread(apply.main, [*more, "--database-url", database_dsn]) == 3
        assert f"at revision `{POST}`, which this release does not know" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["DELETE FROM schema_revisions", "DROP TABLE schema_revisions"])
async def test_a_later_schema_that_does_not_say_what_it_needs_is_refused(database_dsn, next_release, missing):
    with next_release():
        await schema.apply(database_dsn, revision=PRE)
    assert (await schema.status(database_dsn)).served
    connection = await asyncpg.connect(database_dsn)
    await connection.execute(missing)
    await connection.close()
    assert not (await schema.status(database_dsn)).served
    with pytest.raises(FirewallError) as caught:
        await schema.apply(database_dsn)
    assert caught.value.kind is Kind.SCHEMA_MISMATCH


async def test_before_a_rollout_an_empty_database_gets_everything(empty_database_dsn, next_release):
    with next_release():
        assert (await schema.apply(empty_database_dsn, before_rollout=True)).current == LATER


async def test_a_release_is_not_skipped_while_the_one_before_runs(database_dsn, next_release):
    with next_release(minimum=LATER):
        with pytest.raises(FirewallError) as caught:
            await schema.apply(database_dsn, before_rollout=True)
        assert caught.value.kind is Kind.SCHEMA_MISMATCH
        assert f"`{POST}`" in caught.value.detail
        assert f"`{PRE}` runs any more" in str(caught.value.fix)
        # Nothing was done: what runs goes on.
        assert (await schema.status(database_dsn)).current == KNOWN
        # What the fix says.
        await schema.apply(database_dsn, revision=POST)
        assert (await schema.apply(database_dsn, before_rollout=True)).current == LATER


def test_both_ends_at_once_are_no_command():
    command = [sys.executable, "-m", "app.migrations.apply", "--before-rollout", "--to", "0001"]
    assert run(command, cwd=ROOT, capture_output=True, check=False).returncode == 2
