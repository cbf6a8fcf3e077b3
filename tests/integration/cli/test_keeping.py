"""`mfw ledger partitions` and what else keeps the ledger in order."""

import asyncio
import json
from datetime import UTC, datetime

import asyncpg

from app.core.months import Month


def test_partitions_are_made(commands, database_dsn):
    settings = {"MFW_DATABASE__URL": database_dsn}
    made = commands.run("ledger", "partitions", "--ahead", 5, **settings)
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("made ledger_") >= 2
    assert "this month and the 5 after it" in made.stdout
    again = commands.run("ledger", "partitions", "--ahead", 5, "--json", **settings)
    assert json.loads(again.stdout) == {"made": [], "moved": 0}


def test_a_database_that_is_away_has_its_exit_code(commands):
    refused = commands.run("ledger", "partitions", MFW_DATABASE__URL="postgresql://u@/d?host=/nowhere")
    assert refused.returncode == 69
    assert "cannot be reached" in refused.stderr


def test_the_integrity_of_a_database_is_checked(commands, database_dsn):
    settings = {"MFW_DATABASE__URL": database_dsn}
    commands.run("keys", "create", "ci", **settings)
    clean = commands.run("integrity", "check", "--json", **settings)
    assert clean.returncode == 0, clean.stdout
    assert json.loads(clean.stdout)["clean"]
    assert "nothing was found" in commands.run("integrity", "check", "--sample", 5, **settings).stdout

    async def put_a_key_there():
        connection = await asyncpg.connect(database_dsn)
        await connection.execute(
            "INSERT INTO api_keys (id, name, principal_id, roles, hash)"
            " VALUES (gen_random_uuid(), E'\\x1b[31mevil', 'x', '{admin}', sha256('x'))"
        )
        await connection.close()

    asyncio.run(put_a_key_there())
    found = commands.run("integrity", "check", "--no-record", **settings)
    assert found.returncode == 1
    assert "1 check found something" in found.stdout
    assert "\\x1b[31mevil" in found.stdout
    (finding,) = json.loads(commands.run("integrity", "check", "--json", **settings).stdout)["findings"]
    assert (finding["check"], finding["severity"], finding["count"]) == ("keys", "major", 1)


def test_backups_from_the_first_to_the_restore(commands, database_dsn, empty_database_dsn, tmp_path):
    settings = {"MFW_DATABASE__URL": database_dsn}
    where = ("--dir", tmp_path / "backups")
    commands.run("keys", "create", "ci", **settings)
    early = ("backup", "create", "--before-migration", *where)
    assert "nothing to back up" in commands.run(*early, MFW_DATABASE__URL=empty_database_dsn).stdout
    assert json.loads(commands.run(*early, "--json", MFW_DATABASE__URL=empty_database_dsn).stdout) == {}
    made = commands.run("backup", "create", *where, **settings)
    assert made.returncode == 0, made.stderr
    assert "1 entries" in made.stdout
    (listed,) = json.loads(commands.run("backup", "list", *where, "--json").stdout)
    assert listed["name"] in commands.run("backup", "list", *where).stdout
    assert listed["ledger"]["size"] == 1
    assert "can be read" in commands.run("backup", "verify", *where).stdout
    assert json.loads(commands.run("backup", "verify", *where, "--deep", "--json", **settings).stdout)["whole"]
    refused = commands.run("backup", "restore", "latest", *where, **settings)
    assert refused.returncode == 1
    assert "not empty" in refused.stderr
    restored = commands.run("backup", "restore", "latest", *where, MFW_DATABASE__URL=empty_database_dsn)
    assert restored.returncode == 0, restored.stderr
    assert "1 entries, verified one by one" in restored.stdout
    assert "docs/operations.md" in restored.stderr
    again = commands.run("backup", "create", *where, "--json", **settings)
    assert json.loads(again.stdout)["pruned"] == []


def test_months_are_archived_and_brought_back(commands, database_dsn, tmp_path):
    settings = {"MFW_DATABASE__URL": database_dsn}
    where = tmp_path / "archive"
    commands.run("keys", "create", "ci", **settings)
    last = Month.of(datetime.now(UTC)).after(-1)

    async def as_if_a_month_ago():
        connection = await asyncpg.connect(database_dsn)
        for table in ("ledger_records", "ledger_entries"):
            await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        await connection.execute(
            f"CREATE TABLE ledger_records_{last.suffix} PARTITION OF ledger_records"
            f" FOR VALUES FROM ('{last.starts}') TO ('{last.ends}')"
        )
        for table in ("ledger_entries", "ledger_records"):
            await connection.execute(f"UPDATE {table} SET recorded_at = '{last.starts}'")
        await connection.close()

    asyncio.run(as_if_a_month_ago())
    this_month = str(last.after(1))
    done = commands.run("ledger", "archive", "--before", this_month, "--to", where, **settings)
    assert done.returncode == 0, done.stderr
    assert f"{last}: 1 records, detached, in ledger_records_{last.suffix}-0-0-1.ndjson.zst" in done.stdout
    again = commands.run("ledger", "archive", "--before", this_month, "--to", where, "--drop", "--json", **settings)
    assert json.loads(again.stdout)[0]["dropped"]
    assert (
        "nothing before" in commands.run("ledger", "archive", "--before", this_month, "--to", where, **settings).stdout
    )
    back = commands.run("ledger", "unarchive", str(last), "--from", where, **settings)
    assert "1 records are back" in back.stdout, back.stderr
    refused = commands.run("ledger", "unarchive", "2026-13", "--from", where, **settings)
    assert refused.returncode == 65
    refused = commands.run("ledger", "unarchive", str(last), "--from", where, "--json", **settings)
    assert "are there" in json.loads(refused.stdout)["error"]["detail"]
