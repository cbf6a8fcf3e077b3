"""The API document is exact: real answers of every route have what it says, nothing else, and come as it says."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parents[3]
GOOD = json.loads((ROOT / "examples" / "allow-k8s-deployment-scaled.json").read_bytes())
POLICY = (ROOT / "policies" / "starter" / "kubernetes.yaml").read_bytes()
UNKNOWN = "sha256:" + "0" * 64
NO_ID = "5f0c6b0e-8d1f-4c59-9f8a-1c2d3e4f5a6b"
YAML = {"Content-Type": "application/yaml"}


def closed(node: Any) -> Any:
    """The schema with every object closed that names its members: nothing may come that it does not say."""
    if isinstance(node, list):
        return [closed(one) for one in node]
    if not isinstance(node, dict):
        return node
    made = {name: closed(value) for name, value in node.items()}
    if "properties" in made and isinstance(node["properties"], dict) and "type" in made:
        made.setdefault("additionalProperties", False)
    return made


class Checked:
    """Asks, and holds each answer against the document."""

    def __init__(self, service: Any) -> None:
        self.service = service
        with service.client() as client:
            self.document = client.get("/openapi.json").json()
        self.closed = closed({"components": self.document["components"]})
        self.seen: set[tuple[str, str, int]] = set()

    def ask(self, method: str, path: str, route: str | None = None, *, who: str = "key", **options: Any) -> Any:
        with self.service.client(key=getattr(self.service, who) if who else "") as client:
            answer = client.request(method, path, **options)
        route = route or path.partition("?")[0]
        operation = self.document["paths"][route][method.lower()]
        assert str(answer.status_code) in operation["responses"], (method, path, answer.status_code, answer.text)
        told = operation["responses"][str(answer.status_code)]
        self.seen.add((method, route, answer.status_code))
        for name, header in told.get("headers", {}).items():
            optional = answer.status_code == 200 or not header.get("required", True)
            assert optional or name.lower() in answer.headers, (path, name)
        if "content" not in told:
            assert answer.content == b""
            return None
        media = answer.headers["content-type"].partition(";")[0]
        assert media in told["content"], (method, path, media)
        if media == "application/x-ndjson":
            return answer.text
        schema = closed(told["content"][media]["schema"])
        Draft202012Validator({**schema, **self.closed}).validate(answer.json())
        if media == "application/problem+json":
            assert answer.json()["status"] == answer.status_code
        return answer.json()


@pytest.fixture(scope="module")
def checked(service):
    return Checked(service)


def decisions(checked: Checked) -> None:
    ask = checked.ask
    one, many = "/v1/decisions", "/v1/decisions:batch"
    ask("POST", one, json=GOOD)
    denied = ask("POST", one, json=GOOD | {"action": {"name": "defenestrate"}, "request_id": "r"})
    assert denied["decision"] == "deny"
    mixed = ask("POST", many, json={"mutations": [GOOD, {}, GOOD | {"action": {"name": "x"}}]})
    assert mixed["summary"] == {"allow": 1, "deny": 1, "hold": 0, "refused": 1}
    ask("POST", many, json={"mutations": [GOOD, {}], "mode": "atomic"})
    ask("POST", many, content=json.dumps(GOOD) + "\n{}", headers={"Content-Type": "application/x-ndjson"})
    for path, good in ((one, GOOD), (many, {"mutations": [GOOD]})):
        key = {"Idempotency-Key": f"answers-{len(path)}"}
        ask("POST", path, json=good, headers=key)
        ask("POST", path, json=good, headers=key)
        ask("POST", path, json=good | {"x": 1}, headers=key)
        ask("POST", path, json=[])
        ask("POST", path, json=good, who="")
        ask("POST", path, json=good, who="operator_key")
        ask("POST", path, content=b"{}")
        ask("POST", path, content=b" " * 17_000_000, headers={"Content-Type": "application/json"})
    ask("POST", one, json=GOOD | {"rationale": "other"}, headers={"Idempotency-Key": f"answers-{len(one)}"})
    assert ("POST", one, 409) in checked.seen


def records(checked: Checked) -> None:
    def ask(*args: Any, **options: Any) -> Any:
        return checked.ask(*args, **{"who": "admin_key"} | options)

    made = checked.ask("POST", "/v1/decisions", json=GOOD)
    listing, one, entry, erasures = (
        "/v1/decisions",
        "/v1/decisions/{id}",
        "/v1/ledger/entries/{index}",
        "/v1/ledger/erasures",
    )
    deadline = time.monotonic() + 10
    while ask("GET", f"{listing}?limit=1")["indexed"] <= made["ledger_index"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "next" in ask("GET", f"{listing}?limit=1")
    ask("GET", f"{listing}?nonsense=1")
    assert "salt" not in checked.ask("GET", f"/v1/decisions/{made['id']}", one)
    for of in (made["id"], NO_ID, "no-uuid"):
        assert ask("GET", f"/v1/decisions/{of}", one)
    for of in (made["ledger_index"], 2**62, "x"):
        ask("GET", f"/v1/ledger/entries/{of}", entry)
    wanted = {"id": made["id"], "reason": "a test"}
    for body in (wanted, wanted, {}, wanted | {"id": NO_ID}):
        ask("POST", erasures, json=body)
    ask("POST", erasures, content=b"{}")
    ask("POST", erasures, content=b" " * 20_000, headers={"Content-Type": "application/json"})
    assert {("POST", erasures, status) for status in (200, 201, 400, 404, 413, 415)} <= checked.seen
    # With an erased record as well.
    assert ask("GET", f"/v1/decisions/{made['id']}", one)["record_state"] == "erased"
    ask("GET", f"/v1/ledger/entries/{made['ledger_index']}", entry)
    for who in ("", "key"):
        ask("GET", listing, who=who)
        ask("GET", "/v1/ledger/entries/0", entry, who=who)
        ask("POST", erasures, who=who, json=wanted)


def policy_sets(checked: Checked) -> None:
    def ask(*args: Any, **options: Any) -> Any:
        return checked.ask(*args, **{"who": "admin_key"} | options)

    sets = "/v1/policy-sets"
    made = ask("POST", sets, content=POLICY, headers=YAML)
    digest = made["digest"]
    ask("POST", sets, content=POLICY, headers=YAML)
    ask("POST", sets, content=b"kind: nonsense", headers=YAML)
    ask("POST", sets, content=POLICY, headers={"Content-Type": "text/plain"})
    ask("GET", sets)
    ask("GET", f"{sets}?limit=0")
    ask("GET", f"{sets}/active")
    ask("GET", f"{sets}/activations")
    for of in (digest, UNKNOWN):
        ask("GET", f"{sets}/{of}", sets + "/{digest}")
        ask("GET", f"{sets}/{of}/signatures", sets + "/{digest}/signatures")
        ask("POST", f"{sets}/{of}/activate", sets + "/{digest}/activate", json={"reason": "a test"})
    ask("POST", f"{sets}/{digest}/signatures", sets + "/{digest}/signatures", json={})
    for method, route in (("GET", sets), ("POST", sets), ("GET", f"{sets}/active"), ("GET", f"{sets}/activations")):
        ask(method, route, who="")
        ask(method, route, who="key")


def keys(checked: Checked) -> None:
    def ask(*args: Any, **options: Any) -> Any:
        return checked.ask(*args, **{"who": "admin_key"} | options)

    route, one, rotate = "/v1/keys", "/v1/keys/{id}", "/v1/keys/{id}/rotate"
    made = ask("POST", route, json={"name": "answers", "scopes": ["decide"], "reason": "a test"})
    identifier = made.get("id") or made["key"]["id"] if isinstance(made.get("key"), dict) else made["id"]
    ask("POST", route, json={})
    ask("GET", route)
    for of in (identifier, NO_ID, "no-uuid"):
        ask("GET", f"/v1/keys/{of}", one)
        ask("POST", f"/v1/keys/{of}/rotate", rotate, json={"reason": "a test"})
        ask("DELETE", f"/v1/keys/{of}?reason=test", one)
    for who in ("", "key"):
        ask("GET", route, who=who)
        ask("POST", route, who=who, json={})


def switches(checked: Checked) -> None:
    def ask(*args: Any, **options: Any) -> Any:
        return checked.ask(*args, **{"who": "operator_key"} | options)

    route, one = "/v1/switches", "/v1/switches/{id}"
    thrown = ask(
        "POST", route, json={"kind": "deny-subject", "target": "nobody-at-all", "reason": "a test", "for": "1h"}
    )
    ask("POST", route, json={"kind": "nonsense"})
    ask("GET", route)
    identifier = re.search(r'"id": "([0-9a-f-]{36})"', json.dumps(thrown))
    assert identifier is not None
    for of in (identifier[1], NO_ID, "no-uuid"):
        ask("DELETE", f"/v1/switches/{of}?reason=test", one)
    for who in ("", "key"):
        ask("GET", route, who=who)


def others(checked: Checked) -> None:
    for path in ("/health", "/health/live", "/health/ready", "/health/startup"):
        checked.ask("GET", path, who="")
    for path, who in (("/health/detailed", "operator_key"), ("/v1/version", "key")):
        checked.ask("GET", path, who=who)
        checked.ask("GET", path, who="")
        checked.ask("GET", path, headers={"X-API-Key": "two"})
    checked.ask("GET", "/health/detailed", who="key")


def test_every_answer_is_as_the_document_says(checked):
    for part in (decisions, records, policy_sets, keys, switches, others):
        part(checked)
    succeeded = {(method, route) for method, route, status in checked.seen if status < 400}
    documented = {(method.upper(), route) for route, methods in checked.document["paths"].items() for method in methods}
    # The service of this test has its policies from a directory: none is activated, and none is signed.
    from_a_directory = {
        ("POST", "/v1/policy-sets/{digest}/activate"),
        ("POST", "/v1/policy-sets/{digest}/signatures"),
    }
    assert documented - succeeded == from_a_directory
    refused = {(method, route) for method, route, status in checked.seen if status >= 400}
    assert documented - refused == {("GET", f"/health{part}") for part in ("", "/live", "/ready", "/startup")}


def test_an_answer_with_more_than_the_document_says_would_be_seen(checked):
    schema = closed(checked.document["components"]["schemas"]["Problem"])
    problem = {"type": "t", "title": "t", "status": 400, "detail": "d", "request_id": "r"}
    validator = Draft202012Validator(schema)
    assert validator.is_valid(problem)
    assert not validator.is_valid(problem | {"more": 1})
