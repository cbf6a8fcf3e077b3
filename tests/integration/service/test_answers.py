"""The API document is exact: real answers of every route have what it says, nothing else, and come as it says."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jsonschema import Draft202012Validator

from app.core import dsse
from app.core.notes import SignerKey
from app.policies.signatures import merged, sign
from tests.corpus.cases import load
from tests.corpus.deliveries import SECRET, pull_request, signed
from tests.corpus.reviews import review_for

ROOT = Path(__file__).resolve().parents[3]
GOOD = json.loads((ROOT / "examples" / "allow-k8s-deployment-scaled.json").read_bytes())
POLICY = (ROOT / "policies" / "starter" / "kubernetes.yaml").read_bytes()
UNKNOWN = "sha256:" + "0" * 64
NO_ID = "5f0c6b0e-8d1f-4c59-9f8a-1c2d3e4f5a6b"
YAML = {"Content-Type": "application/yaml"}
SIGNER = Ed25519PrivateKey.generate()
PEM = SIGNER.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
SIGNED = {
    "MFW_POLICIES__SOURCE": "database",
    "MFW_POLICIES__DIRECTORY": "",
    "MFW_POLICIES__SIGNERS": json.dumps({"sre": PEM}),
    "MFW_LEDGER__ORIGIN": "answers.example.com/ledger",
    "MFW_LEDGER__SIGNING_KEY": SignerKey.of("answers.example.com/ledger", Ed25519PrivateKey.generate()).text,
}
READING = """\
apiVersion: mutationfirewall.io/v1
kind: MutationPolicy
metadata: {name: reading}
spec:
  match: {resources: [{type: http}]}
  rules:
    - {name: docs, effect: allow, when: "resource.id.contains('/docs/')"}
    - {name: held, effect: hold, when: "resource.id.contains('/held/')", message: ask, approval: {anyOf: [{group: web}]}}
"""
# Forms of answers that no JSON Schema describes.
NOT_JSON = {"text/plain", "application/octet-stream"}
DELIVERED = {
    "MFW_GITHUB__WEBHOOK_SECRET": SECRET,
    "MFW_GITHUB__TOKEN": "t",
    # Not public, so it is not called.
    "MFW_GITHUB__API_URL": "http://127.0.0.1:9",
}
SCARCE = {f"MFW_LIMITS__{name}": "1" for name in ("PER_MINUTE", "BURST", "BATCH_PER_MINUTE", "BATCH_BURST")}


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

    def __init__(self, service: Any, seen: set[tuple[str, str, int]] | None = None) -> None:
        self.service = service
        with service.client() as client:
            self.document = client.get("/openapi.json").json()
        self.closed = closed({"components": self.document["components"]})
        self.seen: set[tuple[str, str, int]] = set() if seen is None else seen

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
        assert media in {form.partition(";")[0] for form in told["content"]}, (method, path, media)
        if media == "application/x-ndjson":
            self.lines(answer.text)
            return answer.text
        if media in NOT_JSON:
            return answer.content
        schema = closed(told["content"][media]["schema"])
        Draft202012Validator({**schema, **self.closed}).validate(answer.json())
        if media == "application/problem+json":
            assert answer.json()["status"] == answer.status_code
        return answer.json()

    def lines(self, text: str) -> None:
        """Each line of a stream is a result of a batch, or the counts."""
        (batch,) = (
            one["schema"]
            for media, one in self.document["paths"]["/v1/decisions:batch"]["post"]["responses"]["200"][
                "content"
            ].items()
            if media == "application/json"
        )
        result = {**closed(resolved(batch, self.document))["properties"]["results"]["items"], **self.closed}
        *told, end = [json.loads(line) for line in text.splitlines()]
        for one in told:
            line = one.pop("line")
            assert line >= 1
            Draft202012Validator(result).validate({"index": line, **one})
        assert end.keys() == {"summary", "lines", "complete"}


def resolved(schema: Any, document: Any) -> Any:
    """What a reference names."""
    reference = schema.get("$ref")
    return document["components"]["schemas"][reference.rpartition("/")[2]] if reference else schema


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
        other = GOOD | {"rationale": "other"}
        ask("POST", path, json=other if path == one else {"mutations": [other]}, headers=key)


def authzen(checked: Checked) -> None:
    ask = checked.ask
    path = "/access/v1/evaluation"
    good = {name: GOOD[name] for name in ("subject", "action", "resource")} | {"context": {"change": GOOD["change"]}}
    assert ask("POST", path, json=good)["decision"] is True
    ask("POST", path, json={})
    ask("POST", path, json=good, who="operator_key")
    many = ask("POST", f"{path}s", json=good | {"evaluations": [{}, {"action": {"name": "x"}}, {"context": 1}]})
    assert [one["decision"] for one in many["evaluations"]] == [True, False, False]
    ask("POST", f"{path}s", json=[])
    for kind in ("subject", "resource", "action"):
        ask("POST", f"/access/v1/search/{kind}", json=good, who="operator_key")
        ask("POST", f"/access/v1/search/{kind}", json={}, who="operator_key")
        ask("POST", f"/access/v1/search/{kind}", json=good)
    ask("GET", "/.well-known/authzen-configuration", who="")


def kubernetes(checked: Checked) -> None:
    ask = checked.ask
    path = "/kubernetes/v1/validate"
    reviews = (review_for(case) for case in load() if case.decision == "allow")
    review = next(one for one in reviews if one is not None)
    for changed in ({}, {"dryRun": True}, {"operation": "PATCH"}):
        told = ask("POST", path, json={**review, "request": {**review["request"], **changed}})
        assert told["response"]["uid"] == "u"
    ask("POST", path, json={})
    ask("POST", path, json=review, who="")
    ask("POST", path, json={}, who="operator_key")


def github(checked: Checked) -> None:
    """Of a service that a GitHub may deliver to, and that cannot reach it."""
    path = "/github/v1/webhook"
    for event, tree in (("ping", {}), ("pull_request", []), ("pull_request", pull_request())):
        body = json.dumps(tree).encode()
        checked.ask("POST", path, content=body, headers=signed(body, event), who="")
    checked.ask("POST", path, json={})
    for status in (200, 400, 401, 503):
        assert ("POST", path, status) in checked.seen


def refusals(checked: Checked) -> None:
    """Each kind of refusal of the decision routes, as it is documented."""
    ask = checked.ask
    for path, body in (("/v1/decisions", GOOD), ("/v1/decisions:batch", {"mutations": [GOOD]})):
        told = ask("POST", path, content=b"{}", headers={"Content-Type": "application/json", "Content-Encoding": "br"})
        assert told["type"].endswith("/unsupported-encoding")
        told = ask("POST", path, content=b"{}", headers={"Content-Type": "text/plain"})
        assert told["type"].endswith("/unsupported-media-type")
        ask("POST", path, json=body, headers={"X-API-Key": "two"})
        for status in (400, 401, 403, 409, 413, 415):
            assert ("POST", path, status) in checked.seen, (path, status)


def limited(checked: Checked) -> None:
    """Of a service that lets nobody do anything twice."""
    for path, body in (("/v1/decisions", GOOD), ("/v1/decisions:batch", {"mutations": [GOOD]})):
        for _ in range(3):
            checked.ask("POST", path, json=body)
        assert ("POST", path, 429) in checked.seen


def signed_and_activated(checked: Checked) -> None:
    def ask(*args: Any, **options: Any) -> Any:
        return checked.ask(*args, **{"who": "admin_key"} | options)

    sets = "/v1/policy-sets"
    digest = ask("POST", sets, content=POLICY, headers=YAML)["digest"]
    signature, activate = f"{sets}/{digest}/signatures", f"{sets}/{digest}/activate"
    (envelope,) = merged([sign(digest, SIGNER)])
    ask("POST", activate, sets + "/{digest}/activate", json={"reason": "not signed"})
    ask("POST", signature, sets + "/{digest}/signatures", json=dsse.tree_of(envelope))
    ask("POST", signature, sets + "/{digest}/signatures", json=dsse.tree_of(envelope))
    ask("GET", signature, sets + "/{digest}/signatures")
    ask("POST", activate, sets + "/{digest}/activate", json={"reason": "a test"})
    # Once more: in force it is already.
    ask("POST", activate, sets + "/{digest}/activate", json={"reason": "a test"})
    for path in (sets, f"{sets}/active", f"{sets}/activations"):
        assert ask("GET", path)
    checked.ask("POST", "/v1/decisions", json=GOOD)


def published(checked: Checked) -> None:
    """Of a service that signs its checkpoints."""

    def ask(*args: Any, **options: Any) -> Any:
        return checked.ask(*args, **{"who": "admin_key"} | options)

    made = checked.ask("POST", "/v1/decisions", json=GOOD)
    one, proof, tile = "/v1/decisions/{id}", "/v1/ledger/entries/{index}/proof", "/ledger/tile/{path}"
    proved = f"/v1/ledger/entries/{made['ledger_index']}/proof"
    deadline = time.monotonic() + 60
    while "hashes" not in (told := ask("GET", proved, proof)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert told["checkpoint"].startswith("answers.example.com/ledger\n")
    assert ask("GET", proved, proof, headers={"Accept": "text/plain"}).startswith(b"c2sp.org/tlog-proof@v1\n")
    assert ask("GET", "/v1/ledger/consistency?from=1")["checkpoint"] == told["checkpoint"]
    ask("GET", "/ledger/checkpoint")
    for path in (f"0/000.p/{told['size']}", f"entries/000.p/{told['size']}", "0/999", "nonsense"):
        ask("GET", f"/ledger/tile/{path}", tile)
    attestation = {"Accept": "application/vnd.in-toto+json"}
    read = f"/v1/decisions/{made['id']}"
    envelope = ask("GET", read, one, headers=attestation)
    assert envelope["signatures"][0]["keyid"].startswith("answers.example.com/ledger+")
    for who in ("", "key"):
        ask("GET", "/ledger/checkpoint", who=who)
        ask("GET", "/ledger/tile/0/000", tile, who=who)
        checked.ask("GET", read, one, who=who, headers=attestation)


def gateways(checked: Checked) -> None:
    route, other = "/envoy/v1/check/{path}", {"X-Mfw-Authorization": "Bearer mfw_no"}
    known = {"X-Mfw-Authorization": f"Bearer {checked.service.key}", "X-Agent-Id": "reader"}
    for method in ("GET", "POST"):
        checked.ask(method, "/envoy/v1/check/docs/a", route, who="", headers=known)
        checked.ask(method, "/envoy/v1/check/held/a", route, who="", headers=known)
        checked.ask(method, "/envoy/v1/check/other", route, who="", headers=known)
        checked.ask(method, "/envoy/v1/check/docs/a", route, who="", headers=other)
        checked.ask(method, "/envoy/v1/check/docs/a", route, who="")
        checked.ask(method, "/envoy/v1/check/docs//a", route, who="", headers=known)
        checked.ask(method, "/envoy/v1/check/docs/a", route, who="", headers=known, content=b" " * 17_000_000)


def agents(checked: Checked) -> None:
    ask = checked.ask
    call = {"name": "x", "arguments": {}}
    assert ask("POST", "/agents/v1/tool-call", json=call)["decision"] == "hold"
    ask("POST", "/agents/v1/tool-call", json={})
    wanted = {"type": "tool_approval_request", "tools": [{"id": "a", "name": "x", "args": {}}]}
    assert ask("POST", "/agents/v1/tool-call", json=wanted)["approvals"][0]["approved"] is False
    hook = {"hook_event_name": "PreToolUse", "tool_name": "x", "tool_input": {}}
    for body in (hook, {}):
        told = ask("POST", "/agents/v1/claude-code", json=body)
        assert told["hookSpecificOutput"]["permissionDecision"] == "deny"
    ask("POST", "/agents/v1/claude-code", json=hook, who="")
    rpc = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    assert ask("POST", "/agents/v1/mcp/check", json={"request": rpc})["error"]["code"] == -32099
    assert ask("POST", "/agents/v1/mcp/check", json={})["error"]["code"] == -32097
    ask("POST", "/agents/v1/mcp/check", json={"request": rpc}, who="")


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
    deadline = time.monotonic() + 60
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
    proof, consistency = "/v1/ledger/entries/{index}/proof", "/v1/ledger/consistency"
    for of in (made["ledger_index"], 2**62, "x"):
        ask("GET", f"/v1/ledger/entries/{of}/proof", proof)
    ask("GET", f"{consistency}?from=0&to=0")
    for query in ("", "?from=0", "?from=2&to=1", f"?from={2**62}"):
        ask("GET", f"{consistency}{query}")
    for path, of in ((f"/v1/decisions/{made['id']}", one), ("/v1/ledger/entries/0/proof", proof)):
        ask("GET", path, of, headers={"Accept": "image/png"})
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
        ask("GET", "/v1/ledger/entries/0/proof", proof, who=who)
        ask("GET", f"{consistency}?from=0&to=0", who=who)
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


def test_every_answer_is_as_the_document_says(checked, serve, database_dsn, tmp_path):
    for part in (decisions, refusals, authzen, kubernetes, agents, records, policy_sets, keys, switches, others):
        part(checked)
    (tmp_path / "reading.yaml").write_text(READING)
    with serve(checked.service.dsn, MFW_POLICIES__DIRECTORY=str(tmp_path)) as reading:
        gateways(Checked(reading, checked.seen))
    with serve(checked.service.dsn, **SCARCE) as scarce:
        limited(Checked(scarce, checked.seen))
    with serve(database_dsn, **SIGNED, **DELIVERED) as other:
        signed_and_activated(Checked(other, checked.seen))
        published(Checked(other, checked.seen))
        github(Checked(other, checked.seen))
    succeeded = {(method, route) for method, route, status in checked.seen if status < 400}
    documented = {(method.upper(), route) for route, methods in checked.document["paths"].items() for method in methods}
    assert documented == succeeded
    refused = {(method, route) for method, route, status in checked.seen if status >= 400}
    assert documented - refused == {
        *(("GET", f"/health{part}") for part in ("", "/live", "/ready", "/startup")),
        ("GET", "/.well-known/authzen-configuration"),
    }


def test_an_answer_with_more_than_the_document_says_would_be_seen(checked):
    schema = closed(checked.document["components"]["schemas"]["Problem"])
    problem = {"type": "t", "title": "t", "status": 400, "detail": "d", "request_id": "r"}
    validator = Draft202012Validator(schema)
    assert validator.is_valid(problem)
    assert not validator.is_valid(problem | {"more": 1})
