"""What was decided can be read by who may: as it was recorded, until the law has it erased."""

import base64
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest

from app.core.principal import AccessScope, Role
from app.ledger.receipt import leaf_hash, record_digest
from tests.integration.service.conftest import apart

GOOD = {
    "subject": {"type": "agent", "id": "deploy-bot"},
    "action": {"name": "update"},
    "resource": {"type": "apps/Deployment", "id": "prod/checkout"},
    "change": {"before": {"spec": {"replicas": 3}}, "after": {"spec": {"replicas": 4}}},
    "rationale": "Jane Doe asked for it",
}
NO_ID = "5f0c6b0e-8d1f-4c59-9f8a-1c2d3e4f5a6b"


def key_of(service, *, roles=(), scopes=(), subjects=(), principal="somebody"):
    """A key that the service knows at once, since it made it."""
    wanted = {"roles": roles, "scopes": scopes, "subjects": subjects, "principal_id": principal}
    with service.client(key=service.admin_key) as client:
        return client.post("/v1/keys", json={"name": "t", "reason": "a test", **wanted}).json()["key"]


def execute(service, statement, *values):
    async def run():
        connection = await asyncpg.connect(service.dsn)
        try:
            return await connection.fetch(statement, *values)
        finally:
            await connection.close()

    return apart(run())


@pytest.fixture
def decide(service):
    def ask(key=None, **changed):
        with service.client(key=key) as client:
            answer = client.post("/v1/decisions", json=GOOD | changed)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return ask


@pytest.fixture
def get(service):
    def ask(path, key=None, **options):
        with service.client(key=service.operator_key if key is None else key) as client:
            return client.get(path, **options)

    return ask


@pytest.fixture
def erase(service):
    def ask(identifier, *, key=None, reason="request 4711"):
        with service.client(key=service.admin_key if key is None else key) as client:
            return client.post("/v1/ledger/erasures", json={"id": identifier, "reason": reason})

    return ask


@pytest.fixture
def search(get):
    def ask(after=None, **filters):
        """Ask again until the index has caught up with what `after` says."""
        deadline = time.monotonic() + 60
        while True:
            answer = get("/v1/decisions", params=filters)
            assert answer.status_code == 200, answer.text
            page = answer.json()
            if after is None or page["indexed"] > after or time.monotonic() > deadline:
                return page
            time.sleep(0.05)

    return ask


def verified(entry):
    """Verify an entry as anybody can who has it, from its bytes alone."""
    receipt, record, salt = (
        base64.b64decode(text) for text in (entry["bytes"]["receipt"], entry["bytes"]["record"], entry["salt"])
    )
    assert entry["leaf_hash"] == "sha256:" + leaf_hash(receipt).hex()
    assert orjson.loads(receipt) == entry["receipt"]
    assert orjson.loads(record) == entry["record"]
    assert entry["receipt"]["record"] == record_digest(salt, record)


def test_a_decision_is_read_as_it_was_answered(decide, get):
    made = decide()
    read = get(f"/v1/decisions/{made['id']}").json()
    same = ("id", "decision", "policy_set", "mutation_digest", "ledger_index", "receipt_hash", "decided_at")
    assert {name: read[name] for name in same} == {name: made[name] for name in same}
    assert [one["message"] for one in read["reasons"]] == [one["message"] for one in made["reasons"]]
    assert read["record"]["input"]["resource"]["id"] == "prod/checkout"
    assert read["record"]["rationale"] == "Jane Doe asked for it"
    assert (read["record_state"], read["policy"]) == ("kept", made["reasons"][0]["policy"])
    entry = get(read["links"]["entry"]).json()
    assert (entry["kind"], entry["id"], entry["record"]) == ("decision", made["id"], read["record"])
    assert entry["salt"] == read["salt"]
    verified(entry)


def test_the_salt_is_for_those_who_read_the_ledger(service, decide, get):
    made = decide()
    author = get(f"/v1/decisions/{made['id']}", key=key_of(service, roles=[Role.AUTHOR])).json()
    assert "salt" not in author
    assert author["record_state"] == "kept"
    assert "salt" in get(f"/v1/decisions/{made['id']}").json()


def test_an_agent_reads_what_it_asked_for_and_learns_of_nothing_else(service, decide, get):
    mine = key_of(service, roles=[Role.AGENT], principal="mine")
    bound = key_of(service, roles=[Role.AGENT], subjects=["agent:deploy-*"], principal="mine")
    elsewhere = key_of(service, roles=[Role.AGENT], subjects=["agent:other"], principal="mine")
    other = key_of(service, roles=[Role.AGENT], principal="other")
    made = decide(key=mine)
    path = f"/v1/decisions/{made['id']}"
    for key, status in ((mine, 200), (bound, 200), (elsewhere, 404), (other, 404)):
        answer = get(path, key=key)
        assert answer.status_code == status
        if status == 200:
            assert "salt" not in answer.json()
        else:
            unknown = get(f"/v1/decisions/{NO_ID}", key=key).json()
            assert answer.json()["detail"].replace(made["id"], NO_ID) == unknown["detail"]
    assert get("/v1/decisions", key=mine).status_code == 403
    assert get("/v1/ledger/entries/0", key=mine).status_code == 403
    approver = key_of(service, scopes=[AccessScope.APPROVE])
    assert get(path, key=approver).status_code == 403


def test_an_erased_decision_is_no_agents(service, decide, get, erase):
    mine = key_of(service, roles=[Role.AGENT], principal="mine")
    made = decide(key=mine)
    assert erase(made["id"]).status_code == 201
    assert get(f"/v1/decisions/{made['id']}", key=mine).status_code == 404


def test_other_kinds_are_entries_and_no_decisions(service, get, erase):
    with service.client(key=service.admin_key) as client:
        key = client.post("/v1/keys", json={"name": "n", "scopes": ["read"], "reason": "r"}).json()
    ((idx, identifier, kind),) = execute(
        service, "SELECT idx, id, kind FROM ledger_entries WHERE kind = 'key' ORDER BY idx DESC LIMIT 1"
    )
    entry = get(f"/v1/ledger/entries/{idx}").json()
    assert (entry["kind"], entry["record"]["key_id"]) == (kind, key["id"])
    verified(entry)
    assert get(f"/v1/decisions/{identifier}").status_code == 404
    refused = erase(str(identifier))
    assert (refused.status_code, "`key` is not erased" in refused.json()["detail"]) == (409, True)


@pytest.mark.parametrize(
    "path", [f"/v1/decisions/{NO_ID}", "/v1/ledger/entries/999999", f"/v1/ledger/entries/{2**63 - 1}"]
)
def test_what_is_not_there(get, path):
    assert get(path).status_code == 404


@pytest.mark.parametrize(
    "path", ["/v1/decisions/x", "/v1/ledger/entries/-1", f"/v1/ledger/entries/{2**63}", "/v1/ledger/entries/x"]
)
def test_what_cannot_be(get, path):
    assert get(path).status_code == 400


def test_a_search_finds_it_within_a_second(decide, search):
    subject = f"bot-{uuid4()}"
    made = decide(subject={"type": "agent", "id": subject})
    page = search(after=made["ledger_index"], subject=f"agent:{subject}")
    (one,) = page["items"]
    assert (one["id"], one["ledger_index"], one["decision"]) == (made["id"], made["ledger_index"], made["decision"])
    assert one["subject"] == {"type": "agent", "id": subject}
    assert one["resource"] == GOOD["resource"]
    assert "next" not in page


def test_pages_follow_one_another(decide, search):
    subject = f"bot-{uuid4()}"
    made = [decide(subject={"type": "agent", "id": subject}) for _ in range(5)]
    filters = {
        "subject": f"agent:{subject}",
        "limit": 2,
        "decision": made[0]["decision"],
        "resource": "apps/Deployment",
    }
    page = search(after=made[-1]["ledger_index"], **filters)
    found = page["items"]
    while "next" in page:
        page = search(**filters, cursor=page["next"])
        found += page["items"]
    assert [one["id"] for one in found] == [one["id"] for one in reversed(made)]


def test_filters_narrow(decide, search):
    subject = f"bot-{uuid4()}"
    made = decide(subject={"type": "agent", "id": subject})
    whose = {"subject": f"agent:{subject}"}
    fitting = {
        "resource": "apps/Deployment:prod/checkout",
        "action": "update",
        "decision": made["decision"],
        "policy": made["reasons"][0]["policy"],
        "rule": made["reasons"][0]["rule"],
        "since": "2020-01-01T00:00:00Z",
        "until": "2200-01-01T00:00:00+05:00",
    }
    assert len(search(after=made["ledger_index"], **whose, **fitting)["items"]) == 1
    other = {
        "resource": "apps/Deployment:prod",
        "action": "delete",
        "decision": "hold",
        "rule": "none",
        "since": "2200-01-01T00:00:00Z",
        "until": "0001-01-01T00:00:00+05:00",
    }
    for name, value in other.items():
        assert search(**whose, **fitting | {name: value})["items"] == []


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("subjct=agent:x", "there is no filter `subjct`"),
        ("action=a&action=b", "`action` is given twice"),
        ("subject=agent", "subject"),
        ("subject=agent:%00", "`subject` has a NUL"),
        ("rule=r", "`rule` is given without `policy`"),
        ("decision=maybe", "decision"),
        ("since=yesterday", "since"),
        ("since=2026-01-01T00:00:00", "since"),
        ("limit=201", "limit"),
        ("cursor=AAAA", "`cursor` is not one"),
        ("cursor=%F0%9F%98%80", "`cursor` is not one"),
    ],
)
def test_a_search_that_says_nothing_sensible(get, query, detail):
    answer = get(f"/v1/decisions?{query}")
    assert answer.status_code == 400
    assert detail in answer.json()["detail"]


def test_a_cursor_of_another_search_is_refused(decide, search, get):
    made = [decide() for _ in range(2)]
    page = search(after=made[-1]["ledger_index"], limit=1)
    answer = get("/v1/decisions", params={"cursor": page["next"], "action": "update"})
    assert answer.status_code == 400


def test_what_is_erased_is_gone_and_its_receipt_stays(service, decide, get, search, erase):
    subject = f"jane-{uuid4()}"
    made = decide(subject={"type": "agent", "id": subject})
    index = made["ledger_index"]
    before = get(f"/v1/ledger/entries/{index}").json()
    assert len(search(after=index, subject=f"agent:{subject}")["items"]) == 1

    erased = erase(made["id"], reason="Article 17")
    assert erased.status_code == 201
    answer = erased.json()
    assert (answer["id"], answer["ledger_index"], answer["record_state"]) == (made["id"], index, "erased")
    assert (answer["erasure"]["by"], answer["erasure"]["reason"]) == ("test", "Article 17")

    after = get(f"/v1/ledger/entries/{index}").json()
    assert after["record_state"] == "erased"
    assert after["erasure"] == answer["erasure"]
    assert not {"record", "salt"} & after.keys()
    assert after["bytes"] == {"receipt": before["bytes"]["receipt"]}
    assert after["leaf_hash"] == before["leaf_hash"]
    read = get(f"/v1/decisions/{made['id']}").json()
    assert (read["decision"], read["record_state"]) == (made["decision"], "erased")
    assert not {"record", "salt", "reasons"} & read.keys()
    assert subject not in str(read)
    assert search(subject=f"agent:{subject}")["items"] == []
    for table in ("ledger_records", "ledger_search", "ledger_entries"):
        rows = execute(service, f"SELECT * FROM {table} AS t WHERE t::text LIKE $1", f"%{subject.encode().hex()}%")
        assert rows == [], table

    # The ledger says so itself, with nothing of what was erased.
    said = get(f"/v1/ledger/entries/{answer['erasure']['ledger_index']}").json()
    assert said["kind"] == "erasure"
    assert said["id"] == answer["erasure"]["ledger_id"]
    assert (said["receipt"]["erased_id"], said["receipt"]["erased_index"]) == (made["id"], str(index))
    assert said["record"]["reason"] == "Article 17"
    assert subject not in str(said)
    verified(said)


def test_once_more_changes_nothing(service, decide, erase):
    made = decide()
    first = erase(made["id"], reason="first")
    ((size,),) = execute(service, "SELECT next_index FROM ledger_head")
    second = erase(made["id"], reason="second")
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    assert execute(service, "SELECT next_index FROM ledger_head") == [(size,)]


def test_several_at_once_erase_once(service, decide, erase):
    made = decide()
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda number: erase(made["id"], reason=f"number {number}"), range(6)))
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [201]
    assert len({answer.text for answer in answers}) == 1
    rows = execute(service, "SELECT count(*) FROM ledger_erasures WHERE idx = $1", made["ledger_index"])
    assert rows == [(1,)]


def test_only_who_may_erases(service, decide, erase):
    made = decide()
    for key in (service.operator_key, service.key, key_of(service, roles=[Role.VIEWER])):
        assert erase(made["id"], key=key).status_code == 403
    assert erase(made["id"], key=key_of(service, scopes=[AccessScope.LEDGER_ERASE])).status_code == 201


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ([], ""),
        ({"id": NO_ID}, "/reason"),
        ({"id": "x", "reason": "r"}, "/id"),
        ({"id": f"{{{NO_ID}}}", "reason": "r"}, "/id"),
        ({"id": NO_ID, "reason": "r", "force": True}, "/force"),
    ],
)
def test_what_is_no_erasure(service, body, pointer):
    with service.client(key=service.admin_key) as client:
        answer = client.post("/v1/ledger/erasures", json=body)
    assert (answer.status_code, answer.json()["pointer"]) == (400, pointer)


def test_a_reason_is_needed(erase):
    assert erase(NO_ID, reason=" ").status_code == 400
    assert erase(NO_ID).status_code == 404


def test_an_archived_record_is_told_apart(service, decide, get, erase):
    made = decide()
    index = made["ledger_index"]
    execute(service, "ALTER TABLE ledger_records DISABLE TRIGGER USER")
    try:
        execute(service, "DELETE FROM ledger_records WHERE idx = $1", index)
    finally:
        execute(service, "ALTER TABLE ledger_records ENABLE ALWAYS TRIGGER append_only")
        execute(service, "ALTER TABLE ledger_records ENABLE ALWAYS TRIGGER never_emptied")

    def told():
        read = get(f"/v1/decisions/{made['id']}").json()
        assert "erasure" not in read
        refused = erase(made["id"])
        assert refused.status_code == 409
        return read["record_state"], refused.json()

    state, problem = told()
    assert state == "missing"
    assert "`mfw integrity check`" in problem["fix"]
    execute(
        service,
        "INSERT INTO ledger_archives VALUES ($1, gen_random_uuid(), 'p', date_trunc('month', now(), 'UTC'),"
        " date_trunc('month', now(), 'UTC') + interval '1 month', 0, $1, 1, 'f', 1, sha256(''), 'me', now())",
        index,
    )
    state, problem = told()
    assert state == "archived"
    assert f"mfw ledger unarchive {made['decided_at'][:7]} --from" in problem["fix"]


def test_proofs_are_given_in_the_form_that_is_asked_for(service, decide, get):
    index = decide()["ledger_index"]
    path = f"/v1/ledger/entries/{index}/proof"
    soon = get(path)
    assert (soon.status_code, soon.headers["retry-after"]) == (409, "1")
    # A tree of one leaf, signed by nobody who is asked here.
    ((receipt,),) = execute(service, "SELECT receipt FROM ledger_entries WHERE idx = 0")
    leaf = leaf_hash(receipt)
    execute(service, "INSERT INTO ledger_tiles VALUES (0, 0, $1) ON CONFLICT DO NOTHING", leaf)
    execute(service, "UPDATE ledger_tree SET size = 1, root = $1 WHERE size = 0", leaf)
    note = f"log\n1\n{base64.b64encode(leaf).decode()}\n\n\N{EM DASH} log AAAAAQIDBAU=\n"
    execute(
        service,
        "INSERT INTO ledger_checkpoints VALUES (1, $1, 'log', now(), $2) ON CONFLICT DO NOTHING",
        leaf,
        note.encode(),
    )
    first = "/v1/ledger/entries/0/proof"
    read = get(first)
    expected = {"index": 0, "size": 1, "leaf_hash": base64.b64encode(leaf).decode(), "hashes": [], "checkpoint": note}
    assert read.json() == expected | {"root": expected["leaf_hash"]}
    assert read.headers["vary"] == "accept"
    text = get(first, headers={"Accept": "text/plain"})
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    assert text.text == f"c2sp.org/tlog-proof@v1\nindex 0\n\n{note}"
    assert get(first, headers={"Accept": "image/png"}).status_code == 406
    grown = get("/v1/ledger/consistency?from=1&to=1").json()
    assert (grown["from_root"], grown["to_root"], grown["checkpoint"]) == (*[expected["leaf_hash"]] * 2, note)
    assert get("/v1/ledger/consistency?from=0").json()["hashes"] == []
    assert get("/v1/ledger/consistency").status_code == 400
    for path in (first, "/v1/ledger/consistency?from=0"):
        assert get(path, key=service.key).status_code == 403


def test_without_a_key_nothing_is_attested(decide, get):
    made = decide()
    answer = get(f"/v1/decisions/{made['id']}", headers={"Accept": "application/vnd.in-toto+json"})
    assert answer.status_code == 503
    assert "MFW_LEDGER__SIGNING_KEY" in answer.json()["fix"]
    assert get(f"/v1/decisions/{made['id']}", headers={"Accept": "text/html"}).status_code == 406


def test_ids_are_read_in_any_case(decide, get, erase):
    made = decide()
    assert get(f"/v1/decisions/{made['id'].upper()}").json()["id"] == made["id"]
    assert erase(made["id"].upper()).json()["id"] == str(UUID(made["id"]))
    assert get(f"/v1/decisions/{quote(made['id'])}").status_code == 200
