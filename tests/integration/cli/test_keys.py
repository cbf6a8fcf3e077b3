"""`mfw keys`: a key is shown once, works, and stops working."""

import asyncio
import json

import asyncpg

from app.core.api_key import is_well_formed

MUTATION = json.dumps(
    {
        "subject": {"type": "agent", "id": "a"},
        "action": {"name": "update"},
        "resource": {"type": "box", "id": "b"},
        "change": {"after": {"size": 1}},
    }
)


def test_a_key_from_its_making_to_its_end(commands, database_dsn):
    settings = {"MFW_DATABASE__URL": database_dsn}
    made = commands.run(
        "keys", "create", "ci", "--role", "agent", "--role", "viewer", "--expires-in-days", 2, **settings
    )
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    assert key.startswith("mfw_")
    assert made.stdout == f"{key}\n"
    assert "agent, viewer" in made.stderr
    (listed,) = json.loads(commands.run("keys", "list", "--json", **settings).stdout)
    assert listed["name"] == "ci"
    assert listed["principal_id"] == "ci"
    assert listed["expires_at"] is not None
    assert key not in str(listed)
    shown = commands.run("keys", "list", **settings).stdout
    assert listed["id"] in shown
    assert key not in shown
    revoked = commands.run("keys", "revoke", listed["id"], **settings)
    assert revoked.returncode == 0
    assert "revoked" in revoked.stdout
    assert "there are no keys" in commands.run("keys", "list", **settings).stdout
    assert "revoked" in commands.run("keys", "list", "--all", **settings).stdout


def test_a_key_with_bounds_is_rotated_and_the_ledger_says_so(commands, database_dsn):
    settings = {"MFW_DATABASE__URL": database_dsn}
    arguments = ["--scope", "decide", "--subject", "agent:deploy-*", "--network", "10.0.0.0/8", "--reason", "ticket 7"]
    made = commands.run("keys", "create", "ci", *arguments, "--json", **settings)
    first = json.loads(made.stdout)
    assert (first["roles"], first["scopes"]) == ([], ["decide"])
    assert (first["subjects"], first["networks"]) == (["agent:deploy-*"], ["10.0.0.0/8"])
    rotated = commands.run("keys", "rotate", first["id"], "--grace-hours", 1, **settings)
    assert rotated.returncode == 0, rotated.stderr
    assert rotated.stdout.startswith("mfw_")
    assert first["id"] in rotated.stderr
    assert "as agent:deploy-*, from 10.0.0.0/8" in " ".join(rotated.stderr.split())
    old, new = json.loads(commands.run("keys", "list", "--json", **settings).stdout)
    assert (old["id"], new["replaces"]) == (first["id"], first["id"])
    assert old["expires_at"] is not None
    assert new["expires_at"] is None
    assert commands.run("keys", "revoke", old["id"], "--reason", "leaked", **settings).returncode == 0
    again = json.loads(commands.run("keys", "rotate", new["id"], "--json", **settings).stdout)
    assert again["replaced"]["id"] == new["id"]

    async def records():
        connection = await asyncpg.connect(database_dsn)
        rows = await connection.fetch(
            "SELECT kind, record FROM ledger_entries JOIN ledger_records USING (idx) ORDER BY idx"
        )
        await connection.close()
        return [(row["kind"], json.loads(row["record"])) for row in rows]

    entries = asyncio.run(records())
    assert [(kind, record["act"]) for kind, record in entries] == [
        ("key", "create"),
        ("key", "rotate"),
        ("key", "revoke"),
        ("key", "rotate"),
    ]
    assert [record["reason"] for _, record in entries] == [
        "ticket 7",
        "by hand, with `mfw keys`",
        "leaked",
        "by hand, with `mfw keys`",
    ]
    assert first["key"] not in str(entries)


def test_the_last_administrator_needs_force(commands, database_dsn):
    settings = {"MFW_DATABASE__URL": database_dsn}
    made = json.loads(commands.run("keys", "create", "boss", "--role", "admin", "--json", **settings).stdout)
    refused = commands.run("keys", "revoke", made["id"], **settings)
    assert refused.returncode == 1
    assert "force" in refused.stderr
    assert commands.run("keys", "revoke", made["id"], "--force", **settings).returncode == 0


def test_a_key_for_later_needs_no_database(commands):
    made = commands.run("keys", "generate")
    assert is_well_formed(made.stdout.strip())
    assert "BOOTSTRAP" in made.stderr
    assert is_well_formed(json.loads(commands.run("keys", "generate", "--json").stdout)["key"])


def test_it_works_at_the_running_service(commands, service):
    made = json.loads(
        commands.run("keys", "create", "agent", "--principal", "agent-7", "--json", **service.settings).stdout
    )
    assert made["principal_id"] == "agent-7"
    assert made["roles"] == ["agent"]
    # The service asks the database about unknown keys at most once a second; a wrong key of another test may count.
    codes: list[int] = []
    while len(codes) < 20 and codes[-1:] != [10]:
        asked = commands.run("decide", "-f", "-", stdin=MUTATION, MFW_URL=service.url, MFW_API_KEY=made["key"])
        codes.append(asked.returncode)
    assert set(codes[:-1]) <= {77}
    assert codes[-1] == 10


def test_a_key_that_is_not_there(commands, database_dsn):
    result = commands.run(
        "keys", "revoke", "00000000-0000-4000-8000-000000000000", "--json", MFW_DATABASE__URL=database_dsn
    )
    assert result.returncode == 1
    assert json.loads(result.stdout)["error"]["kind"] == "not-found"


def test_a_name_that_cannot_be(commands, database_dsn):
    result = commands.run("keys", "create", "", MFW_DATABASE__URL=database_dsn)
    assert result.returncode == 65
    assert "`name`" in result.stderr


def test_a_database_without_a_schema(commands, empty_database_dsn):
    result = commands.run("keys", "list", MFW_DATABASE__URL=empty_database_dsn)
    assert result.returncode == 76
    assert "python -m app.migrations.apply" in result.stderr


def test_a_database_that_is_not_there(commands):
    result = commands.run(
        "keys", "list", MFW_DATABASE__URL=f"postgresql://u:rT7pw2Kx9QzLm4VbN8sY@127.0.0.1:{commands.free_port()}/x"
    )
    assert result.returncode == 69
    assert "rT7pw2" not in result.stderr
    assert "Traceback" not in result.stderr


def test_with_no_service_running_the_database_is_started_for_the_moment(commands, state):
    settings = {"MFW_STATE_DIR": str(state)}
    with commands.development(state) as service:
        assert service.process.stop(2) == 0
    listed = commands.run("keys", "list", "--json", **settings)
    assert listed.returncode == 0, listed.stderr
    assert [key["name"] for key in json.loads(listed.stdout)] == ["development"]
