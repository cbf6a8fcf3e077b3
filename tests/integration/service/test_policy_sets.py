"""Policy sets over HTTP: stored whole, judged by the set in force, in the ledger and in force together."""

import asyncio
import itertools
import json
import threading
import time
from pathlib import Path

from ruamel.yaml import YAML

from app.migrations import schema
from app.persistence.embedded import EmbeddedPostgres
from app.policies.load import check_directory
from tests.integration.service.conftest import health

ROOT = Path(__file__).resolve().parents[3]
STARTER = ROOT / "policies" / "starter"

ALLOW_ALL = {
    "apiVersion": "mutationfirewall.io/v1",
    "kind": "MutationPolicy",
    "metadata": {"name": "all"},
    "spec": {"rules": [{"name": "allow", "effect": "allow"}]},
}
NOBODY = {
    **ALLOW_ALL,
    "metadata": {"name": "nobody"},
    "spec": {
        "match": {"resources": [{"type": "policy-set"}]},
        "rules": [{"name": "frozen", "effect": "deny", "message": "policies are frozen"}],
    },
}
HELD = {
    **ALLOW_ALL,
    "metadata": {"name": "held"},
    "spec": {
        "match": {"resources": [{"type": "policy-set"}]},
        "rules": [
            {
                "name": "four-eyes",
                "effect": "hold",
                "message": "two people",
                "approval": {"anyOf": [{"group": "sre", "count": 2}]},
            }
        ],
    },
}
DATABASE = {"MFW_POLICIES__SOURCE": "database", "MFW_POLICIES__DIRECTORY": ""}


def named(name):
    return {**ALLOW_ALL, "metadata": {"name": name}}


def starter():
    return [
        document
        for path in sorted(STARTER.glob("*.yaml"))
        for document in YAML(typ="safe", pure=True).load_all(path.read_text())
        if document is not None
    ]


def wait_until(condition, *, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def put(client, *documents, status=201, **more):
    answer = client.post("/v1/policy-sets", json={"documents": list(documents), **more})
    assert answer.status_code == status, answer.text
    return answer.json()


def activate(client, digest, *, reason="a test", status=200):
    answer = client.post(f"/v1/policy-sets/{digest}/activate", json={"reason": reason})
    assert answer.status_code == status, answer.text
    return answer.json()


def admin(service):
    return service.client(key=service.admin_key)


def receipts(service):
    return [json.loads(receipt) for _, _, receipt in service.entries()]


def test_from_nothing_to_the_starter_policies_and_back(serve, database_dsn):
    decision = (ROOT / "examples" / "deny-sql-drop-table.json").read_bytes()
    typed = {"Content-Type": "application/json"}
    with serve(database_dsn, **DATABASE) as service, admin(service) as client, service.client() as asking:
        # Nothing is in force: refused, not denied, and reachable for whoever changes that.
        refused = asking.post("/v1/decisions", content=decision, headers=typed)
        assert refused.status_code == 503
        assert "mfw policies push" in refused.json()["fix"]
        assert client.get("/health/ready").status_code == 200
        assert client.get("/health").json()["status"] == "degraded"
        assert client.get("/v1/policy-sets/active").status_code == 404
        assert service.entries() == []

        first = put(client, named("all"), note="the first")
        assert first["digest"] == put(client, named("all"), status=200)["digest"]
        assert not first["active"]
        made = activate(client, first["digest"], reason="bootstrap")
        assert (made["sequence"], made["reason"], made["ledger_index"]) == (1, "bootstrap", 0)
        assert "previous" not in made
        assert "decision_id" not in made
        wait_until(lambda: client.get("/health").json()["status"] == "healthy")
        answer = asking.post("/v1/decisions", content=decision, headers=typed).json()
        assert (answer["decision"], answer["policy_set"]) == ("allow", first["digest"])

        second = put(client, *starter())
        checked = check_directory(STARTER)
        assert checked.policy_set is not None
        assert second["digest"] == checked.policy_set.digest
        assert (second["policies"], second["rules"]) == (
            len(checked.policy_set.policies),
            len(checked.policy_set.rules),
        )
        judged = activate(client, second["digest"])
        assert judged["previous"] == first["digest"]
        # The allow and the activation stand side by side: the decision first.
        allowed, activation = receipts(service)[-2:]
        assert (allowed["kind"], allowed["decision"], allowed["policy_set"]) == ("decision", "allow", first["digest"])
        assert (activation["kind"], activation["policy_set"], activation["previous"]) == (
            "activation",
            second["digest"],
            first["digest"],
        )
        assert allowed["id"] == activation["decision_id"] == judged["decision_id"]
        assert (judged["ledger_id"], judged["ledger_index"]) == (activation["id"], len(receipts(service)) - 1)
        answer = asking.post("/v1/decisions", content=decision, headers=typed).json()
        assert (answer["decision"], answer["policy_set"]) == ("deny", second["digest"])

        # Again: nothing happens.
        entries = len(service.entries())
        assert activate(client, second["digest"])["sequence"] == 2
        assert len(service.entries()) == entries

        # The starter policies let an administrator go back.
        assert activate(client, first["digest"], reason="roll back")["sequence"] == 3
        history = client.get("/v1/policy-sets/activations", params={"limit": 2}).json()
        assert [one["sequence"] for one in history["items"]] == [3, 2]
        rest = client.get("/v1/policy-sets/activations", params={"limit": 2, "before": history["next"]}).json()
        assert [one["sequence"] for one in rest["items"]] == [1]
        assert "next" not in rest

        listed = client.get("/v1/policy-sets", params={"limit": 1}).json()
        assert [(one["digest"], one["active"]) for one in listed["items"]] == [(second["digest"], False)]
        listed = client.get("/v1/policy-sets", params={"before": listed["next"]}).json()
        assert [(one["note"], one["active"]) for one in listed["items"]] == [("the first", True)]
        assert client.get(f"/v1/policy-sets/{first['digest']}").json()["documents"] == [named("all")]


def test_the_set_in_force_denies_or_holds_the_next(serve, database_dsn):
    with serve(database_dsn, **DATABASE) as service, admin(service) as client:
        held = put(client, HELD)["digest"]
        frozen = put(client, NOBODY)["digest"]
        activate(client, held)
        problem = activate(client, frozen, status=409)
        assert problem["decision"] == "hold"
        assert problem["approval"]["anyOf"] == [{"group": "sre", "count": 2}]
        assert problem["reasons"][0]["rule"] == "four-eyes"
        assert problem["policy_set"] == held
        last = receipts(service)[-1]
        assert (last["kind"], last["decision"], last["id"]) == ("decision", "hold", problem["decision_id"])
        assert client.get("/v1/policy-sets/active").json()["digest"] == held
    with serve(database_dsn, **DATABASE) as service, admin(service) as client:
        # What was in force is in force after a restart.
        assert client.get("/v1/policy-sets/active").json()["digest"] == held


def test_denied(serve, database_dsn):
    with serve(database_dsn, **DATABASE) as service, admin(service) as client:
        activate(client, put(client, NOBODY)["digest"])
        problem = activate(client, put(client, ALLOW_ALL)["digest"], status=403)
        assert "policies are frozen" in problem["detail"]
        assert problem["decision"] == "deny"
        assert receipts(service)[problem["ledger_index"]]["id"] == problem["decision_id"]


def test_everything_that_is_wrong_is_said_at_once(serve, database_dsn):
    with serve(database_dsn, **DATABASE) as service, admin(service) as client:
        bad = {**ALLOW_ALL, "spec": {"ruels": [], "rules": [{"name": "x", "effect": "alow"}]}}
        problem = put(client, bad, named("twice"), named("twice"), status=400)
        assert {(one["file"], one["path"]) for one in problem["errors"]} >= {
            ("documents[0]", "spec.ruels"),
            ("documents[0]", "spec.rules[0].effect"),
            ("documents[2]", "metadata.name"),
        }
        text = "apiVersion: mutationfirewall.io/v1\nkind: MutationPolicy\nmetadata: {name: x}\nspec: {rules: [{name: y, effect: allow, when: 'subject.tpye ='}]}\n"
        answer = client.post("/v1/policy-sets", content=text, headers={"Content-Type": "application/yaml"})
        assert answer.status_code == 400
        (error,) = answer.json()["errors"]
        assert (error["file"], error["line"], error["severity"]) == ("policies.yaml", 4, "error")
        bodies: list[object] = [
            {},
            {"documents": []},
            {"documents": [1]},
            {"documents": [ALLOW_ALL], "nte": ""},
            [],
            {"documents": "x"},
        ]
        for body in bodies:
            answer = client.post("/v1/policy-sets", json=body)
            assert answer.status_code == 400, body
        for content, headers in (
            (b"\xff", {"Content-Type": "application/yaml"}),
            (b"a: [", {"Content-Type": "application/yaml; charset=utf-8"}),
            (b"", {"Content-Type": "application/yaml"}),
            (b"--- \n", {"Content-Type": "text/yaml"}),
        ):
            assert client.post("/v1/policy-sets", content=content, headers=headers).status_code == 400, content
        assert client.post("/v1/policy-sets", content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415
        huge = b"#" * (1024 * 1024 + 1)
        answer = client.post("/v1/policy-sets", content=huge, headers={"Content-Type": "application/yaml"})
        assert answer.status_code == 413
        assert put(client, ALLOW_ALL, note="x" * 1001, status=400)["pointer"] == "/note"
        assert put(client, ALLOW_ALL, note=1, status=400)["pointer"] == "/note"
        assert client.get("/v1/policy-sets").json() == {"items": []}


def test_yaml_and_json_are_one_set(serve, database_dsn):
    with serve(database_dsn, **DATABASE) as service, admin(service) as client:
        text = "\n---\n".join(path.read_text() for path in sorted(STARTER.glob("*.yaml")))
        first = client.post("/v1/policy-sets", content=text.encode(), headers={"Content-Type": "application/yaml"})
        assert first.status_code == 201, first.text
        assert first.headers["location"] == f"/v1/policy-sets/{first.json()['digest']}"
        assert put(client, *starter(), status=200)["digest"] == first.json()["digest"]


def test_who_may_do_what(serve, database_dsn):
    absent = "sha256:" + "0" * 64
    with serve(database_dsn, **DATABASE) as service, admin(service) as client:
        digest = put(client, ALLOW_ALL)["digest"]
        for key in ("", service.key, service.operator_key):
            with service.client(key=key) as other:
                wanted = 403 if key else 401
                assert other.post("/v1/policy-sets", json={"documents": [ALLOW_ALL]}).status_code == wanted
                assert other.post(f"/v1/policy-sets/{digest}/activate", json={"reason": "x"}).status_code == wanted
                reading = 200 if key == service.operator_key else wanted
                assert other.get("/v1/policy-sets").status_code == reading
                assert other.get("/v1/policy-sets/activations").status_code == reading
                assert other.get(f"/v1/policy-sets/{digest}").status_code == reading
        activate(client, absent, status=404)
        activate(client, "sha256:xyz", status=400)
        bodies: list[object] = [
            {},
            {"reason": ""},
            {"reason": " "},
            {"reason": 1},
            {"reason": "x" * 1001},
            {"r": ""},
            [],
        ]
        for body in bodies:
            answer = client.post(f"/v1/policy-sets/{digest}/activate", json=body)
            assert answer.status_code == 400, body
        assert client.get(f"/v1/policy-sets/{absent}").status_code == 404
        assert client.get("/v1/policy-sets/nonsense").status_code == 400
        for query in ("limit=0", "limit=201", "before=0", "before=x", "before=99999999999999999999"):
            assert client.get(f"/v1/policy-sets?{query}").status_code == 400
        assert service.entries() == []


def test_a_service_on_a_directory_stores_but_does_not_activate(serve, database_dsn):
    with serve(database_dsn) as service, admin(service) as client:
        digest = put(client, ALLOW_ALL)["digest"]
        problem = activate(client, digest, status=409)
        assert "directory" in problem["detail"]
        active = client.get("/v1/policy-sets/active").json()
        assert (active["source"], active["stale"]) == ("directory", False)
        assert "sequence" not in active
        assert len(active["documents"]) == active["policies"]


def test_the_set_in_force_has_an_etag(serve, database_dsn):
    with serve(database_dsn, **DATABASE) as service, admin(service) as client:
        digest = put(client, ALLOW_ALL)["digest"]
        activate(client, digest)
        answer = client.get("/v1/policy-sets/active")
        assert answer.headers["etag"] == f'"{digest}"'
        assert answer.json()["documents"] == [ALLOW_ALL]
        for known in (f'"{digest}"', f'W/"{digest}"', "*", f'"other", "{digest}"'):
            same = client.get("/v1/policy-sets/active", headers={"If-None-Match": known})
            assert (same.status_code, same.content) == (304, b"")
            assert same.headers["etag"] == f'"{digest}"'
        assert client.get("/v1/policy-sets/active", headers={"If-None-Match": '"other"'}).status_code == 200
        assert client.get("/v1/policy-sets/active?wait=31").status_code == 400
        waited = client.get("/v1/policy-sets/active?wait=0.05", headers={"If-None-Match": f'"{digest}"'})
        assert waited.status_code == 304


class Watcher(threading.Thread):
    """Waits for another set than it knows, as a follower of the service would."""

    def __init__(self, client, known):
        super().__init__()
        self.client, self.known, self.answer = client, known, None

    def run(self):
        while self.answer is None or self.answer.status_code == 304:
            self.answer = self.client.get(
                "/v1/policy-sets/active?wait=20", headers={"If-None-Match": f'"{self.known}"'}
            )


class Asker(threading.Thread):
    """Asks one replica without pause and keeps which digest and which rule answered, in order."""

    def __init__(self, service):
        super().__init__()
        self.client = service.client()
        self.stopping = threading.Event()
        self.seen = []
        self.faults = []

    def run(self):
        body = json.dumps(
            {
                "subject": {"type": "agent", "id": "a"},
                "action": {"name": "update"},
                "resource": {"type": "t", "id": "r"},
                "change": {"after": 1},
            }
        )
        with self.client:
            while not self.stopping.is_set():
                answer = self.client.post("/v1/decisions", content=body, headers={"Content-Type": "application/json"})
                if answer.status_code == 200:
                    decision = answer.json()
                    self.seen.append((decision["policy_set"], tuple(r["policy"] for r in decision["reasons"])))
                else:
                    self.faults.append(answer)

    def digest(self):
        return self.seen[-1][0] if self.seen else None


def test_two_replicas_follow_under_load_and_none_mixes_two_sets(serve, database_dsn):
    with serve(database_dsn, **DATABASE) as first, admin(first) as client:
        # Two policies each: an answer that names one of both sets would have mixed them.
        sets = [put(client, named(f"{letter}-1"), named(f"{letter}-2"))["digest"] for letter in "abcd"]
        policies = {digest: (f"{letter}-1", f"{letter}-2") for digest, letter in zip(sets, "abcd", strict=True)}
        activate(client, sets[0])
        # Told, then: it would ask by itself only after all of this.
        with serve(database_dsn, **DATABASE, MFW_POLICIES__POLL_SECONDS="300") as second:
            askers = [Asker(first), Asker(second)]
            for asker in askers:
                asker.start()
            try:
                for digest in [*sets[1:], sets[0]]:
                    wait_until(lambda: askers[1].digest() is not None)
                    watcher = Watcher(second.client(key=second.operator_key), askers[1].digest())
                    watcher.start()
                    activate(client, digest)
                    wait_until(lambda digest=digest: all(asker.digest() == digest for asker in askers))
                    watcher.join(60)
                    assert watcher.answer is not None
                    watcher.client.close()
                    assert watcher.answer.json()["digest"] == digest
            finally:
                for asker in askers:
                    asker.stopping.set()
                for asker in askers:
                    asker.join(60)
            with second.client(key=second.admin_key) as other:
                assert other.get("/v1/policy-sets/active").json()["sequence"] == 5
    for asker in askers:
        assert asker.faults == []
        assert all(reasons == policies[digest] for digest, reasons in asker.seen)
        order = [digest for digest, _ in itertools.groupby(digest for digest, _ in asker.seen)]
        assert order == [*sets, sets[0]]


def test_a_mounted_directory_is_followed(serve, database_dsn, tmp_path):
    mount = tmp_path / "policies"
    mount.mkdir()

    def publish(version, text):
        (mount / version).mkdir()
        (mount / version / "policies.yaml").write_text(text)
        (mount / "..new").symlink_to(version)
        (mount / "..new").rename(mount / "..data")

    publish("..1", json.dumps(named("one")))
    (mount / "policies.yaml").symlink_to("..data/policies.yaml")
    settings = {"MFW_POLICIES__DIRECTORY": str(mount), "MFW_POLICIES__POLL_SECONDS": "0.1"}
    with serve(database_dsn, **settings) as service, admin(service) as client:
        asker = Asker(service)
        asker.start()
        try:
            wait_until(lambda: asker.seen)
            publish("..2", json.dumps(named("two")))
            wait_until(lambda: asker.seen[-1][1] == ("two",))
            publish("..3", "kind: [")
            wait_until(lambda: client.get("/health").json()["status"] == "degraded")
            assert client.get("/health/ready").status_code == 200
            assert asker.seen[-1][1] == ("two",)
            with service.client(key=service.operator_key) as operator:
                health(operator, "policies", until="policies.yaml")
            publish("..4", json.dumps(named("four")))
            wait_until(lambda: asker.seen[-1][1] == ("four",))
            wait_until(lambda: client.get("/health").json()["status"] == "healthy")
        finally:
            asker.stopping.set()
            asker.join(60)
    assert asker.faults == []
    assert [name for name, _ in itertools.groupby(names for _, (names,) in asker.seen)] == ["one", "two", "four"]


def test_two_administrators_at_once(serve, database_dsn):
    with serve(database_dsn, **DATABASE) as first, serve(database_dsn, **DATABASE) as second, admin(first) as client:
        start = put(client, named("start"))["digest"]
        digests = [put(client, named(f"p{number}"))["digest"] for number in range(8)]
        activate(client, start)
        answers = []

        def ask(service, digest):
            with admin(service) as other:
                answers.append(other.post(f"/v1/policy-sets/{digest}/activate", json={"reason": "a race"}))

        threads = [
            threading.Thread(target=ask, args=((first, second)[number % 2], digest))
            for number, digest in enumerate(digests)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert {answer.status_code for answer in answers} <= {200, 409, 503}
        won = [answer.json() for answer in answers if answer.status_code == 200]
        assert won
        history = client.get("/v1/policy-sets/activations").json()["items"]
        assert [one["sequence"] for one in history] == list(range(len(won) + 1, 0, -1))
        # Each was judged by the one before it, and nobody's ledger entry stands without its activation.
        for later, earlier in itertools.pairwise(history):
            assert later["previous"] == earlier["digest"]
        entries = [one for one in receipts(first) if one["kind"] == "activation"]
        assert [one["policy_set"] for one in entries] == [one["digest"] for one in reversed(history)]


def test_it_starts_without_a_database_from_the_last_good_copy(serve, state_directory, tmp_path):
    server = EmbeddedPostgres(state_directory, start_timeout=180)
    dsn = server.start()
    try:
        asyncio.run(schema.apply(dsn))
        settings = {
            **DATABASE,
            "MFW_POLICIES__CACHE_DIRECTORY": str(tmp_path),
            "MFW_POLICIES__POLL_SECONDS": "0.2",
        }
        with serve(dsn, **settings) as service, admin(service) as client:
            digest = put(client, named("all"))["digest"]
            activate(client, digest)
            keys = {"key": service.key, "operator_key": service.operator_key, "admin_key": service.admin_key}
        server.stop()
        body = json.dumps(
            {
                "subject": {"type": "agent", "id": "a"},
                "action": {"name": "update"},
                "resource": {"type": "t", "id": "r"},
                "change": {"after": 1},
            }
        )
        typed = {"Content-Type": "application/json"}
        # For so long it waits for the database before it starts without.
        settings["MFW_DATABASE__CONNECT_TIMEOUT_SECONDS"] = "5"
        with serve(dsn, keys=keys, **settings) as service, service.client() as client:
            assert client.get("/health/ready").status_code == 503
            # No ledger and no keys: refused, whatever the set would say.
            assert client.post("/v1/decisions", content=body, headers=typed).status_code == 503
            assert server.start() == dsn
            wait_until(lambda: client.get("/health/ready").status_code == 200)
            # A report is up to a second old: what came back last may have come back since.
            wait_until(lambda: client.post("/v1/decisions", content=body, headers=typed).status_code == 200)
            answer = client.post("/v1/decisions", content=body, headers=typed).json()
            assert (answer["decision"], answer["policy_set"]) == ("allow", digest)
    finally:
        server.stop()
