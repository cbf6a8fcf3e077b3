"""The AuthZEN surface on the running service, with the ledger beside each answer."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from app.core.ed25519 import private_key
from app.core.principal import AccessScope
from app.persistence.api_keys import ApiKeyStore
from app.persistence.engine import create_engine
from app.surfaces.authzen.metadata import metadata_of
from tests.corpus.cases import load
from tests.integration.service.conftest import apart

ROOT = Path(__file__).resolve().parents[3]
POLICY = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: documents}
spec:
  match:
    subjects: [{type: user, id: alice}, {type: user}]
    actions: [read, edit, print]
    resources: [{type: document}]
  rules:
    - {name: readers, effect: allow, when: "action.name == 'read'"}
    - name: owners
      effect: allow
      when: "action.name == 'edit' && resource.properties.?owner.orValue('') == subject.id"
    - name: ask
      effect: hold
      when: "action.name == 'edit' && subject.properties.?role.orValue('') == 'sre'"
      message: ask the owner
      approval: {anyOf: [{group: owners}]}
    - name: watched
      effect: allow
      when: "action.name == 'print'"
      obligations: [{key: print/watermark, value: draft}, {key: audit/ticket, value: 7}]
    - {name: secret, effect: deny, when: "resource.id == 'secret'", message: nobody}
  budgets: [{name: few, limit: 1, window: 1h, per: subject, effect: deny, when: "resource.id == 'rare'", message: once an hour}]
"""
ENTITIES = """\
subjects: [{type: user, id: alice}, {type: user, id: bob, properties: {role: sre}}]
resources:
  - {type: document, id: a, properties: {owner: alice}}
  - {type: document, id: b, properties: {owner: bob}}
  - {type: document, id: secret}
actions: [{name: delete}]
"""


def ask(action="read", resource="a", subject="alice", **properties):
    return {
        "subject": {"type": "user", "id": subject, "properties": properties},
        "action": {"name": action},
        "resource": {"type": "document", "id": resource},
    }


@pytest.fixture(scope="module")
def firewall(tmp_path_factory, shared_database_dsn):
    from tests.integration.service.conftest import running

    folder = tmp_path_factory.mktemp("authzen")
    (folder / "policies").mkdir()
    (folder / "policies" / "p.yaml").write_text(POLICY)
    (folder / "entities.yaml").write_text(ENTITIES)
    with running(
        shared_database_dsn,
        MFW_POLICIES__DIRECTORY=str(folder / "policies"),
        MFW_AUTHZEN__ENTITIES=str(folder / "entities.yaml"),
    ) as started:
        yield started


def evaluate(firewall, body, path="evaluation", **headers):
    with firewall.client() as client:
        return client.post(f"/access/v1/{path}", json=body, headers=headers)


@pytest.mark.parametrize(
    ("body", "effect"),
    [
        (ask(), "allow"),
        (ask("edit", role="sre"), "hold"),
        (ask("edit"), "deny"),
        (ask(resource="secret"), "deny"),
        ({**ask(), "context": {"change": {"before": 1, "after": 2}}, "unknown": {}}, "allow"),
    ],
)
def test_each_answer_is_in_the_ledger(firewall, body, effect):
    answer = evaluate(firewall, body, **{"X-Request-ID": "bfe9eb29-ab87-4ca3-be83-a1d5d8305716"})
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] == "bfe9eb29-ab87-4ca3-be83-a1d5d8305716"
    found = answer.json()
    context = found["context"]
    assert (found["decision"], context["effect"]) == (effect == "allow", effect)
    index, identifier, receipt = firewall.entries()[context["ledger_index"]]
    assert (index, identifier) == (context["ledger_index"], context["evaluation_id"])
    assert json.loads(receipt)["decision"] == effect


@pytest.mark.parametrize("sent", ["two words", 'a;b="c" <d>', "x" * 300])
def test_any_text_is_a_request_id(firewall, sent):
    assert evaluate(firewall, ask(), **{"X-Request-ID": sent}).headers["x-request-id"] == sent
    assert evaluate(firewall, {}, **{"X-Request-ID": sent}).headers["x-request-id"] == sent


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"{", {}),
        (b"", {}),
        (b"[]", {}),
        (b'{"subject": 1}', {}),
        (json.dumps({**ask(), "action": None}).encode(), {}),
        (json.dumps(ask()).encode(), {"Content-Type": "text/plain"}),
        (json.dumps({**ask(), "context": {"change": {"afer": 1}}}).encode(), {}),
    ],
)
@pytest.mark.parametrize("path", ["evaluation", "evaluations", "search/action"])
def test_what_is_no_request_is_400_and_leaves_nothing(firewall, content, headers, path):
    before = len(firewall.entries())
    key = firewall.operator_key if path.startswith("search") else None
    with firewall.client(key=key) as client:
        answer = client.post(
            f"/access/v1/{path}", content=content, headers={"Content-Type": "application/json", **headers}
        )
    if path == "search/action" and b"action" in content and not headers and b"afer" not in content:
        assert answer.status_code == 200  # it needs none
    else:
        assert answer.status_code == 400, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
    if b"afer" in content:
        assert answer.json()["pointer"] == "/context/change/afer"
    assert len(firewall.entries()) == before


def evaluations(firewall, *items, semantic=None, **top):
    body = {**top, "evaluations": list(items)}
    if semantic is not None:
        body["options"] = {"evaluations_semantic": semantic}
    before = len(firewall.entries())
    answer = evaluate(firewall, body, "evaluations")
    assert answer.status_code == 200, answer.text
    return [one["decision"] for one in answer.json()["evaluations"]], len(firewall.entries()) - before


YES: dict[str, Any] = {"resource": {"type": "document", "id": "1"}}
NO: dict[str, Any] = {"resource": {"type": "document", "id": "secret"}}
WRONG: dict[str, Any] = {"resource": {}}


@pytest.mark.parametrize(
    ("semantic", "items", "answers", "recorded"),
    [
        (None, [YES, NO, YES], [True, False, True], 3),
        ("execute_all", [WRONG, NO, YES], [False, False, True], 2),
        ("deny_on_first_deny", [YES, NO, YES], [True, False], 2),
        ("deny_on_first_deny", [YES, WRONG, YES], [True, False], 1),
        ("deny_on_first_deny", [YES, YES], [True, True], 2),
        ("permit_on_first_permit", [NO, WRONG, YES, NO], [False, False, True], 2),
        ("permit_on_first_permit", [NO, NO], [False, False], 2),
        ("permit_on_first_permit", [WRONG], [False], 0),
    ],
)
def test_the_three_semantics_and_what_they_record(firewall, semantic, items, answers, recorded):
    assert evaluations(firewall, *items, semantic=semantic, **ask()) == (answers, recorded)


BOTH: dict[str, Any] = {"context": {"fulfils": ["audit/ticket", "print/watermark"]}}


@pytest.mark.parametrize(
    ("context", "yes"),
    [
        ({}, False),
        ({"fulfils": []}, False),
        ({"fulfils": ["audit/ticket"]}, False),
        ({"fulfils": ["*"]}, False),
        (BOTH["context"], True),
    ],
)
@pytest.mark.parametrize("path", ["evaluation", "evaluations"])
def test_a_yes_does_not_depend_on_a_context_that_nobody_reads(firewall, context, yes, path):
    answer = evaluate(firewall, {**ask("print"), "context": context}, path).json()
    assert answer["decision"] is yes
    assert (answer["context"]["effect"], "unmet" in answer["context"]) == ("allow", not yes)
    # It is recorded as what the policies said; the door is where it ends.
    _, _, receipt = firewall.entries()[answer["context"]["ledger_index"]]
    assert json.loads(receipt)["decision"] == "allow"
    assert [one["key"] for one in answer["context"]["obligations"]] == ["print/watermark", "audit/ticket"]


def test_what_is_allowed_under_obligations_ends_a_batch_as_what_it_is_answered(firewall):
    printed = {"action": {"name": "print"}}
    assert evaluations(firewall, printed, YES, NO, semantic="permit_on_first_permit", **ask()) == ([False, True], 2)
    assert evaluations(firewall, YES, printed, YES, semantic="deny_on_first_deny", **ask()) == ([True, False], 2)
    assert evaluations(firewall, {**printed, **BOTH}, YES, semantic="permit_on_first_permit", **ask()) == ([True], 1)
    assert evaluations(firewall, {**printed, **BOTH}, printed, **ask()) == ([True, False], 2)
    # And what nobody counted yet does not go past it.
    rare = {"resource": {"type": "document", "id": "rare"}}
    top = ask(subject="dora")
    assert evaluations(firewall, printed | rare, printed | rare, YES, semantic="deny_on_first_deny", **top) == (
        [False],
        1,
    )


def test_budgets_are_counted_in_turn(firewall):
    rare = {"resource": {"type": "document", "id": "rare"}}
    top = ask(subject="carol")
    assert evaluations(firewall, YES, rare, YES, rare, YES, semantic="deny_on_first_deny", **top) == (
        [True, True, True, False],
        4,
    )


def test_without_evaluations_it_is_a_single_one(firewall):
    assert evaluate(firewall, ask(), "evaluations").json()["decision"] is True
    assert evaluate(firewall, {**ask(), "evaluations": []}, "evaluations").json()["decision"] is True
    # Of one subject's word only: step 5 refuses it, and there is no other to answer.
    wrong = evaluate(firewall, {**ask(), "context": {"change": {"before": 1}}}, "evaluations")
    assert (wrong.status_code, wrong.json()["pointer"]) == (400, "/context/change")


def test_more_evaluations_than_a_bucket_can_hold_are_refused_for_good(serve, database_dsn, tmp_path):
    (tmp_path / "p.yaml").write_text(POLICY)
    limits = {
        "MFW_LIMITS__BATCH_BURST": "2",
        "MFW_LIMITS__BATCH_PER_MINUTE": "1",
        "MFW_LIMITS__BURST": "1",
        "MFW_LIMITS__PER_MINUTE": "1",
    }
    with serve(database_dsn, MFW_POLICIES__DIRECTORY=str(tmp_path), **limits) as service:
        assert evaluate(service, {**ask(), "evaluations": [YES] * 3}, "evaluations").status_code == 413
        # Which took one, before anybody had read how many there are.
        assert evaluate(service, {**ask(), "evaluations": [YES]}, "evaluations").status_code == 200
        assert evaluate(service, {**ask(), "evaluations": [YES]}, "evaluations").status_code == 429
        assert evaluate(service, ask()).status_code == 200
        assert evaluate(service, ask()).status_code == 429


def test_an_answer_under_a_key_is_given_again(firewall):
    key = {"Idempotency-Key": "authzen-1"}
    first, again = (evaluate(firewall, ask(), **key) for _ in range(2))
    assert first.content == again.content
    assert again.headers["idempotency-replayed"] == "true"
    many = {**ask(), "evaluations": [YES]}
    assert evaluate(firewall, many, "evaluations", **{"Idempotency-Key": "authzen-2"}).status_code == 200
    many["options"] = {"evaluations_semantic": "deny_on_first_deny"}
    refused = evaluate(firewall, many, "evaluations", **{"Idempotency-Key": "authzen-3"})
    assert (refused.status_code, refused.json()["pointer"]) == (400, "/options/evaluations_semantic")


def search(firewall, kind, body, key=None):
    with firewall.client(key=key or firewall.operator_key) as client:
        return client.post(f"/access/v1/search/{kind}", json=body)


def results(firewall, kind, body):
    answer = search(firewall, kind, body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["page"]["count"] == len(answer.json()["results"])
    return [tuple(one.values()) for one in answer.json()["results"]]


def test_searches_find_what_would_be_allowed(firewall):
    # What is registered of the parties that are given counts as for those that are found, and what is sent more.
    assert results(firewall, "action", ask()) == [("edit",), ("read",)]
    assert results(firewall, "action", ask(resource="b")) == [("read",)]
    assert results(firewall, "subject", ask("edit")) == [("user", "alice")]
    assert results(
        firewall, "action", {**ask(), "resource": {"type": "document", "id": "a", "properties": {"owner": "bob"}}}
    ) == [("read",)]
    assert results(firewall, "action", {**ask(), "resource": {"type": "file", "id": "a"}}) == []
    assert results(firewall, "resource", ask()) == [("document", "a"), ("document", "b")]
    assert results(firewall, "resource", ask("edit")) == [("document", "a")]
    assert results(firewall, "subject", ask()) == [("user", "alice"), ("user", "bob")]
    for kind in ("resource", "subject"):
        assert results(firewall, kind, {**ask(), kind: {"type": "unheard"}}) == []
    before = len(firewall.entries())
    # Somebody would have to meet what is asked for as well.
    assert results(firewall, "action", {**ask(resource="b"), **BOTH}) == [("print",), ("read",)]
    assert results(firewall, "resource", ask("print")) == []
    assert results(firewall, "resource", {**ask("print"), **BOTH}) == [("document", "a"), ("document", "b")]
    # Somebody would have to agree.
    assert results(firewall, "resource", ask("edit", role="sre")) == []
    assert len(firewall.entries()) == before


def test_pages_of_a_search(firewall):
    body = {**ask(), "page": {"limit": 1}}
    first = search(firewall, "resource", body).json()
    assert [one["id"] for one in first["results"]] == ["a"]
    token = first["page"]["next_token"]
    # The certification scenario sends the token and nothing else.
    for page in ({"token": token}, {"limit": 1, "token": token}):
        second = search(firewall, "resource", {**body, "page": page}).json()
        assert ([one["id"] for one in second["results"]], second["page"]["next_token"]) == (["b"], "")
    # A page of none is not the end.
    none = search(firewall, "resource", {**body, "page": {"limit": 0}}).json()
    assert none["results"] == []
    assert none["page"]["next_token"] != ""


def test_who_asks_may_not_look_around(firewall):
    assert search(firewall, "action", ask(), key=firewall.key).status_code == 403


def test_who_is_bound_asks_and_finds_for_itself(serve, database_dsn, tmp_path):
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "p.yaml").write_text(POLICY)
    (tmp_path / "e.yaml").write_text(ENTITIES)

    async def bound() -> str:
        engine = create_engine(database_dsn)
        try:
            scopes = {AccessScope.DECIDE, AccessScope.READ}
            made = await ApiKeyStore(engine).create("b", principal_id="b", scopes=scopes, subjects=["user:bob"])
            return made.key
        finally:
            await engine.dispose()

    key = apart(bound())
    with (
        serve(
            database_dsn,
            MFW_POLICIES__DIRECTORY=str(tmp_path / "policies"),
            MFW_AUTHZEN__ENTITIES=str(tmp_path / "e.yaml"),
        ) as service,
        service.client(key=key) as client,
    ):
        assert client.post("/access/v1/evaluation", json=ask()).status_code == 403
        assert client.post("/access/v1/evaluation", json=ask(subject="bob")).json()["decision"] is True
        many = {"evaluations": [ask(), ask(subject="bob")]}
        both = client.post("/access/v1/evaluations", json=many).json()["evaluations"]
        assert [one["decision"] for one in both] == [False, True]
        assert both[0]["context"]["error"]["status"] == 403
        found = client.post("/access/v1/search/subject", json=ask()).json()["results"]
        assert found == [{"type": "user", "id": "bob"}]
        assert client.post("/access/v1/search/action", json=ask()).status_code == 403


def test_a_change_that_nobody_states_is_doubt(serve, database_dsn, tmp_path):
    (tmp_path / "p.yaml").write_text(
        "apiVersion: mutationfirewall.io/v1\nkind: MutationPolicy\nmetadata: {name: p}\nspec:\n  rules:\n"
        "    - {name: all, effect: allow, when: 'resource.id == \"a\"'}\n"
        "    - {name: big, effect: deny, when: 'change.after.size > 3', message: too big}\n"
    )
    with serve(database_dsn, MFW_POLICIES__DIRECTORY=str(tmp_path)) as service:
        small = {**ask(), "context": {"change": {"before": {}, "after": {"size": 1}}}}
        assert evaluate(service, small).json()["decision"] is True
        unstated = evaluate(service, ask()).json()
        assert unstated["decision"] is False
        assert unstated["context"]["reasons"][0]["rule"] == "big"
        assert unstated["context"]["reason"].startswith("rule_error")


SIGNING_KEY = """\
-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g
-----END PRIVATE KEY-----
"""


def test_metadata_says_where_everything_is(firewall, serve, database_dsn):
    with firewall.client(key="") as client:
        found = client.get("/.well-known/authzen-configuration").json()
    assert found["policy_decision_point"] == firewall.url
    assert found["search_action_endpoint"] == f"{firewall.url}/access/v1/search/action"
    with (
        serve(
            database_dsn, MFW_AUTHZEN__IDENTIFIER="https://pdp.example.com/", MFW_AUTHZEN__SIGNING_KEY=SIGNING_KEY
        ) as named,
        named.client(key="") as client,
    ):
        found = client.get("/.well-known/authzen-configuration").json()
    assert found["access_evaluation_endpoint"] == "https://pdp.example.com/access/v1/evaluation"
    assert found["policy_decision_point"] == "https://pdp.example.com"
    assert (
        found.pop("signed_metadata")
        == metadata_of("https://pdp.example.com", private_key(SIGNING_KEY.encode()))["signed_metadata"]
    )


def test_the_corpus_is_answered_as_on_the_native_route(service):
    """The whole corpus through this surface, and the entries beside the answers."""
    cases = [case for case in load() if "change" in case.mutation]
    items = []
    for case in cases:
        body = {name: case.mutation[name] for name in ("subject", "action", "resource")}
        items.append({**body, "context": {**case.mutation.get("context", {}), "change": case.mutation["change"]}})
    assert len(items) > 100
    with service.client() as client:
        native = client.post("/v1/decisions:batch", json={"mutations": [case.mutation for case in cases]}).json()
        answers = client.post("/access/v1/evaluations", json={"evaluations": items}).json()["evaluations"]
    entries = {identifier: json.loads(receipt) for _, identifier, receipt in service.entries()}
    for case, answer, other in zip(cases, answers, native["results"], strict=True):
        context = answer["context"]
        assert (context["effect"], context["reasons"]) == (other["decision"], other["reasons"]), case.name
        assert context["mutation_digest"] == other["mutation_digest"]
        assert entries[context["evaluation_id"]]["decision"] == context["effect"]


def test_the_five_lines_of_the_page_work(service):
    page = (ROOT / "docs" / "integrations" / "authzen.md").read_text()
    (command,) = re.findall(r"```console\n\$ (curl .*?)```", page, re.DOTALL)
    result = subprocess.run(
        ["bash", "-c", command],
        env={"MFW_URL": service.url, "MFW_API_KEY": service.key, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=True,
    )
    assert json.loads(result.stdout)["decision"] is True, result.stdout
