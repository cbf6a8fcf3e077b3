"""What a RecordMask hides is nowhere in the database, and what is left can be derived and shown."""

import asyncio

import asyncpg
import orjson

from app.core.record_masks import commitment, salt_of
from app.ledger import receipt as receipts

POLICIES = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: guard}
spec:
  rules:
    - name: weak
      effect: deny
      when: "change.after.password.size() < 20"
      messageExpression: "'the password ' + change.after.password + ' is weak'"
      obligations: [{key: tell, valueExpression: "{'was': change.after.password}"}]
---
apiVersion: mutationfirewall.io/v1
kind: RecordMask
metadata: {name: secrets}
spec:
  masks:
    - {pointer: /**/password, action: hash}
    - {pointer: /rationale}
    - {pointer: /subject/properties/owner}
"""
SECRET = "correct-horse"
OWNER = "someone@example.com"
KEY = "qT7vK2pXw9sLm4RzB8nYc3JhD6gFt5Aa"
MUTATION = {
    "subject": {"type": "agent", "id": "a", "properties": {"owner": OWNER}},
    "action": {"name": "update"},
    "resource": {"type": "t", "id": "r"},
    "change": {"before": {"password": None}, "after": {"password": SECRET, "size": 1.0}},
    "rationale": f"because {SECRET}",
}


async def everything(dsn):
    """All that is in the database, as text, and the last entry."""
    connection = await asyncpg.connect(dsn)
    try:
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        rows = [await connection.fetch(f"SELECT * FROM {table['tablename']}") for table in tables]
        last = await connection.fetchrow(
            "SELECT receipt, salt, record FROM ledger_entries JOIN ledger_records USING (idx) ORDER BY idx DESC LIMIT 1"
        )
        return repr(rows), last
    finally:
        await connection.close()


def test_what_is_hidden_is_nowhere(serve, database_dsn, tmp_path, capfd):
    (tmp_path / "p.yaml").write_text(POLICIES)
    directory = {"MFW_POLICIES__DIRECTORY": str(tmp_path), "MFW_LEDGER__MASK_KEY": KEY}
    with serve(database_dsn, **directory, MFW_LOGGING__LEVEL="debug") as service, service.client() as client:
        answer = client.post("/v1/decisions", json=MUTATION).json()
        batch = client.post("/v1/decisions:batch", json={"mutations": [MUTATION, MUTATION]})
    assert batch.status_code == 200, batch.text
    # The caller sent it, and is told.
    assert SECRET in answer["reasons"][0]["message"]
    text, last = asyncio.run(everything(database_dsn))
    for hidden in (SECRET, OWNER, "because"):
        assert hidden not in text
        assert hidden.encode().hex() not in text
    out = capfd.readouterr()
    assert SECRET not in out.out + out.err
    # What could be tried out is not there either: the digest is of what is left.
    assert answer["mutation_digest"] not in text
    record = orjson.loads(last["record"])
    assert receipts.record_digest(last["salt"], last["record"]) == receipts.parse(last["receipt"])["record"]
    assert record["mutation"] == receipts.parse(last["receipt"])["mutation"]
    assert record["input"]["change"]["after"] == {"password": "***", "size": 1.0}
    assert record["rationale"] == "***"
    assert record["reasons"][0]["message"] == "the password *** is weak"
    assert record["obligations"][0]["value"] == {"was": "***"}
    masked = {one["pointer"]: one for one in record["masked"]}
    assert sorted(masked) == ["/change/after/password", "/rationale", "/subject/properties/owner"]
    assert "commitment" not in masked["/rationale"]
    # Whoever has the key can show this one value.
    salt = salt_of(KEY.encode(), record["id"], "/change/after/password")
    assert masked["/change/after/password"]["commitment"] == commitment(salt, SECRET)


def test_without_masks_records_stay_as_they_were(service):
    with service.client() as client:
        index = client.post("/v1/decisions", json=MUTATION).json()["ledger_index"]

    async def kept():
        connection = await asyncpg.connect(service.dsn)
        try:
            return await connection.fetchval("SELECT record FROM ledger_records WHERE idx = $1", index)
        finally:
            await connection.close()

    record = orjson.loads(asyncio.run(kept()))
    assert "masked" not in record
    assert record["input"]["change"] == MUTATION["change"]
