"""The two roles of `docs/database.md`: the service does its work as one that owns nothing."""

import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from app.migrations import schema
from app.ops import integrity
from tests.integration.conftest import _execute, _run, with_database
from tests.integration.service.conftest import apart, running

ROOT = Path(__file__).resolve().parents[3]
BODY = (ROOT / "examples" / "allow-k8s-deployment-scaled.json").read_bytes()
PAGE = (ROOT / "docs" / "database.md").read_text()


def as_role(dsn: str, role: str, password: str) -> str:
    parts = urlsplit(dsn)
    return urlunsplit(parts._replace(netloc=f"{role}:{password}@{parts.netloc.rpartition('@')[2]}"))


@pytest.fixture
def two_roles(server_dsn: str) -> Iterator[tuple[str, str]]:
    """DSNs of the owner and of the service, in a database that was made as the page says."""
    name, password = f"roles_{secrets.token_hex(6)}", secrets.token_hex(12)
    section = PAGE.partition("## Two roles\n")[2].partition("\n## ")[0]
    made, granted = (
        re.sub(r"\bfirewall\b", name, block.replace("firewall_owner", f"{name}_owner")).replace(
            "'...'", f"'{password}'"
        )
        for block in re.findall(r"```sql\n(.*?)```", section, re.DOTALL)
    )
    _run(_execute(server_dsn, *made.strip().splitlines()))
    there = with_database(server_dsn, name)
    try:
        _run(_execute(as_role(there, f"{name}_owner", password), *granted.strip().splitlines()))
        yield as_role(there, f"{name}_owner", password), as_role(there, name, password)
    finally:
        _run(_execute(server_dsn, f"DROP DATABASE {name} WITH (FORCE)"))
        _run(_execute(server_dsn, f"DROP ROLE {name}", f"DROP ROLE {name}_owner"))


def test_the_service_owns_nothing_and_does_its_work(two_roles: tuple[str, str]) -> None:
    owner, own = two_roles
    apart(schema.apply(owner))
    with running(own) as service:
        with service.client() as client:
            once = {"Content-Type": "application/json", "Idempotency-Key": "0b6f1f0a-once"}
            answer = client.post("/v1/decisions", content=BODY, headers=once)
            assert (answer.status_code, answer.json()["decision"]) == (200, "allow"), answer.text
        with service.client(key=service.admin_key) as admin:
            assert admin.get("/health/ready").status_code == 200
            assert admin.get(f"/v1/decisions/{answer.json()['id']}").status_code == 200
            stopped = admin.post("/v1/switches", json={"kind": "deny-all", "reason": "a test"})
            assert stopped.status_code in {200, 201}, stopped.text
    assert apart(integrity.run(owner, integrity.Wanted(pace=1.0))).entries >= 1


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TRIGGER append_only ON ledger_entries",
        "ALTER TABLE ledger_entries DISABLE TRIGGER ALL",
        "DROP TABLE ledger_entries",
        "TRUNCATE ledger_entries",
        "SET session_replication_role = replica",
        "CREATE OR REPLACE FUNCTION ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    ],
)
def test_the_service_cannot_take_away_what_keeps_the_ledger(two_roles: tuple[str, str], statement: str) -> None:
    owner, own = two_roles
    apart(schema.apply(owner))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        _run(_execute(own, statement))
